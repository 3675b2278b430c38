"""The six file tools. Paths are relative to /workspace; what the agent's user may do in the sandbox, they may do."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from orchestrator.errors import SandboxGone, ToolError
from orchestrator.sandboxes.handle import FILE_TIMEOUT_S
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.tools.port import Arguments, SandboxTool, ToolContext, ToolResult
from orchestrator.tools.rendering import decode, ending_of, output_of
from orchestrator.wire.content import ImageContent, TextContent

_IMAGE_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_IMAGE_LIMIT_BYTES = 4 << 20


class PathArguments(Arguments):
    path: str = Field(min_length=1, max_length=4096)
    """Relative to /workspace, or absolute."""


class ReadArguments(PathArguments):
    first_line: int | None = Field(default=None, ge=1)
    """Begin at this line; the first is 1."""
    line_count: int | None = Field(default=None, ge=1)
    """Read at most so many lines."""


class ReadFile(SandboxTool):
    name: ClassVar[str] = "read_file"
    description: ClassVar[str] = "Reads a text file, whole or some lines of it. An image file is returned as an image."
    arguments: ClassVar[type[Arguments]] = ReadArguments

    async def carry_out(self, arguments: ReadArguments, context: ToolContext) -> ToolResult:
        wanted = arguments.model_dump(exclude_none=True)
        outcome = await _perform(context, "read", wanted, output_limit_bytes=2 * _IMAGE_LIMIT_BYTES)
        result = _result(context, outcome, path=str, size_bytes=int)
        for signature, media_type in _IMAGE_SIGNATURES.items():
            if outcome.head.startswith(signature):
                return _image(media_type, outcome)
        if result.get("is_binary"):
            raise ToolError(
                f"{result['path']}: a binary file of {result['size_bytes']} bytes; use code to look into it"
            )
        return ToolResult(output_of(_limited(outcome, context.limits.output_limit_bytes)))


class WriteArguments(PathArguments):
    content: str
    """The whole new content."""


class WriteFile(SandboxTool):
    name: ClassVar[str] = "write_file"
    description: ClassVar[str] = "Writes a text file, replacing what is there. Folders on the way are made."
    arguments: ClassVar[type[Arguments]] = WriteArguments

    async def carry_out(self, arguments: WriteArguments, context: ToolContext) -> ToolResult:
        content = arguments.content.encode("utf-8", "replace")
        if len(content) > context.limits.file_limit_bytes:
            raise ToolError(f"the content is longer than {context.limits.file_limit_bytes} bytes")
        outcome = await _perform(context, "write", {"path": arguments.path}, content)
        result = _result(context, outcome, path=str, size_bytes=int)
        verb = "created" if result.get("created") else "replaced"
        return ToolResult(f"{verb} {result['path']} ({result['size_bytes']} bytes)")


class EditArguments(PathArguments):
    old_text: str = Field(min_length=1)
    """Text to replace, exactly as it stands in the file."""
    new_text: str
    """What to put in its place."""
    replace_all: bool = False
    """Replace every occurrence; otherwise `old_text` must occur once."""


class EditFile(SandboxTool):
    name: ClassVar[str] = "edit_file"
    description: ClassVar[str] = "Replaces text in a file. Fails if the text is not there, or is there more than once."
    arguments: ClassVar[type[Arguments]] = EditArguments

    async def carry_out(self, arguments: EditArguments, context: ToolContext) -> ToolResult:
        change = {"old": arguments.old_text, "new": arguments.new_text, "replace_all": arguments.replace_all}
        content = json.dumps(change).encode()
        outcome = await _perform(context, "edit", {"path": arguments.path}, content)
        result = _result(context, outcome, path=str, replacements=int, line=int)
        count = result["replacements"]
        return ToolResult(
            f"edited {result['path']}: {count} replacement{'s'[: count != 1]}, first in line {result['line']}"
        )


class ListArguments(Arguments):
    path: str = Field(default=".", max_length=4096)
    """A folder, relative to /workspace, or absolute."""
    recursive: bool = False
    """Also what is below; .git, node_modules, .venv and __pycache__ are not entered."""


class ListFiles(SandboxTool):
    name: ClassVar[str] = "list_files"
    description: ClassVar[str] = "Lists a folder: type, size in bytes, name."
    arguments: ClassVar[type[Arguments]] = ListArguments

    async def carry_out(self, arguments: ListArguments, context: ToolContext) -> ToolResult:
        outcome = await _perform(context, "list", arguments.model_dump())
        result = _result(context, outcome, is_complete=bool)
        lines = [_entry_line(line) for line in (outcome.head + outcome.tail).splitlines()]
        if not result["is_complete"] or outcome.dropped_bytes:
            lines.append("[… more; list a folder below, or search]")
        return ToolResult("\n".join(lines) or "(empty)")


class SearchArguments(Arguments):
    pattern: str = Field(min_length=1, max_length=1000)
    """A regular expression, matched line by line."""
    path: str = Field(default=".", max_length=4096)
    """A folder or file, relative to /workspace, or absolute."""
    glob: str | None = Field(default=None, max_length=1000)
    """Only files whose name or relative path fits, for example `*.py`."""


class SearchFiles(SandboxTool):
    name: ClassVar[str] = "search_files"
    description: ClassVar[str] = "Searches text files for a regular expression; returns path, line number and line."
    arguments: ClassVar[type[Arguments]] = SearchArguments

    async def carry_out(self, arguments: SearchArguments, context: ToolContext) -> ToolResult:
        outcome = await _perform(context, "search", arguments.model_dump(exclude_none=True))
        result = _result(context, outcome, files=int, is_complete=bool)
        text = output_of(outcome) or f"no match in {result['files']} files"
        return ToolResult(text if result["is_complete"] else f"{text}[… more matches; narrow the search]")


class DeleteFile(SandboxTool):
    name: ClassVar[str] = "delete_file"
    description: ClassVar[str] = "Deletes a file, or a folder with all that is in it."
    arguments: ClassVar[type[Arguments]] = PathArguments

    async def carry_out(self, arguments: PathArguments, context: ToolContext) -> ToolResult:
        outcome = await _perform(context, "delete", {"path": arguments.path})
        result = _result(context, outcome, path=str, type=str)
        return ToolResult(f"deleted {result['type']} {result['path']}")


FILE_TOOLS: tuple[SandboxTool, ...] = (ReadFile(), WriteFile(), EditFile(), ListFiles(), SearchFiles(), DeleteFile())


async def _perform(
    context: ToolContext,
    operation: str,
    arguments: dict[str, Any],
    content: bytes | None = None,
    *,
    output_limit_bytes: int | None = None,
) -> CallOutcome:
    if any("\0" in str(arguments.get(name)) for name in ("path", "glob")):
        raise ToolError("a path cannot contain NUL")
    sandbox = context.sandbox
    limit = output_limit_bytes or context.limits.output_limit_bytes
    return await sandbox.file(
        context.call_id,
        operation,
        arguments,
        content,
        output_limit_bytes=limit,
        output_total_limit_bytes=context.limits.output_total_limit_bytes,
    )


def _result(context: ToolContext, outcome: CallOutcome, **shape: type) -> dict[str, Any]:
    """What the operation did, as far as `shape` names it. A refusal, a time-out and the like are the model's to read.

    Raises:
        ToolError: it was not done. SandboxGone: a guest does not answer like this.
    """
    if outcome.result is None:
        limits = replace(context.limits, call_timeout_s=FILE_TIMEOUT_S)
        raise ToolError(ending_of(outcome, limits)[1:-1] or outcome.verdict.value, code=outcome.verdict.value)
    for name, kind in shape.items():
        if not isinstance(outcome.result.get(name), kind):
            raise SandboxGone(f"the guest's answer cannot be read: {name} is missing")
    return outcome.result


def _limited(outcome: CallOutcome, limit_bytes: int) -> CallOutcome:
    data = outcome.head + outcome.tail
    if outcome.dropped_bytes == 0 and len(data) <= limit_bytes:
        return outcome
    half = limit_bytes // 2
    head, tail = outcome.head[:half], data[-half:]
    total_bytes = len(data) + outcome.dropped_bytes
    return replace(outcome, head=head, tail=tail, dropped_bytes=total_bytes - len(head) - len(tail))


def _image(media_type: str, outcome: CallOutcome) -> ToolResult:
    data = outcome.head + outcome.tail
    if outcome.dropped_bytes or len(data) > _IMAGE_LIMIT_BYTES:
        raise ToolError(f"the image is larger than {_IMAGE_LIMIT_BYTES} bytes; make it smaller with code")
    image = ImageContent(mime_type=media_type, data=base64.b64encode(data).decode())
    return ToolResult([TextContent(text=f"{media_type}, {len(data)} bytes"), image])


def _entry_line(line: bytes) -> str:
    try:
        entry = json.loads(line)
        name = str(entry["name"])
        # A name must not pass for another, nor for two entries; written like this, it can be given to a tool again.
        shown = name if name.isprintable() else json.dumps(name)
        return f"{entry['type']:<9} {entry['size_bytes']:>10}  {shown}"
    except (ValueError, KeyError, TypeError):
        return decode(line)
