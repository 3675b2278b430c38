"""How a run ends: nothing of it goes on inside, no step left open, no call without a result, one last event.

Needs no agent or model, and a sandbox only as far as calls are under way in it, so that every interaction that was
stored can be ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from orchestrator import moments
from orchestrator.clock import Clock, rfc3339
from orchestrator.runs.recorder import AnyCall, Recorder
from orchestrator.store.port import InteractionRow
from orchestrator.wire import events
from orchestrator.wire.interactions import Interaction, InteractionError, Status
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionResult,
    Step,
)

Stop = Callable[[Mapping[str, str]], Awaitable[None]]
"""Ends calls inside, given as ids and the guests that have them."""

_BROKEN_OFF = "[no result: writing it broke off]"
_FILLERS: Mapping[str, events.Delta] = {
    "code_execution_call": events.CodeExecutionCallDelta(arguments=CodeArguments(code="")),
    "code_execution_result": events.CodeExecutionResultDelta(result=_BROKEN_OFF, is_error=True),
    "function_result": events.FunctionResultDelta(result=_BROKEN_OFF, is_error=True),
}
"""What lets a step stand of which only the beginning was written."""


class Ending:
    """Writes the end of one run."""

    def __init__(self, row: InteractionRow, recorder: Recorder, clock: Clock, stop: Stop) -> None:
        self._row = row
        self._recorder = recorder
        self._clock = clock
        self._stop = stop

    def close_steps(self) -> None:
        """Ends steps that were begun and not stopped: whoever wrote them is gone. What is missing is filled in."""
        folder = self._recorder.folder
        for index, kind in folder.open_types.items():
            if folder.open_step is None and kind in _FILLERS:
                self._recorder.delta(index, _FILLERS[kind])
            self._recorder.end(index)

    def answer(self, call: AnyCall, reason: str) -> None:
        """Gives a call an error for a result: one without any would be the client's to answer."""
        self._recorder.whole(_no_result(call, reason))

    async def write(self, status: Status, reason: str = "", error: InteractionError | None = None) -> Status:
        """Ends the run, unless it has ended; returns the status that it has then.

        Raises:
            LeaseLost, StoreError: the end could not be written.
        """
        if (ended := self._recorder.ended) is not None:
            # A cancel that comes while the end is being written changes nothing: a run ends once.
            await self._recorder.flush()
            return ended
        moments.passed("run.ending")
        if calls := self._recorder.in_flight:
            # First: a process that works on after its run has ended is one that nobody asked for.
            await self._stop(calls)
        self.close_steps()
        for call in self._recorder.unanswered if status != "requires_action" else ():
            self.answer(call, reason or (error.message if error is not None else status))
        self._recorder.note("run.ended", status=status)
        if error is not None:
            self._recorder.emit(events.ErrorEvent(error=error))
        interaction = Interaction(
            id=self._row.id,
            status=status,
            agent=self._row.agent,
            created=rfc3339(self._row.created),
            updated=rfc3339(self._clock.now()),
            environment_id=self._row.environment_id,
            usage=self._recorder.usage,
            errors=[error] if error is not None else None,
        )
        self._recorder.emit(events.InteractionCompleted(interaction=interaction), status=status)
        await self._recorder.flush()
        moments.passed("run.ended")
        return status


def _no_result(call: AnyCall, reason: str) -> Step:
    text = f"[no result: {reason}]"
    if isinstance(call, CodeExecutionCall):
        return CodeExecutionResult(call_id=call.id, result=text, is_error=True)
    return FunctionResult(call_id=call.id, name=call.name, result=text, is_error=True)
