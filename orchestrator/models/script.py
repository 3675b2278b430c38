"""Scripts: what a text asks the scripted model to do. Pure; imports `models.port` and `errors` only.

A fenced block with the info string `script` holds YAML:

    turns:
      - thought: First the folder.          # shown as a thought
        calls:                              # tool calls, in this order
          - {tool: code_execution, arguments: {language: bash, code: ls}}
        sleep_ms: 200                       # wait before the turn's first event
        error: {code: model_overloaded, times: 2, message: Busy.}   # the first two attempts fail
        image: iVBORw0KGgo=                 # a PNG as base64, shown after the text
      - text: "There is {{last}}"           # {{last}} is the text of the latest tool result
        chunk: 20                           # characters per delta; without it one delta per step
        again: [nothing, "[1, 2]"]          # what it says instead when the answer's form was not the wanted one
        usage:                              # else estimated, and without a cost
          {input_tokens: 10, output_tokens: 5, input_by_modality: {text: 4, audio: 6}, cost_usd: 0.002}

YAML is read as JSON with a nicer face: plain scalars are null, true, false, numbers or text; aliases, tags and
duplicate keys are refused. Every fault is a `ModelError` with code `model_bad_request` that names line and field.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from orchestrator.errors import ModelError
from orchestrator.models.port import MODALITIES, Usage

ERROR_CODES: Mapping[str, bool] = {
    "model_auth": False,
    "model_bad_request": False,
    "model_context_exceeded": False,
    "model_failed": False,
    "model_overloaded": True,
    "model_quota_exceeded": False,
    "model_rate_limited": True,
    "model_refused": False,
    "model_stream_broken": True,
    "model_unavailable": True,
}
"""The faults that a script can play, and whether the same call may succeed later."""

LANGUAGES = ("python", "bash")
_MAX_SLEEP_MS = 24 * 3600 * 1000
_MAX_AMOUNT = 1_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}(?=[^`]*$)|~{3,})[ \t]*(?P<info>\S*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Call:
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    code: str
    message: str
    times: int
    """How many attempts of the turn fail."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call. What is empty is not emitted."""

    thought: str = ""
    text: str = ""
    image: str = ""
    """Canonical base64 of a PNG."""
    calls: tuple[Call, ...] = ()
    sleep_ms: int = 0
    again: tuple[str, ...] = ()
    """Texts for when it is asked again, in order; the last one stays. Without any the text stays."""
    chunk: int = 0
    """Characters per delta; 0 for one delta per step."""
    error: Fault | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class CodeBlock:
    language: str
    code: str


@dataclass(frozen=True, slots=True)
class Program:
    """What a text asks for: `turns`, or `blocks` where it has no script, or neither."""

    turns: tuple[Turn, ...] | None
    blocks: tuple[CodeBlock, ...]


def parse(text: str) -> Program:
    """The program in a text.

    Raises:
        ModelError: the script is malformed (`model_bad_request`, not retryable); the user's fault.
    """
    scripts = [(line, body) for info, line, body in _fenced(text) if info == "script"]
    if len(scripts) > 1:
        raise _fault(scripts[1][0], "script", "there may be only one script block")
    if scripts:
        return Program(turns=_turns(*scripts[0]), blocks=())
    blocks = tuple(CodeBlock(info, body) for info, _, body in _fenced(text) if info in LANGUAGES)
    return Program(turns=None, blocks=blocks)


def _fenced(text: str) -> list[tuple[str, int, str]]:
    """Fenced blocks in order: first word of the info string, line number of the fence (from 1), content.

    A block that is never closed reaches to the end, as in CommonMark.
    """
    found: list[tuple[str, int, str]] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        start, fence = at, opening["fence"]
        closing = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*")
        while at < len(lines) and not closing.fullmatch(lines[at]):
            at += 1
        body = "".join(line + "\n" for line in lines[start:at])
        found.append((opening["info"], start, body))
        at += 1
    return found


# YAML, reduced to JSON


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # Aliases of aliases grow without bound once they are written out as JSON.
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


for _tag, _pattern, _first in (
    ("null", r"(?:null|~|)", ["n", "~", ""]),
    ("bool", r"(?:true|false)", ["t", "f"]),
    ("int", r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)


class _Reader:
    """Turns YAML nodes into values; knows at which line of the user's text the block begins."""

    def __init__(self, first_line: int) -> None:
        self._first_line = first_line

    def fault(self, node: yaml.Node, field: str, problem: str) -> ModelError:
        return _fault(self._first_line + node.start_mark.line + 1, field, problem)

    def fields(self, node: yaml.Node, path: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        """The members of a mapping; unknown and repeated names are refused."""
        members = self._members(node, path)
        for name, (key, _) in members.items():
            if name not in known:
                closest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"closest known name: {closest[0]}" if closest else f"known: {', '.join(known)}"
                raise self.fault(key, _join(path, name), f"unknown field ({hint})")
        return {name: value for name, (_, value) in members.items()}

    def items(self, node: yaml.Node, path: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.fault(node, path, "expected a list")
        return list(node.value)

    def text(self, node: yaml.Node, path: str) -> str:
        """Any scalar but null, as it is written: `text: 42` is the text 42."""
        if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null"):
            raise self.fault(node, path, "expected text")
        return str(node.value)

    def count(self, node: yaml.Node, path: str, least: int, most: int) -> int:
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":int"):
            raise self.fault(node, path, "expected a whole number")
        number = int(node.value)
        if not least <= number <= most:
            raise self.fault(node, path, f"expected {least} to {most}")
        return number

    def amount(self, node: yaml.Node, path: str) -> Decimal:
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith((":int", ":float")):
            raise self.fault(node, path, "expected a number")
        number = Decimal(node.value)
        if not 0 <= number <= _MAX_AMOUNT:
            raise self.fault(node, path, f"expected 0 to {_MAX_AMOUNT}")
        return number

    def value(self, node: yaml.Node, path: str) -> Any:
        """The node as JSON."""
        if isinstance(node, yaml.MappingNode):
            members = self._members(node, path)
            return {name: self.value(member, _join(path, name)) for name, (_, member) in members.items()}
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{number}]") for number, item in enumerate(node.value)]
        kind = node.tag.rpartition(":")[2]
        match kind:
            case "null":
                return None
            case "bool":
                return node.value == "true"
            case "int":
                return int(node.value)
            case "float":
                return float(node.value)
            case "str":
                return str(node.value)
        raise self.fault(node, path, f"the tag {node.tag!r} is not allowed")

    def _members(self, node: yaml.Node, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fault(node, path, "expected a mapping")
        members: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.fault(key, path, "names must be text")
            if key.value in members:
                raise self.fault(key, _join(path, key.value), "is given twice")
            members[key.value] = (key, value)
        return members


def _turns(first_line: int, body: str) -> tuple[Turn, ...]:
    reader = _Reader(first_line)
    try:
        root = _Loader(body).get_single_node()
        if root is None:
            raise _fault(first_line, "turns", "is missing")
        fields = reader.fields(root, "", ("turns",))
        if "turns" not in fields:
            raise reader.fault(root, "turns", "is missing")
        nodes = reader.items(fields["turns"], "turns")
        if not nodes:
            raise reader.fault(fields["turns"], "turns", "expected at least one turn")
        return tuple(_turn(reader, node, f"turns[{number}]") for number, node in enumerate(nodes))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line + 1 + (mark.line if mark is not None else 0)
        raise _fault(line, "script", f"not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise _fault(first_line, "script", f"not valid YAML: {error}") from error
    except RecursionError as error:
        raise _fault(first_line, "script", "is nested too deeply") from error


def _turn(reader: _Reader, node: yaml.Node, path: str) -> Turn:
    fields = reader.fields(
        node, path, ("thought", "text", "image", "again", "calls", "sleep_ms", "chunk", "error", "usage")
    )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        here = _join(path, name)
        match name:
            case "thought" | "text":
                values[name] = reader.text(field, here)
            case "image":
                values[name] = _image(reader, field, here)
            case "calls":
                items = enumerate(reader.items(field, here))
                values[name] = tuple(_call(reader, item, f"{here}[{number}]") for number, item in items)
            case "again":
                items = enumerate(reader.items(field, here))
                values[name] = tuple(reader.text(item, f"{here}[{number}]") for number, item in items)
            case "sleep_ms":
                values[name] = reader.count(field, here, 0, _MAX_SLEEP_MS)
            case "chunk":
                values[name] = reader.count(field, here, 1, 1 << 30)
            case "error":
                values[name] = _error(reader, field, here)
            case "usage":
                values[name] = _usage(reader, field, here)
    return Turn(**values)


def _image(reader: _Reader, node: yaml.Node, path: str) -> str:
    text = "".join(reader.text(node, path).split())
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise reader.fault(node, path, "expected base64") from error
    if not data.startswith(_PNG):
        raise reader.fault(node, path, "expected a PNG")
    return base64.b64encode(data).decode()


def _call(reader: _Reader, node: yaml.Node, path: str) -> Call:
    fields = reader.fields(node, path, ("tool", "arguments"))
    if "tool" not in fields:
        raise reader.fault(node, _join(path, "tool"), "is missing")
    tool = reader.text(fields["tool"], _join(path, "tool"))
    arguments = reader.value(fields["arguments"], _join(path, "arguments")) if "arguments" in fields else {}
    if not isinstance(arguments, dict):
        raise reader.fault(fields["arguments"], _join(path, "arguments"), "expected a mapping")
    return Call(tool, arguments)


def _error(reader: _Reader, node: yaml.Node, path: str) -> Fault:
    fields = reader.fields(node, path, ("code", "message", "times"))
    if "code" not in fields:
        raise reader.fault(node, _join(path, "code"), "is missing")
    code = reader.text(fields["code"], _join(path, "code"))
    if code not in ERROR_CODES:
        raise reader.fault(fields["code"], _join(path, "code"), f"expected one of {', '.join(ERROR_CODES)}")
    message = reader.text(fields["message"], _join(path, "message")) if "message" in fields else ""
    times = reader.count(fields["times"], _join(path, "times"), 1, 1 << 30) if "times" in fields else 1
    return Fault(code, message or f"The script asked for {code}.", times)


def _usage(reader: _Reader, node: yaml.Node, path: str) -> Usage:
    values: dict[str, Any] = {}
    for name, field in reader.fields(node, path, tuple(each.name for each in dataclasses.fields(Usage))).items():
        here = _join(path, name)
        if name == "cost_usd":
            values[name] = reader.amount(field, here)
        elif name.endswith("_by_modality"):
            told = reader.fields(field, here, MODALITIES)
            values[name] = {key: reader.count(value, _join(here, key), 0, 1 << 53) for key, value in told.items()}
        else:
            values[name] = reader.count(field, here, 0, 1 << 53)
    return Usage(**values)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fault(line: int, field: str, problem: str) -> ModelError:
    return ModelError(f"The script is malformed: line {line}, {field}: {problem}", code="model_bad_request")
