"""Parts of pydantic-ai, as they stream, to events of the model port. Pure; imports `models.port`,
`models.signatures` and `pydantic_ai.messages`, so it is imported only when a model is asked.

The port wants one part after the other. Calls that a provider streams at once are told one by one: the first live, the
others as soon as those before them are whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.messages import (
    FilePart,
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)

from orchestrator.errors import ModelError
from orchestrator.models.media import block_of
from orchestrator.models.messages import REDACTED
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    MediaOutput,
    ModelEvent,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
)
from orchestrator.models.signatures import Signature
from orchestrator.models.vendors import GEMINI


@dataclass(slots=True)
class _Part:
    is_call: bool
    waiting: list[ModelEvent] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    is_done: bool = False

    def is_whole(self) -> bool:
        """Whether nothing more can come that counts."""
        if not self.is_call:
            return self.is_done
        try:
            json.loads("".join(self.arguments))
        except ValueError:
            return False
        return True


class Translation:
    """Of one answer in the format `kind`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._parts: list[_Part] = []
        self._by_index: dict[int, _Part] = {}
        self._at = 0

    def take(self, event: ModelResponseStreamEvent) -> Iterator[ModelEvent]:
        """What can be told now.

        Raises:
            ModelError: the model answered with something that has no place in an answer of this server.
        """
        match event:
            case PartStartEvent():
                self._begin(event.index, event.part)
            case PartDeltaEvent():
                self._add(self._by_index[event.index], event.delta)
            case PartEndEvent():
                part = self._by_index[event.index]
                if not part.is_call and not part.is_done:
                    part.waiting += self._signatures(event.part)
                part.is_done = True
        return self._told()

    def finish(self) -> Iterator[ModelEvent]:
        """What is left when the answer is over."""
        for part in self._parts[self._at :]:
            yield from self._flushed(part)
            if part.is_call and not part.arguments:
                yield CallDelta("{}")

    def _told(self) -> Iterator[ModelEvent]:
        for part in self._parts[: self._at]:
            if not part.is_call:  # what follows a whole call is space
                yield from self._flushed(part)
        while self._at < len(self._parts):
            part = self._parts[self._at]
            yield from self._flushed(part)
            if self._at + 1 == len(self._parts) or not part.is_whole():
                return
            self._at += 1

    def _flushed(self, part: _Part) -> Iterator[ModelEvent]:
        waiting, part.waiting = part.waiting, []
        yield from waiting

    def _begin(self, index: int, part: ModelResponsePart) -> None:
        known = self._by_index[index] = _Part(is_call=isinstance(part, ToolCallPart))
        self._parts.append(known)
        match part:
            case TextPart():
                if part.content:
                    known.waiting.append(TextDelta(part.content))
            case ThinkingPart():
                if part.content:
                    known.waiting.append(ThoughtDelta(part.content))
            case ToolCallPart():
                known.waiting += self._signatures(part)
                known.waiting.append(CallStart(part.tool_name))
                self._add_arguments(known, part.args)
            case FilePart():
                data = base64.b64encode(part.content.data).decode()
                known.waiting.append(MediaOutput(block_of(data, part.content.media_type)))
                known.waiting += self._signatures(part)
                known.is_done = True
            case _:
                raise ModelError(f"the model answered with a {part.part_kind}, which is not supported yet")

    def _add(self, part: _Part, delta: Any) -> None:
        match delta:
            case TextPartDelta() if delta.content_delta:
                part.waiting.append(TextDelta(delta.content_delta))
            case ThinkingPartDelta() if delta.content_delta:
                part.waiting.append(ThoughtDelta(delta.content_delta))
            case ToolCallPartDelta():
                self._add_arguments(part, delta.args_delta)

    @staticmethod
    def _add_arguments(part: _Part, arguments: Any) -> None:
        """They come as an object, or as a piece of its JSON text."""
        text = json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments
        if text:
            part.arguments.append(text)
            part.waiting.append(CallDelta(text))

    def _signatures(self, part: ModelResponsePart) -> list[ModelEvent]:
        """A call's is told before it, all others after what they sign."""
        details = getattr(part, "provider_details", None) or {}
        if self._kind in GEMINI:
            raw = details.get("thought_signature")
            return [self._signature(_place(part), str(raw))] if raw else []
        if self._kind not in ("openai", "anthropic"):
            return self._whole(part)
        if self._kind == "openai" and isinstance(part, ToolCallPart) and (extra := details.get("extra_content")):
            return [self._signature("call", json.dumps(extra))]
        if not isinstance(part, ThinkingPart):
            return []
        if self._kind == "anthropic" and part.signature:
            return [self._signature(REDACTED if part.id else "thought", part.signature)]
        if self._kind == "openai" and part.id:
            return [self._signature(part.id, part.signature or "")]
        return []

    def _whole(self, part: ModelResponsePart) -> list[ModelEvent]:
        """Of formats that are not known here: all that the library wants to see again of a thought or a call."""
        if isinstance(part, ThinkingPart):
            given = {"id": part.id, "signature": part.signature, "provider_details": part.provider_details}
            return [self._signature("thought", _json_of(given))]
        if isinstance(part, ToolCallPart) and part.provider_details:
            return [self._signature("call", _json_of({"provider_details": part.provider_details}))]
        return []

    def _signature(self, place: str, raw: str) -> ThoughtSignature:
        return ThoughtSignature(Signature(self._kind, place, raw).wrapped())


def _json_of(fields: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False, default=str)


def _place(part: ModelResponsePart) -> str:
    """What a signature of Gemini is on."""
    if isinstance(part, ToolCallPart):
        return "call"
    if isinstance(part, ThinkingPart):
        return "thought"
    if isinstance(part, FilePart):
        return "media"
    return "text" if getattr(part, "content", "") else "empty"
