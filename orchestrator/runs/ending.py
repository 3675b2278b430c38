"""How a run ends: nothing of it goes on inside, no step left open, no call without a result, one last event.

Needs no agent or model, and a sandbox only as far as calls are under way in it, so that every interaction that was
stored can be ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from orchestrator import moments
from orchestrator.clock import Clock
from orchestrator.runs.frame import frame_of
from orchestrator.runs.recorder import Recorder
from orchestrator.store.records import InteractionRow
from orchestrator.tools.forms import FILLERS, AnyCall, arguments_of, form_of_step, result_step, stands, tool_of
from orchestrator.tools.port import ToolResult
from orchestrator.wire import events
from orchestrator.wire.interactions import Interaction, InteractionError, Status

Stop = Callable[[Mapping[str, str]], Awaitable[None]]
"""Ends calls inside, given as ids and the guests that have them."""


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
            if kind in FILLERS and not stands(folder.open_step):
                self._recorder.delta(index, FILLERS[kind])
            self._recorder.end(index)

    def answer(self, call: AnyCall, reason: str) -> None:
        """Gives a call an error for a result: one without any would be the client's to answer."""
        result = ToolResult(f"[no result: {reason}]", is_error=True)
        self._recorder.whole(result_step(form_of_step(call), tool_of(call), call.id, arguments_of(call), result))

    async def write(
        self,
        status: Status,
        reason: str = "",
        error: InteractionError | None = None,
        why: InteractionError | None = None,
    ) -> Status:
        """Ends the run, unless it has ended; returns the status that it has then.

        `error` is also told as an event of its own; `why` is for ends that are no failures, such as a spent budget.

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
            self.answer(call, reason or (why.message if why else error.message if error else status))
        self._recorder.note("run.ended", status=status)
        if error is not None:
            self._recorder.emit(events.ErrorEvent(error=error))
        interaction = Interaction(
            **frame_of(self._row, self._clock.now()),
            status=status,
            usage=self._recorder.usage,
            errors=[each for each in (error, why) if each is not None] or None,
        )
        self._recorder.emit(events.InteractionCompleted(interaction=interaction), status=status)
        await self._recorder.flush()
        moments.passed("run.ended")
        return status
