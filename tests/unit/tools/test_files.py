from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import SandboxGone, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.outcome import CallError, CallOutcome, FullDisk, Verdict
from orchestrator.tools.files import FILE_TOOLS
from orchestrator.tools.port import ToolContext, ToolResult
from tests.fakes.sandboxes import FakeSandbox, done, outcome

pytestmark = pytest.mark.anyio

TOOLS = {tool.name: tool for tool in FILE_TOOLS}
LIMITS = Limits(output_limit_bytes=100, file_limit_bytes=50)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


async def run(name: str, sandbox: FakeSandbox, **arguments: Any) -> ToolResult:
    tool = TOOLS[name]
    context = ToolContext("c1", sandbox.as_sandbox(), LIMITS, lambda _: None)
    return await tool.carry_out(tool.arguments.model_validate(arguments), context)


async def said(name: str, ended: CallOutcome, **arguments: Any) -> str:
    content = (await run(name, FakeSandbox(ended), **arguments)).content
    assert isinstance(content, str)
    return content


def refused(code: str, message: str) -> CallOutcome:
    return outcome(exit_code=None, verdict=Verdict.REFUSED, error=CallError(code, message))


async def test_read() -> None:
    sandbox = FakeSandbox(done("content\n", path="/workspace/x", size_bytes=8, is_binary=False))
    result = await run("read_file", sandbox, path="x", first_line=2, line_count=3)
    assert result == ToolResult("content\n")
    (asked,) = sandbox.asked
    assert (asked.verb, asked.call_id) == ("read", "c1")
    assert {name: asked.fields[name] for name in ("path", "first_line", "line_count")} == {
        "path": "x",
        "first_line": 2,
        "line_count": 3,
    }


async def test_read_is_cut_at_the_limit_between_characters() -> None:
    text = await said("read_file", done("ä" * 200, path="x", size_bytes=400, is_binary=False), path="x")
    head, _, tail = text.partition("\n[… 300 bytes of output dropped …]\n")
    assert head == tail == "ä" * 25


async def test_read_of_a_picture_is_the_picture() -> None:
    result = await run("read_file", FakeSandbox(done(PNG, path="x", size_bytes=len(PNG), is_binary=True)), path="x")
    assert isinstance(result.content, list)
    assert [block.type for block in result.content] == ["text", "image"]


async def test_read_of_a_picture_that_is_too_large() -> None:
    ended = done(PNG, path="x", size_bytes=1 << 30, is_binary=True)
    ended = outcome(PNG, exit_code=None, verdict=Verdict.DONE, result=ended.result, dropped_bytes=1 << 30)
    with pytest.raises(ToolError, match="larger than"):
        await said("read_file", ended, path="x")


async def test_read_of_what_is_no_text() -> None:
    with pytest.raises(ToolError, match="binary file of 5 bytes"):
        await said("read_file", done(b"\0\1\2\3\4", path="/workspace/x", size_bytes=5, is_binary=True), path="x")


async def test_write() -> None:
    sandbox = FakeSandbox(done(path="/workspace/x", size_bytes=7, created=True))
    assert (await run("write_file", sandbox, path="x", content="content")).content == "created /workspace/x (7 bytes)"
    assert sandbox.asked[0].content == b"content"
    assert "replaced" in await said("write_file", done(path="x", size_bytes=7, created=False), path="x", content="")


async def test_write_has_a_limit() -> None:
    sandbox = FakeSandbox()
    with pytest.raises(ToolError, match="50 bytes"):
        await run("write_file", sandbox, path="x", content="ä" * 26)
    assert sandbox.asked == []


async def test_edit() -> None:
    sandbox = FakeSandbox(done(path="/workspace/x", replacements=1, line=4))
    result = await run("edit_file", sandbox, path="x", old_text='a "quoted" ä', new_text="")
    assert result.content == "edited /workspace/x: 1 replacement, first in line 4"
    assert json.loads(sandbox.asked[0].content or b"") == {"old": 'a "quoted" ä', "new": "", "replace_all": False}
    assert "2 replacements" in await said(
        "edit_file", done(path="x", replacements=2, line=1), path="x", old_text="a", new_text="b"
    )


def entry(name: str, kind: str = "file", size: int = 5) -> str:
    return json.dumps({"name": name, "type": kind, "size_bytes": size, "modified": 0.0}) + "\n"


async def test_list() -> None:
    listing = entry("a.txt") + entry("src", "directory", 4096)
    assert await said("list_files", done(listing, path="/workspace", count=2, is_complete=True)) == (
        "file               5  a.txt\ndirectory       4096  src"
    )
    assert await said("list_files", done("", path="/workspace", count=0, is_complete=True)) == "(empty)"
    assert "more" in await said("list_files", done(listing, path="/workspace", count=2, is_complete=False))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("new\nline", '"new\\nline"'),
        ("file 0  fake\nfile               0  other", '"file 0  fake\\nfile               0  other"'),
        ("\u202egnp.exe", '"\\u202egnp.exe"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("caf\udce9", '"caf\\udce9"'),
    ],
    ids=ascii,
)
async def test_a_name_cannot_look_like_something_else(name: str, shown: str) -> None:
    """One entry is one line; what a terminal or a reader would misread is written out."""
    listing = await said("list_files", done(entry(name), path="/workspace", count=1, is_complete=True))
    assert listing == f"file               5  {shown}"


async def test_search() -> None:
    found = "/workspace/a.py:3: needle\n"
    sandbox = FakeSandbox(done(found, path="/workspace", matches=1, files=4, is_complete=True))
    assert (await run("search_files", sandbox, pattern="nee.le", glob="*.py")).content == found
    assert sandbox.asked[0].fields["glob"] == "*.py"
    nothing = done("", path="/workspace", matches=0, files=4, is_complete=True)
    assert await said("search_files", nothing, pattern="x") == "no match in 4 files"
    more = done(found, path="/workspace", matches=200, files=4, is_complete=False)
    assert (await said("search_files", more, pattern="x")).endswith("needle\n[… more matches; narrow the search]")


async def test_delete() -> None:
    assert await said("delete_file", done(path="/workspace/x", type="directory"), path="x") == (
        "deleted directory /workspace/x"
    )


@pytest.mark.parametrize("name", sorted(TOOLS))
async def test_refusals_are_told_to_the_model_as_they_are(name: str) -> None:
    arguments = {"write_file": {"content": ""}, "edit_file": {"old_text": "a", "new_text": ""}}.get(name, {})
    if name == "search_files":
        arguments = {"pattern": "x"}
    with pytest.raises(ToolError) as caught:
        await said(name, refused("enoent", "[odd]/x: No such file [2]"), path="x", **arguments)
    assert caught.value.message == "[odd]/x: No such file [2]"


async def test_a_time_out_names_the_time() -> None:
    with pytest.raises(ToolError, match="after 60 s") as caught:
        await said("read_file", outcome(exit_code=None, verdict=Verdict.TIMEOUT), path="x")
    assert caught.value.code == "timeout"


async def test_a_full_disk_says_what_to_do() -> None:
    full = FullDisk("/workspace", 10 << 30, lacks_files=False)
    error = CallError("enospc", "x: No space left on device")
    ended = outcome(exit_code=None, verdict=Verdict.DISK_FULL, error=error, full=full)
    with pytest.raises(ToolError) as caught:
        await said("write_file", ended, path="x", content="")
    assert caught.value.code == "disk_full"
    assert caught.value.message == "disk full: /workspace has no room (limit 10 GiB); delete files and try again"


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("read_file", {}, {}),
        ("read_file", {}, {"path": "x", "is_binary": True, "size_bytes": None}),
        ("write_file", {"content": ""}, {"path": "x"}),
        ("write_file", {"content": ""}, {"path": "x", "size_bytes": "many"}),
        ("edit_file", {"old_text": "a", "new_text": "b"}, {"path": "x", "replacements": 1}),
        ("list_files", {}, {}),
        ("search_files", {"pattern": "x"}, {"is_complete": True}),
        ("delete_file", {}, {"path": ["x"], "type": "file"}),
    ],
)
async def test_a_result_of_another_shape_is_no_answer_of_a_guest(
    name: str, arguments: dict[str, Any], result: dict[str, Any]
) -> None:
    with pytest.raises(SandboxGone):
        await said(name, done("", **result), path="x", **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", {}),
        ("read_file", {"path": ""}),
        ("read_file", {"path": "x", "first_line": 0}),
        ("read_file", {"path": "x", "line_count": -1}),
        ("read_file", {"path": "x" * 5000}),
        ("read_file", {"path": "x", "encoding": "latin-1"}),
        ("write_file", {"path": "x"}),
        ("edit_file", {"path": "x", "old_text": "", "new_text": "y"}),
        ("search_files", {"pattern": ""}),
        ("delete_file", {"path": 5}),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TOOLS[name].arguments.model_validate(arguments)


@pytest.mark.parametrize("field", ["path", "glob"])
async def test_nul_is_refused_before_anything_is_asked(field: str) -> None:
    sandbox = FakeSandbox()
    with pytest.raises(ToolError, match="NUL"):
        await run("search_files", sandbox, **{"pattern": "x", field: "a\0b"})
    assert sandbox.asked == []


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_models_see_a_plain_schema(name: str) -> None:
    spec = TOOLS[name].spec()
    assert (spec.name, spec.description) == (name, TOOLS[name].description)
    assert spec.parameters["type"] == "object"
    assert spec.parameters["additionalProperties"] is False
    for field, schema in spec.parameters["properties"].items():
        assert schema["description"], field
