"""What a model said in a run, read back from the run's log: the exchanges of its turns, for another run to be given.

Pure. Of a turn only what came of it counts: attempts that failed and were made again are left out, as are turns that a
crash cut off. What the model read is not in a log, so nothing of it is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.errors import LogDamaged
from orchestrator.models.cassettes import Cassette, Exchange, Failure, Header, Key
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    MediaOutput,
    ModelEvent,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.store.records import Event
from orchestrator.tools.forms import AnyCall, arguments_of, tool_of
from orchestrator.wire.base import encode_json
from orchestrator.wire.content import TextContent
from orchestrator.wire.events import PUBLIC_KINDS, Folder
from orchestrator.wire.interactions import Usage
from orchestrator.wire.steps import FunctionCall, ModelOutput, Step, Thought


def cassette_of(interaction_id: str, log: Iterable[Event]) -> Cassette:
    """The answers of a stored interaction's model, as a cassette that compares nothing.

    Raises:
        LogDamaged: the log cannot be read back.
    """
    header = Header(interaction=interaction_id, compare=[])
    reading = _Reading()
    for event in log:
        try:
            reading.feed(event)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise LogDamaged(event.kind) from error
    return Cassette.of(header, reading.exchanges())


class _Reading:
    """Goes through a log and gathers what each turn said."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []
        self._usage = Usage()
        self._asked_again = 0
        self._turn: _Turn | None = None
        """The one that is under way."""
        self._summary: tuple[str, ModelUsage] | None = None
        """What was written before the next turn."""

    def feed(self, event: Event) -> None:
        if event.kind in PUBLIC_KINDS:
            if self._turn is not None:
                self._turn.feed(event)
            return
        if event.kind not in ("turn.started", "turn.ended", "answer.refused", "context.shortened"):
            return
        fields = json.loads(event.body)
        if event.kind == "context.shortened":
            self._summary = (fields["summary"], self._own(fields["usage"]))
        elif event.kind == "turn.started":
            self._tell_summary(fields["turn"])
            self._turn = _Turn(Key("turn", fields["turn"], self._asked_again))
        elif event.kind == "answer.refused":
            self._asked_again += 1
        elif self._turn is not None:
            self._exchanges.append(self._turn.ended(fields, self._own(fields["usage"])))
            self._turn = None
            if fields["calls"]:
                self._asked_again = 0

    def _tell_summary(self, turn: int) -> None:
        """However many pieces a summary was written in, the last one says it all."""
        summary, self._summary = self._summary, None
        if summary is not None and summary[0]:
            text, usage = summary
            self._exchanges.append(Exchange(Key("compaction", turn), None, (TextDelta(text), TurnEnd(usage))))

    def exchanges(self) -> list[Exchange]:
        """All of them; a turn that failed for good is the last."""
        failed = [] if self._turn is None or self._turn.failure is None else [self._turn.failed()]
        return [*self._exchanges, *failed]

    def _own(self, so_far: dict[str, Any]) -> ModelUsage:
        """What the turn took: the log has sums."""
        before, now = self._usage, Usage.model_validate(so_far)
        self._usage = now
        return ModelUsage(
            input_tokens=now.total_input_tokens - before.total_input_tokens,
            output_tokens=now.total_output_tokens - before.total_output_tokens,
            thought_tokens=now.total_thought_tokens - before.total_thought_tokens,
            cached_tokens=now.total_cached_tokens - before.total_cached_tokens,
            tool_use_tokens=now.total_tool_use_tokens - before.total_tool_use_tokens,
        )


class _Turn:
    """One attempt of one model call."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._folder = Folder()
        self._arguments: dict[int, list[str]] = {}
        """Of functions, as the model wrote them, by the index of the step."""
        self._indices: list[int] = []
        """Of the steps, in the order of their starts."""
        self.failure: Failure | None = None

    def feed(self, event: Event) -> None:
        fields = json.loads(event.body)
        if event.kind == "error":
            # The run failed of this turn; failures that were tried again are followed by another attempt.
            self.failure = Failure(code=fields["error"]["code"], message=fields["error"]["message"])
        elif event.kind == "step.start":
            self._indices.append(fields["index"])
        if fields.get("index") in self._indices:
            self._folder.feed(event.kind, event.body)
            if fields.get("delta", {}).get("type") == "arguments_delta":
                self._arguments.setdefault(fields["index"], []).append(fields["delta"]["arguments"])

    def ended(self, end: dict[str, Any], usage: ModelUsage) -> Exchange:
        held = [TextDelta(end["held"])] if end.get("held") else []
        last = TurnEnd(usage, is_cut=end.get("is_cut", False))
        return Exchange(self._key, None, (*self._said(end["unshown"]), *held, last))

    def failed(self) -> Exchange:
        return Exchange(self._key, None, tuple(self._said({})), self.failure)

    def _said(self, unshown: dict[str, str]) -> Iterator[ModelEvent]:
        for index, step in zip(self._indices, self._folder.steps, strict=True):
            written = "".join(self._arguments[index]) if index in self._arguments else None
            yield from _events(step, written, unshown)


def _events(step: Step, written: str | None, unshown: dict[str, str]) -> Iterator[ModelEvent]:
    if isinstance(step, ModelOutput):
        for block in step.content:
            yield TextDelta(block.text) if isinstance(block, TextContent) else MediaOutput(block)
    elif isinstance(step, Thought):
        yield from (ThoughtDelta(block.text) for block in step.summary or () if isinstance(block, TextContent))
        if step.signature is not None:
            yield ThoughtSignature(step.signature)
    elif isinstance(step, AnyCall):
        yield CallStart(tool_of(step))
        if written is None and not (isinstance(step, FunctionCall) and not step.arguments):
            written = unshown.get(step.id, encode_json(arguments_of(step)).decode())
        if written:
            yield CallDelta(written)
