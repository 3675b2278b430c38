"""Writing a run's log: the only place that turns what happens in a run into events, and the view folded from them.

Events are queued in order and appended in groups: while one append is being made durable, the next gathers. `flush`
waits until all is durable; what must be stored before the next thing happens is flushed by whoever makes it happen.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.agents.guidance import NO_GUIDANCE, Guidance
from orchestrator.errors import LeaseLost, LogDamaged, StoreError
from orchestrator.runs.transcript import Transcript
from orchestrator.store.port import Store
from orchestrator.store.records import Event, NewEvent
from orchestrator.tools.forms import AnyCall, AnyResult
from orchestrator.tools.gate import Asked
from orchestrator.tools.hooks import Answer
from orchestrator.tools.mediator import Begun
from orchestrator.wire import events
from orchestrator.wire.base import encode_json
from orchestrator.wire.content import TextContent
from orchestrator.wire.events import Folder, PublicEvent
from orchestrator.wire.interactions import TERMINAL_STATUSES, Status, Usage, output_text
from orchestrator.wire.steps import ModelOutput, Step

_QUEUE_LIMIT = 512
"""Events that may wait for the disk before whoever makes more has to wait too."""


class Recorder:
    """The log of one run, as its only writer sees it."""

    def __init__(
        self,
        store: Store,
        interaction_id: str,
        generation: int,
        stored: Sequence[Event],
        *,
        passes_over_damage: bool = False,
    ) -> None:
        """`stored` is the log so far. Raises `LogDamaged`, unless what cannot be read is to be passed over."""
        self.interaction_id = interaction_id
        self.transcript = Transcript()
        self.journal: Counter[str] = Counter()
        """How many entries of each of the journal's kinds are in the log."""
        self.called: set[str] = set()
        """Ids of the tool calls of turns that ended: these were made, others were only begun."""
        self.is_answered = False
        """Whether the last turn ended without a call: only the run's end is missing."""
        self.is_cut = False
        """Whether its model stopped because it may not say more."""
        self.unshown: dict[str, str] = {}
        """Arguments, as the model sent them, of calls whose steps cannot show them."""
        self.begun: dict[str, Begun] = {}
        """Tool calls that were about to be sent."""
        self.hooks: dict[str, Asked] = {}
        """Hooks that were asked about calls, by the ids of their own runs inside."""
        self.held: str | None = None
        """The answer of the last turn, where it is looked at before it is shown; not once it was refused."""
        self.held_at: int | None = None
        """Index of the step that shows it, once that was begun."""
        self.asked_again = 0
        """How many refused answers the turn that is asked next has had."""
        self.guidance = NO_GUIDANCE
        """What the environment told when the run began."""
        self.usage = Usage()
        """Of all turns that ended and summaries, as the last of them noted it."""
        self.untold: Usage | None = None
        """What of it no step has told: of summaries, and turns whose text is held, or that showed nothing."""
        self.measured = (0, 0)
        """Input tokens of the last turn: as the provider counted them, and as they were reckoned before."""
        self.context_exceeded_tokens: int | None = None
        """The least that the provider refused as too long."""
        self._reckoned_tokens = 0
        self._store = store
        self._generation = generation
        self._passes_over_damage = passes_over_damage
        self._next_seq = 1
        self._index = 0
        self._queue: list[NewEvent] = []
        self._status: Status | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failure: LeaseLost | StoreError | None = None
        for event in stored:
            self._fold(event.kind, event.body)
            self._next_seq = event.seq + 1
        self._index = self.folder.next_index

    @property
    def folder(self) -> Folder:
        """The run as readers see it."""
        return self.transcript.folder

    @property
    def ended(self) -> Status | None:
        """The status of the run's end, once that was emitted; whether it is durable yet is another question."""
        status = self.folder.status
        return status if status in TERMINAL_STATUSES else None

    @property
    def unanswered(self) -> list[AnyCall]:
        """The calls in the log that have no result, those of the client included."""
        steps = self.folder.steps
        answered = {step.call_id for step in steps if isinstance(step, AnyResult)}
        return [step for step in steps if isinstance(step, AnyCall) and step.id not in answered]

    @property
    def in_flight(self) -> dict[str, str]:
        """Calls, and hooks that were asked about calls, that may go on inside: those that were about to be sent and
        have no result. Id → guest.
        """
        unanswered = {step.id for step in self.unanswered}
        calls = {each: self.begun[each].guest for each in unanswered if each in self.begun}
        asked = {
            hook_id: hook.guest
            for hook_id, hook in self.hooks.items()
            if hook.answer is None and hook.call_id in unanswered
        }
        return {**calls, **asked}

    @property
    def last_guest(self) -> str | None:
        """The guest that had the latest call with a result."""
        in_flight = self.in_flight
        had = [begun.guest for call_id, begun in self.begun.items() if call_id not in in_flight]
        return had[-1] if had else None

    def note(self, kind: str, **fields: Any) -> None:
        """Queues an entry of the journal, which stream readers do not see."""
        self._put(kind, encode_json(fields))

    def emit(self, event: PublicEvent, *, status: Status | None = None) -> None:
        """Queues a public event; `status` becomes the interaction's with it."""
        if status is not None:
            self._status = status
        self._put(event.event_type, events.encode(event, self._next_seq + len(self._queue)))

    def begin(self, step: dict[str, Any]) -> int:
        """Queues the start of a step and returns its index."""
        index, self._index = self._index, self._index + 1
        self.emit(events.StepStart(index=index, step=step))
        return index

    def delta(self, index: int, delta: events.Delta) -> None:
        """Queues a piece of a step."""
        self.emit(events.StepDelta(index=index, delta=delta))

    def end(self, index: int, step_usage: Usage | None = None, *, is_partial: bool = False) -> None:
        """Queues the end of a step, with the usage so far and what of it is this step's own."""
        partial = True if is_partial else None
        self.emit(events.StepStop(index=index, usage=self.usage, step_usage=step_usage, is_partial=partial))

    def whole(self, step: Step, step_usage: Usage | None = None) -> None:
        """Queues a complete step."""
        for event in events.step_events(step, self._index, usage=self.usage, step_usage=step_usage):
            self.emit(event)
        self._index += 1

    def show_held(self, text: str) -> None:
        """Queues the held answer, as a step with `text`; or its rest, if an earlier holder was lost in the middle."""
        if self.held_at is None:
            if text:
                self.whole(ModelOutput(content=[TextContent(text=text)]), self.untold)
        elif self.held_at in self.folder.open_types:
            begun = self.folder.open_step
            shown = output_text([begun]) if begun is not None else ""
            if missing := text[len(shown) :]:
                self.delta(self.held_at, events.TextDelta(text=missing))
            self.end(self.held_at, self.untold)

    async def flush(self) -> None:
        """Returns when everything queued so far is durable and visible.

        Raises:
            LeaseLost: another holder has the run. StoreError: the database refused; the run cannot go on.
        """
        await self.settle()
        if self._failure is not None:
            raise self._failure

    async def settle(self) -> None:
        """Returns when nothing is being written any more, whether it could be or not: another may take over the log."""
        while self._failure is None and (self._writing is not None or self._queue):
            await asyncio.shield(self._start_writing())

    async def breathe(self) -> None:
        """Waits only if too much is queued: for whoever makes many small events."""
        if len(self._queue) >= _QUEUE_LIMIT:
            await self.flush()
        elif self._failure is not None:
            raise self._failure

    def _put(self, kind: str, body: bytes) -> None:
        if self._failure is not None:
            return  # nothing more can be written; `flush` says so
        self._queue.append(NewEvent(kind, body))
        self._fold(kind, body)
        self._start_writing()

    def _fold(self, kind: str, body: bytes) -> None:
        try:
            if kind in events.PUBLIC_KINDS:
                if kind == "step.start" and self.held is not None and self.held_at is None:
                    self.held_at = self.folder.next_index
            else:
                self._fold_journal(kind, body)
            self.transcript.feed(kind, body)
        except LogDamaged:
            if not self._passes_over_damage:
                raise

    def _fold_journal(self, kind: str, body: bytes) -> None:
        self.journal[kind] += 1
        try:
            if kind == "tool.started":
                call = json.loads(body)
                self.begun[call["call_id"]] = Begun(call["guest"])
            elif kind == "tool.output":
                output = json.loads(body)
                begun = self.begun[output["call_id"]]
                self.begun[output["call_id"]] = replace(begun, shown_bytes=output.get("until_bytes", 0))
            elif kind == "hook.started":
                hook = json.loads(body)
                self.hooks[hook["hook_id"]] = Asked(hook["call_id"], hook["guest"])
            elif kind == "hook.ended":
                hook = json.loads(body)
                asked = self.hooks.get(hook["hook_id"]) or Asked(hook["call_id"], "")
                self.hooks[hook["hook_id"]] = replace(asked, answer=Answer(hook["decision"], hook["reason"]))
            elif kind == "context.read":
                self.guidance = Guidance.parse(json.loads(body))
            elif kind == "answer.refused":
                self.is_answered, self.held, self.held_at = False, None, None
                self.asked_again += 1
            elif kind == "turn.ended":
                turn = json.loads(body)
                self.called.update(turn["calls"])
                self.is_answered = not turn["calls"]
                self.is_cut = turn.get("is_cut", False)
                self.held, self.held_at = turn.get("held"), None
                if turn["calls"]:
                    self.asked_again = 0
                self.unshown.update(turn["unshown"])
                self.usage = Usage.model_validate(turn["usage"])
                self.untold = _usage(turn.get("untold"))
                self.measured = (turn.get("counted_tokens", 0), self._reckoned_tokens)
            elif kind == "turn.started":
                self._reckoned_tokens = json.loads(body).get("reckoned_tokens", 0)
            elif kind == "context.shortened":
                shortened = json.loads(body)
                self.usage = Usage.model_validate(shortened["usage"])
                self.untold = _usage(shortened.get("untold"))
            elif kind == "context.exceeded":
                tokens = int(json.loads(body)["tokens"])
                self.context_exceeded_tokens = min(tokens, self.context_exceeded_tokens or tokens)
        except (KeyError, TypeError, ValueError) as error:
            raise LogDamaged(kind) from error

    def _start_writing(self) -> asyncio.Task[None]:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"log-{self.interaction_id}")
        return self._writing

    async def _write(self) -> None:
        try:
            while self._queue and self._failure is None:
                batch, status = self._queue, self._status
                expected = self._next_seq
                self._next_seq += len(batch)
                self._queue, self._status = [], None
                await self._store.append(
                    self.interaction_id, batch, generation=self._generation, expected_seq=expected, status=status
                )
        except (LeaseLost, StoreError) as error:
            self._failure = error
            self._queue = []
        finally:
            self._writing = None


def _usage(noted: Any) -> Usage | None:
    return None if noted is None else Usage.model_validate(noted)
