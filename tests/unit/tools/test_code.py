from __future__ import annotations

import pytest

from orchestrator.errors import ToolError
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.outcome import Attachment, CallOutcome, FullDisk, Verdict
from orchestrator.tools.code import CodeArguments, CodeExecution
from orchestrator.tools.port import ToolContext, ToolResult
from tests.fakes.sandboxes import FakeSandbox, outcome

pytestmark = pytest.mark.anyio

LIMITS = Limits(call_timeout_s=7, output_limit_bytes=1000, output_total_limit_bytes=5000, code_limit_bytes=100)


async def run(arguments: CodeArguments, sandbox: FakeSandbox) -> ToolResult:
    context = ToolContext("c1", sandbox.as_sandbox(), LIMITS, lambda _: None)
    return await CodeExecution().carry_out(arguments, context)


@pytest.mark.parametrize("language", ["bash", "python"])
async def test_the_call_carries_id_and_limits(language: str) -> None:
    sandbox = FakeSandbox()
    result = await run(CodeArguments(language=language, code="x"), sandbox)
    (asked,) = sandbox.asked
    assert (asked.verb, asked.call_id, asked.what) == (language, "c1", "x")
    assert asked.fields == {"timeout_s": 7, "output_limit_bytes": 1000, "output_total_limit_bytes": 5000}
    assert result == ToolResult(f"{language}: x\n", is_error=False, verdict="exited", exit_code=0)


@pytest.mark.parametrize(
    ("language", "ended", "content", "is_error"),
    [
        ("bash", outcome("out\n", exit_code=2), "out\n[exit code 2]", True),
        ("python", outcome("Traceback …\nE\n", exit_code=1), "Traceback …\nE\n", True),
        ("python", outcome("x", exit_code=None, verdict=Verdict.TIMEOUT), "x\n[timed out after 7 s; "
         "everything it had started was killed]", True),
        ("python", outcome("", exit_code=3, is_state_lost=True), "[exit code 3; the Python interpreter was restarted: "
         "variables are gone, files are not]", True),
        ("bash", outcome("", exit_code=None, verdict=Verdict.OOM), "[out of memory: the sandbox's memory limit was "
         "reached and what took most of it was killed]", True),
        ("python", outcome("Traceback …\nE\n", verdict=Verdict.DISK_FULL, exit_code=1,
         full=FullDisk("/workspace", 10 << 30, lacks_files=False)), "Traceback …\nE\n[disk full: /workspace has no "
         "room (limit 10 GiB); delete files and try again]", True),
        ("bash", outcome(""), "", False),
    ],
)  # fmt: skip
async def test_what_the_model_reads(language: str, ended: CallOutcome, content: str, is_error: bool) -> None:
    result = await run(CodeArguments(language=language, code="x"), FakeSandbox(ended))
    assert (result.content, result.is_error, result.verdict) == (content, is_error, ended.verdict.value)


async def test_charts_come_back_as_images() -> None:
    result = await run(CodeArguments(code="x"), FakeSandbox(outcome("t", attachments=(Attachment("image/png", b"p"),))))
    assert isinstance(result.content, list)
    assert [block.type for block in result.content] == ["text", "image"]


@pytest.mark.parametrize("code", ["x" * 101, "ä" * 51])
async def test_too_much_code_is_told_to_the_model(code: str) -> None:
    sandbox = FakeSandbox()
    with pytest.raises(ToolError, match="100 bytes"):
        await run(CodeArguments(code=code), sandbox)
    assert sandbox.asked == []


async def test_code_that_is_no_text_is_replaced_and_not_refused() -> None:
    result = await run(CodeArguments(code="'\ud800'"), FakeSandbox(outcome("fine")))
    assert result.content == "fine"
