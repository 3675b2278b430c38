"""The form of a cassette: the model exchanges of one run, as lines of JSON. Pure. Imports `models.port`,
`models.readings`, `policy` and `wire` only.

The first line is the header: the version of the form, whose run it was, and what a replay compares. Each further line
is one exchange: which call it was, what the model read, what it answered or how it failed.

    {"cassette": 1, "agent": "general", "model": "gemini:…", "compare": ["system", "tools", "history"]}
    {"turn": 0, "read": {"system": "…", "tools": […], "history": […]}, "answered": [{"text": "…"}, {"end": {…}}]}
    {"turn": 1, "read": {"kept": 3, "history": […]}, "answered": […]}

A conversation is read again with every call, so a line says only what is new: `system` and `tools` where they changed,
and of the history what follows the first `kept` steps of the line before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.errors import InvalidRequest, ModelError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    MediaOutput,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.models.readings import COMPARED, Compared, Reading
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.base import WireModel, dump, encode_json, parse
from orchestrator.wire.content import ContentAdapter, TextContent

_WORDS: Mapping[str, Callable[[str], ModelEvent]] = {
    "thought": ThoughtDelta,
    "signature": ThoughtSignature,
    "text": TextDelta,
    "call": CallStart,
    "arguments": CallDelta,
}
"""What events that are one text are called here."""
_END: TypeAdapter[TurnEnd] = TypeAdapter(TurnEnd)


class Key(NamedTuple):
    """Which of a run's model calls it is: equal for equal calls of two runs."""

    purpose: str
    turn: int
    asked_again: int = 0
    attempt: int = 0

    @classmethod
    def of(cls, request: ModelRequest) -> Self:
        return cls(request.purpose, request.turn, request.asked_again, request.attempt)

    def __str__(self) -> str:
        what = f"turn {self.turn}" if self.purpose == "turn" else f"{self.purpose} at turn {self.turn}"
        again = f", asked again {self.asked_again}" if self.asked_again else ""
        return f"{what}{again}{f', attempt {self.attempt}' if self.attempt else ''}"


class Failure(WireModel):
    """A `ModelError`."""

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: ModelError) -> Self:
        return cls(code=error.code, message=error.message, retryable=error.retryable, retry_after_s=error.retry_after_s)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One model call and its answer."""

    key: Key
    reading: Reading | None
    """None: nobody knows what the model read, and nothing is compared."""
    events: tuple[ModelEvent, ...]
    failure: Failure | None = None
    """What the call ended with in place of a `TurnEnd`, or after it broke off."""


class Header(WireModel):
    """The first line."""

    cassette: Literal[1] = 1
    """The version of the form."""
    interaction: str = ""
    agent: str = ""
    model: str = ""
    compare: list[Compared] = Field(default_factory=lambda: list(COMPARED))
    """What a replay holds against the recording. People take out what they change on purpose."""


@dataclass(frozen=True, slots=True)
class Cassette:
    """A whole recording. Of several exchanges with one key the last holds: a call is made again after a crash."""

    header: Header
    exchanges: dict[Key, Exchange]

    @classmethod
    def of(cls, header: Header, exchanges: Iterable[Exchange]) -> Self:
        return cls(header, {each.key: each for each in exchanges})


# writing


def dump_header(header: Header) -> bytes:
    """The line."""
    return encode_json({"cassette": header.cassette, **header.model_dump(exclude={"cassette"})}) + b"\n"


def dump_exchange(exchange: Exchange, before: Reading | None) -> bytes:
    """The line; `before` is what the exchange on the line before it read, None if it is the first."""
    key = {name: value for name, value in exchange.key._asdict().items() if name == "turn" or value not in (0, "turn")}
    line: dict[str, Any] = {**key}
    if exchange.reading is not None:
        line["read"] = _news(exchange.reading, before or Reading())
    line["answered"] = [_dump_event(event) for event in exchange.events]
    if exchange.failure is not None:
        line["failed"] = dump(exchange.failure)
    return encode_json(line) + b"\n"


def merged(events: Iterable[ModelEvent]) -> tuple[ModelEvent, ...]:
    """The events with deltas of one sort side by side made one: they mean the same, and a secret cannot hide in the
    seam."""
    whole: list[ModelEvent] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, ThoughtDelta) and isinstance(last, ThoughtDelta):
            whole[-1] = ThoughtDelta(last.text + event.text)
        elif isinstance(event, TextDelta) and isinstance(last, TextDelta):
            whole[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, CallDelta) and isinstance(last, CallDelta):
            whole[-1] = CallDelta(last.arguments + event.arguments)
        else:
            whole.append(event)
    return tuple(whole)


def scrubbed(event: ModelEvent, scrubber: Scrubber) -> ModelEvent:
    """The event without secrets. Names and signatures are what they are: changed, they would be others."""
    if isinstance(event, ThoughtDelta | TextDelta):
        return replace(event, text=scrubber.text(event.text))
    return replace(event, arguments=scrubber.text(event.arguments)) if isinstance(event, CallDelta) else event


def filled(event: ModelEvent, scrubber: Scrubber) -> ModelEvent:
    """The reverse, as far as the scrubber has values for what was taken out."""
    if isinstance(event, ThoughtDelta | TextDelta):
        return replace(event, text=scrubber.filled(event.text))
    if isinstance(event, CallDelta):
        return replace(event, arguments=scrubber.filled(event.arguments, is_json=True))
    return event


def _news(reading: Reading, before: Reading) -> dict[str, Any]:
    kept = 0
    for earlier, now in zip(before.history, reading.history, strict=False):
        if earlier != now:
            break
        kept += 1
    news: dict[str, Any] = {}
    if reading.system != before.system:
        news["system"] = reading.system
    if reading.tools != before.tools:
        news["tools"] = reading.tools
    return {**news, **({"kept": kept} if kept else {}), "history": reading.history[kept:]}


def _dump_event(event: ModelEvent) -> dict[str, Any]:
    match event:
        case ThoughtDelta(text):
            return {"thought": text}
        case ThoughtSignature(signature):
            return {"signature": signature}
        case TextDelta(text):
            return {"text": text}
        case MediaOutput(content):
            return {"media": dump(content)}
        case CallStart(name):
            return {"call": name}
        case CallDelta(arguments):
            return {"arguments": arguments}
        case TurnEnd():
            return {"end": _END.dump_python(event, mode="json", exclude_defaults=True)}


# reading


class _Read(WireModel):
    system: str | None = None
    tools: list[dict[str, Any]] | None = None
    kept: Annotated[int, Field(ge=0)] = 0
    history: list[dict[str, Any]] = Field(default_factory=list)


class _Line(WireModel):
    purpose: str = "turn"
    turn: int
    asked_again: int = 0
    attempt: int = 0
    read: _Read | None = None
    answered: list[dict[str, Any]]
    failed: Failure | None = None


def parse_cassette(data: bytes) -> Cassette:
    """The cassette of a file's bytes. A last line that was not written to its end is passed over.

    Raises:
        InvalidRequest: it is none; the message names the line and what is wrong with it.
    """
    *lines, last = data.split(b"\n")
    if last.strip() and _is_json(last):
        lines.append(last)  # an editor that ends files without a newline
    header: Header | None = None
    exchanges: list[Exchange] = []
    before = Reading()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
            if header is None:
                header = parse(Header, fields)
                if "cassette" not in fields:
                    raise ValueError("the first line of a cassette says its version, 'cassette': 1")
            else:
                exchange = _exchange(parse(_Line, fields), before)
                before = exchange.reading or before
                exchanges.append(exchange)
        except InvalidRequest as error:
            raise InvalidRequest(f"line {number}: {error.message}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"line {number}: {error}") from error
    if header is None:
        raise InvalidRequest("it is empty")
    return Cassette.of(header, exchanges)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _exchange(line: _Line, before: Reading) -> Exchange:
    reading = None
    if (read := line.read) is not None:
        if read.kept > len(before.history):
            raise ValueError(f"'read.kept' is {read.kept}, and the line before has {len(before.history)} steps")
        reading = Reading(
            system=before.system if read.system is None else read.system,
            tools=before.tools if read.tools is None else read.tools,
            history=[*before.history[: read.kept], *read.history],
        )
    key = Key(line.purpose, line.turn, line.asked_again, line.attempt)
    events = tuple(_parse_event(each, f"answered[{at}]") for at, each in enumerate(line.answered))
    return Exchange(key, reading, events, line.failed)


def _parse_event(fields: dict[str, Any], at: str) -> ModelEvent:
    if len(fields) != 1:
        raise ValueError(f"'{at}' must have one name: {', '.join((*_WORDS, 'media', 'end'))}")
    ((name, value),) = fields.items()
    if name == "end":
        try:
            return _END.validate_python(value)
        except ValidationError as error:
            raise ValueError(f"'{at}.end': {error.errors()[0]['msg']}") from error
    if name == "media":
        content = parse(ContentAdapter, value, f"{at}.media")
        if isinstance(content, TextContent):
            raise ValueError(f"'{at}.media' must be a medium")
        return MediaOutput(content)
    if name not in _WORDS:
        raise ValueError(f"'{at}': {name!r} is none of {', '.join((*_WORDS, 'media', 'end'))}")
    if not isinstance(value, str):
        raise ValueError(f"'{at}.{name}' must be a text")
    return _WORDS[name](value)
