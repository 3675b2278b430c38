"""From events back to steps. No I/O.

A run is a function of its log: `Folder` reads the bodies that `orchestrator.wire.events.encode` wrote and rebuilds the
steps, the status and the usage. Kinds that are not public are passed over, unknown fields and deltas too.

The rules: text deltas side by side make one block; annotations belong to the block before them and end it; arguments
that are not a JSON object (models do send such) become empty; a step that was begun but not stopped counts as far as
it can stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from pydantic import ValidationError

from orchestrator.errors import InvalidRequest, LogDamaged
from orchestrator.wire.base import parse_json
from orchestrator.wire.interactions import Status
from orchestrator.wire.steps import Step, StepAdapter
from orchestrator.wire.usage import Usage

_MEDIA = frozenset({"image", "audio", "video", "document"})
_PARTIAL = frozenset({"model_output", "thought"})
"""Steps that can say that they are not whole."""


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments object of a function call, from the text that its deltas make. No text is an empty object.

    Raises:
        InvalidRequest: not a JSON object, or one that is refused from callers too (depth, duplicates, NaN …).
    """
    if not text.strip():
        return {}
    value = parse_json(text.encode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise InvalidRequest("The arguments are not a JSON object.")
    return value


class _Blocks:
    """Content that grows by deltas."""

    def __init__(self, blocks: list[dict[str, Any]]) -> None:
        self._closed = blocks
        self._text: list[str] = []

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def add_annotations(self, annotations: list[dict[str, Any]]) -> None:
        block: dict[str, Any] = {"type": "text", "text": "".join(self._text)}
        self._text = []
        self._closed.append({**block, "annotations": annotations})

    def add_block(self, block: dict[str, Any]) -> None:
        self._closed = self.blocks()
        self._text = []
        self._closed.append(block)

    def blocks(self) -> list[dict[str, Any]]:
        if not self._text:
            return list(self._closed)
        return [*self._closed, {"type": "text", "text": "".join(self._text)}]


class _OpenStep:
    """A step between its start and its stop."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._fields = dict(start)
        self._blocks = _Blocks(list(start.get("content") or start.get("summary") or ()))
        self._arguments: list[str] = []

    @property
    def type(self) -> str:
        return str(self._fields["type"])

    def mark_partial(self) -> None:
        self._fields["is_partial"] = True

    def add(self, delta: dict[str, Any]) -> None:
        kind = delta["type"]
        if kind == "text":
            self._blocks.add_text(delta["text"])
        elif kind == "arguments_delta":
            self._arguments.append(delta["arguments"])
        elif kind == "thought_summary":
            self._add_summary(delta["content"])
        elif kind == "thought_signature":
            self._fields["signature"] = delta["signature"]
        elif kind == "text_annotation_delta":
            self._blocks.add_annotations(delta["annotations"])
        elif kind in _MEDIA:
            self._blocks.add_block(delta)
        elif kind == self._fields["type"]:
            self._fields.update(delta)

    def _add_summary(self, block: dict[str, Any]) -> None:
        if block["type"] == "text" and not block.get("annotations"):
            self._blocks.add_text(block["text"])
        else:
            self._blocks.add_block(block)

    def step(self, *, is_stopped: bool) -> Step | None:
        """The step so far; None if it cannot stand as it is."""
        kind = self._fields["type"]
        if kind in ("model_output", "user_input"):
            self._fields["content"] = self._blocks.blocks()
        elif kind == "thought":
            self._fields["summary"] = self._blocks.blocks()
        elif kind == "function_call" and self._arguments:
            try:
                self._fields["arguments"] = parse_arguments("".join(self._arguments))
            except InvalidRequest:
                if not is_stopped:
                    return None
                self._fields["arguments"] = {}
        try:
            return StepAdapter.validate_python(self._fields)
        except ValidationError:
            if is_stopped:
                raise
            return None


class Folder:
    """Rebuilds an interaction from its events, fed in order. Attributes are as of the last event fed."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        """The running total; None if none was told yet."""
        self.status: Status | None = None
        self.interaction: dict[str, Any] = {}
        """The frame: what `interaction.created` and `interaction.completed` told."""
        self.error: dict[str, Any] | None = None
        """`code` and `message` of an error event."""
        self._slots: dict[int, Step | _OpenStep | None] = {}

    @property
    def steps(self) -> list[Step]:
        """The steps that were stopped, in the order of their starts."""
        return [slot for slot in self._slots.values() if slot is not None and not isinstance(slot, _OpenStep)]

    @property
    def open_step(self) -> Step | None:
        """The last step that was begun and not stopped, as far as it can stand; None if there is none."""
        for slot in reversed(self._slots.values()):
            if isinstance(slot, _OpenStep):
                return slot.step(is_stopped=False)
        return None

    @property
    def open_types(self) -> dict[int, str]:
        """Index and type of each step that was begun and not stopped."""
        return {index: slot.type for index, slot in self._slots.items() if isinstance(slot, _OpenStep)}

    @property
    def next_index(self) -> int:
        """The index for the next step to begin."""
        return max(self._slots, default=-1) + 1

    def all_steps(self) -> list[Step]:
        """Stopped and unstopped steps, these as far as they can stand."""
        found = (slot.step(is_stopped=False) if isinstance(slot, _OpenStep) else slot for slot in self._slots.values())
        return [step for step in found if step is not None]

    def feed(self, kind: str, body: bytes) -> None:
        """Takes the next event.

        Raises:
            LogDamaged: the event is not one that `encode` made. It is passed over.
        """
        if kind not in _READERS:
            return
        try:
            _READERS[kind](self, json.loads(body))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise LogDamaged(kind) from error

    def _frame(self, event: dict[str, Any]) -> None:
        self.interaction.update(event["interaction"])
        self._standing(event["interaction"])

    def _standing(self, told: dict[str, Any]) -> None:
        if "status" in told:
            self.status = cast(Status, told["status"])
        if told.get("usage") is not None:
            self.usage = Usage.model_validate(told["usage"])

    def _start(self, event: dict[str, Any]) -> None:
        self._slots[event["index"]] = _OpenStep(event["step"])

    def _delta(self, event: dict[str, Any]) -> None:
        slot = self._slots[event["index"]]
        if not isinstance(slot, _OpenStep):
            raise ValueError("a delta after the stop")
        slot.add(event["delta"])

    def _stop(self, event: dict[str, Any]) -> None:
        slot = self._slots[event["index"]]
        if isinstance(slot, _OpenStep):
            if event.get("is_partial") and slot.type in _PARTIAL:
                slot.mark_partial()
            self._slots[event["index"]] = slot.step(is_stopped=True)
        self._standing({"usage": event.get("usage")})

    def _error(self, event: dict[str, Any]) -> None:
        self.error = event["error"]


_READERS = {
    "interaction.created": Folder._frame,
    "interaction.completed": Folder._frame,
    "interaction.status_update": Folder._standing,
    "step.start": Folder._start,
    "step.delta": Folder._delta,
    "step.stop": Folder._stop,
    "error": Folder._error,
}


def fold(events: Iterable[tuple[str, bytes]]) -> list[Step]:
    """The steps of a log of `(kind, body)`; the last of an interrupted one as far as it can stand.

    Raises:
        LogDamaged: an event cannot be read.
    """
    folder = Folder()
    for kind, body in events:
        folder.feed(kind, body)
    return folder.all_steps()
