"""The form of a cassette: the model exchanges of one run, as lines of JSON. Pure. Imports `models.port`, `policy` and
`wire` only.

The first line is the header: the version of the form, whose run it was, and what a replay compares. Each further line
is one exchange: which call it was, what the model read, what it answered or how it failed.

    {"cassette": 1, "agent": "general", "model": "gemini:…", "compare": ["system", "tools", "history"]}
    {"turn": 0, "read": {"system": "…", "tools": […], "history": […]}, "answered": [{"text": "…"}, {"end": {…}}]}
    {"turn": 1, "read": {"kept": 3, "history": […]}, "answered": […]}

A conversation is read again with every call, so a line says only what is new: `system` and `tools` where they changed,
and of the history what follows the first `kept` steps of the line before. What differs by chance between two equal runs
is brought to one form: ids of calls are their order, media are their digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.errors import InvalidRequest, ModelError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.base import WireModel, dump, encode_json, parse
from orchestrator.wire.steps import Step

Compared = Literal["system", "tools", "history"]
COMPARED: tuple[Compared, ...] = ("system", "tools", "history")

_SHOWN_CHARS = 60
"""Of each side of a difference."""
_ALIKE_CHARS = 20
"""Of what is the same before it."""

_Words = ThoughtDelta | ThoughtSignature | TextDelta | CallStart | CallDelta
_WORDS: dict[str, tuple[type[_Words], str]] = {
    "thought": (ThoughtDelta, "text"),
    "signature": (ThoughtSignature, "signature"),
    "text": (TextDelta, "text"),
    "call": (CallStart, "name"),
    "arguments": (CallDelta, "arguments"),
}
"""Events that are one text: their names here, their types, and the field that has the text."""
_NAMES = {kind: name for name, (kind, _) in _WORDS.items()}
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model read, in a form that compares."""

    system: str = ""
    tools: list[dict[str, Any]] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, request: ModelRequest, scrubber: Scrubber) -> Self:
        """What `request` gives to read, without secrets."""
        return cls(
            system=scrubber.text(request.system),
            tools=scrubber.values([asdict(tool) for tool in request.tools]),
            history=scrubber.values(_comparable(request.history)),
        )


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
    if isinstance(event, TurnEnd):
        return {"end": _END.dump_python(event, mode="json", exclude_defaults=True)}
    name = _NAMES[type(event)]
    return {name: getattr(event, _WORDS[name][1])}


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
        raise ValueError(f"'{at}' must have one name: {', '.join((*_WORDS, 'end'))}")
    ((name, value),) = fields.items()
    if name == "end":
        try:
            return _END.validate_python(value)
        except ValidationError as error:
            raise ValueError(f"'{at}.end': {error.errors()[0]['msg']}") from error
    if name not in _WORDS:
        raise ValueError(f"'{at}': {name!r} is none of {', '.join((*_WORDS, 'end'))}")
    if not isinstance(value, str):
        raise ValueError(f"'{at}.{name}' must be a text")
    return _WORDS[name][0](value)


# comparing


def difference(recorded: Reading, now: Reading, compare: Iterable[Compared]) -> str | None:
    """Where what a model reads now first differs from what it read then, for people; None if nowhere."""
    for name in compare:
        if found := _difference(getattr(recorded, name), getattr(now, name), name):
            return found
    return None


def _difference(recorded: Any, now: Any, at: str) -> str | None:
    if recorded == now:
        return None
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in {**recorded, **now}:
            if name not in recorded or name not in now:
                return f"{at}.{name}: {_sides(recorded.get(name), now.get(name))}"
            if found := _difference(recorded[name], now[name], f"{at}.{name}"):
                return found
    if isinstance(recorded, list) and isinstance(now, list):
        for index, (then, later) in enumerate(zip(recorded, now, strict=False)):
            kind = f" ({then['type']})" if isinstance(then, dict) and "type" in then else ""
            if found := _difference(then, later, f"{at}[{index}]{kind}"):
                return found
        end = min(len(recorded), len(now))
        return f"{at}[{end}]: {_sides(*(side[end] if len(side) > end else None for side in (recorded, now)))}"
    return f"{at}: {_sides(recorded, now)}"


def _sides(recorded: Any, now: Any) -> str:
    start = 0
    if isinstance(recorded, str) and isinstance(now, str):
        pairs = enumerate(zip(recorded, now, strict=False))
        first = next((at for at, (then, later) in pairs if then != later), min(len(recorded), len(now)))
        start = max(0, first - _ALIKE_CHARS)
    return f"recorded {_shown(recorded, start)}, now {_shown(now, start)}"


def _shown(value: Any, start: int) -> str:
    if value is None:
        return "nothing"
    text = value[start:] if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = text[:_SHOWN_CHARS]
    shown = json.dumps(cut, ensure_ascii=False) if isinstance(value, str) else cut
    return f"{'…' if start else ''}{shown}{'…' if len(text) > len(cut) else ''}"


def _comparable(steps: Iterable[Step]) -> list[dict[str, Any]]:
    order: dict[str, str] = {}
    plain = []
    for step in steps:
        fields = dump(step)
        for name in ("id", "call_id"):
            if name in fields:
                fields[name] = order.setdefault(fields[name], f"call {len(order) + 1}")
        plain.append(_without_media(fields))
    return plain


def _without_media(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_media(each) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("data"), str) and isinstance(value.get("mime_type"), str):
        return {**value, "data": f"sha256:{hashlib.sha256(_decoded(value['data'])).hexdigest()}"}
    return {name: _without_media(each) for name, each in value.items()}


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return data.encode()
