"""How a run ends: nothing of it goes on inside, no step left open, no call without a result, one last event.

Needs no agent or model, and a sandbox only as far as calls are under way in it, so that every interaction that was
stored can be ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from orchestrator import moments
from orchestrator.clock import Clock
from orchestrator.runs.frame import frame_of
from orchestrator.runs.loose_ends import answer, close_steps
from orchestrator.runs.recorder import Recorder
from orchestrator.store.records import InteractionRow
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
        close_steps(self._recorder)
        for call in self._recorder.unanswered if status != "requires_action" else ():
            answer(self._recorder, call, reason or (why.message if why else error.message if error else status))
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
