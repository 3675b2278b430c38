"""The tool `code_execution`: bash, and Python whose state lasts between calls."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.errors import ToolError
from orchestrator.tools.port import Arguments, SandboxTool, ToolContext, ToolResult
from orchestrator.tools.rendering import ending_of, output_of, with_ending, with_images


class CodeArguments(Arguments):
    language: Literal["python", "bash"] = "python"
    """`python` keeps its variables between calls; each `bash` call is a fresh shell."""
    code: str
    """The program. Python prints the value of a last expression, as an interactive session does."""


class CodeExecution(SandboxTool):
    name: ClassVar[str] = "code_execution"
    description: ClassVar[str] = (
        "Runs code in the sandbox, in /workspace, and returns its combined output. Python keeps variables and imports "
        "between calls, and charts that matplotlib shows or saves come back as images. A failing program's last line "
        "says its exit code."
    )
    arguments: ClassVar[type[Arguments]] = CodeArguments

    async def carry_out(self, arguments: CodeArguments, context: ToolContext) -> ToolResult:
        limits = context.limits
        if len(arguments.code.encode("utf-8", "replace")) > limits.code_limit_bytes:
            raise ToolError(f"the code is longer than {limits.code_limit_bytes} bytes; put it into a file in pieces")
        sandbox = context.sandbox
        verb = sandbox.python if arguments.language == "python" else sandbox.bash
        outcome = await verb(
            context.call_id,
            arguments.code,
            timeout_s=limits.call_timeout_s,
            output_limit_bytes=limits.output_limit_bytes,
            output_total_limit_bytes=limits.output_total_limit_bytes,
            on_output=context.on_output,
        )
        # A Python traceback says enough; "exit code 1" below it would only be noise.
        is_traceback = arguments.language == "python" and outcome.verdict == "exited" and not outcome.is_state_lost
        ending = "" if is_traceback else ending_of(outcome, limits)
        text = with_ending(output_of(outcome), ending)
        return ToolResult(
            content=with_images(text, outcome),
            is_error=not outcome.is_ok,
            verdict=outcome.verdict.value,
            exit_code=outcome.exit_code,
        )
