"""What a log is left with when somebody stops in the middle: steps without a stop, calls without a result. Ends them.

Only queues events; whoever calls sees to it that they are stored.
"""

from __future__ import annotations

from orchestrator.runs.recorder import Recorder
from orchestrator.tools.forms import FILLERS, AnyCall, arguments_of, form_of_step, result_step, stands, tool_of
from orchestrator.tools.port import ToolResult
from orchestrator.wire.events import TextDelta

_BROKEN = "the model's answer broke off"
_MARK = f"\n\n[{_BROKEN} here and begins again]\n\n"


def close_steps(recorder: Recorder, *, is_partial: bool = False) -> None:
    """Ends steps that were begun and not stopped. What is missing is filled in; `is_partial` marks them."""
    for index, kind in recorder.folder.open_types.items():
        if kind in FILLERS and not stands(recorder.folder.open_step):
            recorder.delta(index, FILLERS[kind])
        if is_partial and kind == "model_output":
            recorder.delta(index, TextDelta(text=_MARK))  # clients join texts that stand side by side
        recorder.end(index, is_partial=is_partial)


def answer(recorder: Recorder, call: AnyCall, reason: str) -> None:
    """Gives a call an error for a result: one without any would be the client's to answer."""
    result = ToolResult(f"[no result: {reason}]", is_error=True)
    recorder.whole(result_step(form_of_step(call), tool_of(call), call.id, arguments_of(call), result))


def break_turn(recorder: Recorder) -> None:
    """Ends a turn that will be asked again: readers see how far it came, its model is told nothing of it.

    Its calls were never made.
    """
    close_steps(recorder, is_partial=True)
    for call in recorder.unanswered:
        if call.id not in recorder.called:
            answer(recorder, call, _BROKEN)
    recorder.note("turn.broken")
