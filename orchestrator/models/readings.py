"""What a model reads, in a form that compares, and where two such readings differ. Pure. Imports `models.port`,
`policy` and `wire` only.

What differs by chance between two equal runs is brought to one form: ids of calls are their order, media are their
digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from orchestrator.models.port import ModelRequest
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.base import dump
from orchestrator.wire.steps import Step

Compared = Literal["system", "tools", "history"]
COMPARED: tuple[Compared, ...] = ("system", "tools", "history")

_SHOWN_CHARS = 60
"""Of each side of a difference."""
_ALIKE_CHARS = 20
"""Of what is the same before it."""


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
