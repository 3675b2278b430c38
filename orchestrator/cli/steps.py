"""Shows an interaction's steps in a terminal as they stream.

Knows the wire's events as JSON objects, so that events and fields of a newer server do no harm.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.cli.terminal import neutralise, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_OUTPUT_LINES = 60
"""Lines shown of one result: the head and the tail. `--json` has all."""
_ARGUMENT_CHARS = 200
_THOUGHT, _CALL, _RESULT, _ERROR = "dim italic", "bold cyan", "none", "red"


class StepPrinter:
    """Prints one interaction's events. Call `close` when nothing more comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: dict[int, dict[str, Any]] = {}
        """Steps that have begun and not ended, by index."""
        self._arguments: dict[int, str] = {}
        self._line_is_open = False
        self._progress: Progress | None = None

    def event(self, event: dict[str, Any]) -> None:
        """Shows one event; what it does not know is left out."""
        index = event.get("index")
        match event.get("event_type"):
            case "step.start" if isinstance(index, int):
                self._start(index, event.get("step") or {})
            case "step.delta" if isinstance(index, int):
                self._delta(index, event.get("delta") or {})
            case "step.stop" if isinstance(index, int):
                self._stop(index)
            case "error":
                error = event.get("error") or {}
                self._line(f"error: {error.get('message', '')} [{error.get('code', '')}]", _ERROR)

    def close(self) -> None:
        """Ends an open line and the progress display."""
        self._rest()
        self._end_line()

    def _start(self, index: int, step: dict[str, Any]) -> None:
        self._rest()
        self._end_line()
        self._steps[index] = dict(step)
        self._arguments[index] = ""
        # Servers may put a whole step into its start; then there is no delta.
        for block in step.get("summary") or step.get("content") or []:
            self._content(block, _THOUGHT if step.get("type") == "thought" else "none")
        if "result" in step:
            self._result(step["result"], bool(step.get("is_error")))

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        step = self._steps.get(index, {})
        match delta.get("type"):
            case "thought_summary":
                self._content(delta.get("content") or {}, _THOUGHT)
            case "text" | "image" | "audio" | "video" | "document":
                self._content(delta, "none")
            case "arguments_delta":
                self._arguments[index] = self._arguments.get(index, "") + str(delta.get("arguments", ""))
            case str(kind) if kind.endswith("_call"):
                step["arguments"] = delta.get("arguments") or {}
            case str(kind) if kind.endswith("_result"):
                self._result(delta.get("result"), bool(delta.get("is_error")))

    def _stop(self, index: int) -> None:
        step = self._steps.pop(index, {})
        written = self._arguments.pop(index, "")
        self._end_line()
        kind = str(step.get("type", ""))
        if not kind.endswith("_call"):
            return
        arguments = step.get("arguments") or {}
        if written:
            try:
                arguments = json.loads(written)
            except ValueError:
                arguments = {"": written}
        if kind == "code_execution_call":
            self._code(str(arguments.get("language", "python")), str(arguments.get("code", "")))
        else:
            self._call(str(step.get("name") or kind.removesuffix("_call")), arguments)

    def _code(self, language: str, code: str) -> None:
        from rich.syntax import Syntax

        language = neutralise(language)
        self._line(f"● {language}", _CALL)
        syntax = Syntax(
            neutralise(code).rstrip("\n"), language, theme="ansi_dark", background_color="default", word_wrap=True
        )
        self._console.print(syntax, soft_wrap=False)
        self._work(f"running {language}")

    def _call(self, name: str, arguments: dict[str, Any]) -> None:
        shown = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())
        self._line(f"● {name}({shown})", _CALL)
        self._work(f"running {neutralise(name)}")

    def _result(self, result: Any, is_error: bool) -> None:
        self._rest()
        style = _ERROR if is_error else _RESULT
        if isinstance(result, list):
            for block in result:
                if isinstance(block, dict) and block.get("type") == "text":
                    self._output(str(block.get("text", "")), style)
                else:
                    self._line(f"  {_label(block)}", "magenta")
        elif isinstance(result, str):
            self._output(result, style)
        elif result is not None:
            self._output(json.dumps(result, ensure_ascii=False), style)

    def _output(self, text: str, style: str) -> None:
        lines = neutralise(text).rstrip("\n").split("\n")
        if lines == [""]:
            return
        hidden = len(lines) - _OUTPUT_LINES
        if hidden > 1:
            half = _OUTPUT_LINES // 2
            lines = [*lines[:half], f"… {hidden} lines …", *lines[-half:]]
        for line in lines:
            self._line(f"  {line}", style)

    def _content(self, block: dict[str, Any], style: str) -> None:
        if block.get("type") != "text":
            self._end_line()
            self._line(_label(block), "magenta")
            return
        text = neutralise(str(block.get("text", "")))
        if text:
            self._console.out(text, style=style, highlight=False, end="")
            self._line_is_open = not text.endswith("\n")

    def _line(self, text: str, style: str) -> None:
        self._rest()
        self._end_line()
        self._console.out(neutralise(text), style=style, highlight=False)

    def _end_line(self) -> None:
        if self._line_is_open:
            self._console.out("", highlight=False)
            self._line_is_open = False

    def _work(self, what: str) -> None:
        """Shows that something runs, and for how long, until the next output. Only on a terminal."""
        if not self._console.is_terminal:
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._progress.add_task(what, total=None)
        self._progress.start()

    def _rest(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _label(block: Any) -> str:
    """`[image/png 34 kB]`."""
    if not isinstance(block, dict):
        return "[?]"
    kind = block.get("mime_type") or block.get("type") or "?"
    data = block.get("data")
    extent = size(len(data) * 3 // 4) if isinstance(data, str) else block.get("uri") or ""
    return neutralise(f"[{kind} {extent}]".replace("\n", " "))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _ARGUMENT_CHARS else f"{text[:_ARGUMENT_CHARS]}… ({len(text)} characters)"
