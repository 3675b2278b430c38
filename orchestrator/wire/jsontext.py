"""Bytes to JSON values and back: strict towards callers, unable to fail on what is sent. May import `errors` only.

Reading refuses everything that two parsers could understand differently: NaN, infinities, numbers beyond a double,
duplicate names, lone surrogates, invalid UTF-8; and everything that costs out of proportion: depth, number of values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from orchestrator.errors import InvalidRequest
from orchestrator.wire.paths import path_of, quote

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string of JSON text, or what is left of one at the end, so that a broken body is not scanned from every quote."""
_INT_DIGITS = 40
"""More than any number of the wire needs; Python's own limit of 4,300 digits costs milliseconds a piece."""


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a body may contain beyond its bytes, which the server counts while reading."""

    depth: int = 64
    """Objects and lists inside each other."""
    values: int = 500_000
    """Values in all: 32 MiB of `{},{},…` would otherwise become gigabytes."""


DEFAULT_LIMITS = JsonLimits()


class _Refused(Exception):
    """Ends the standard library's parser from inside one of its hooks; never leaves this module."""


def parse_json(body: bytes, limits: JsonLimits = DEFAULT_LIMITS) -> Any:
    """The value of one JSON text.

    Raises:
        InvalidRequest: not JSON, or JSON that is refused here; names the line and column, or the path.
    """
    if not body.strip():
        raise InvalidRequest("The request body is empty; expected a JSON object.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not UTF-8: invalid byte at position {error.start}.") from None
    if _separators(body) > limits.values and _separators(_STRING.sub(b"", body)) > limits.values:
        raise InvalidRequest(f"The request body has more than {limits.values} JSON values.")
    doubles: list[tuple[dict[str, Any], str]] = []
    try:
        value = _Decoder(doubles).decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"Malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except _Refused as error:
        raise InvalidRequest(str(error)) from None
    except RecursionError:
        raise _too_deep(limits) from None
    _check(value, limits, doubles[0] if doubles else None, may_have_surrogates=b"\\u" in body)
    return value


def _separators(body: bytes) -> int:
    return body.count(b",") + body.count(b"{") + body.count(b"[")


class _Decoder(json.JSONDecoder):
    def __init__(self, doubles: list[tuple[dict[str, Any], str]]) -> None:
        def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            result = dict(pairs)
            if len(result) != len(pairs) and not doubles:
                doubles.append((result, _first_double([name for name, _ in pairs])))
            return result

        super().__init__(
            object_pairs_hook=to_dict, parse_constant=_refuse_constant, parse_int=_to_int, parse_float=_to_float
        )


def _first_double(names: list[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            break
        seen.add(name)
    return name


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"Malformed JSON: {name} is not a JSON number.")


def _to_int(digits: str) -> int:
    if len(digits) > _INT_DIGITS:
        raise _Refused(f"Malformed JSON: a number has more than {_INT_DIGITS} digits.")
    return int(digits)


def _to_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"Malformed JSON: the number {quote(digits)} is too large.")
    return value


def _too_deep(limits: JsonLimits) -> InvalidRequest:
    return InvalidRequest(f"The request body is nested more than {limits.depth} levels deep.")


def _check(
    root: Any, limits: JsonLimits, double: tuple[dict[str, Any], str] | None, *, may_have_surrogates: bool
) -> None:
    """Walks without recursion. Paths are kept as links to the parent and only spelled out for an error."""
    stack: list[tuple[Any, int, Any]] = [(root, 1, None)]
    while stack:
        value, depth, trail = stack.pop()
        if isinstance(value, str):
            if may_have_surrogates and not _is_unicode(value):
                raise InvalidRequest(f"Invalid value{_at(trail)}: text with a lone surrogate.")
        elif isinstance(value, dict | list):
            if depth > limits.depth:
                raise _too_deep(limits)
            if isinstance(value, list):
                stack.extend((item, depth + 1, (index, trail)) for index, item in enumerate(value))
                continue
            if double is not None and value is double[0]:
                raise InvalidRequest(f"Duplicate parameter {quote(double[1])}{_at(trail)}.")
            for name, item in value.items():
                if may_have_surrogates and not _is_unicode(name):
                    raise InvalidRequest(f"Invalid parameter name{_at(trail)}: text with a lone surrogate.")
                stack.append((item, depth + 1, (name, trail)))


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(trail: Any) -> str:
    parts: list[str | int] = []
    while trail is not None:
        part, trail = trail
        parts.append(part)
    path = path_of("", parts[::-1])
    return f" at '{path}'" if path else ""


def encode_json(value: Any) -> bytes:
    """One line of UTF-8 JSON. Never fails on text: a lone surrogate becomes U+FFFD; NaN and infinities become null.

    `value` is made of JSON's own types or models. U+0085, U+2028 and U+2029 are escaped: there are clients that split
    lines at them.
    """
    try:
        body = to_json(value, inf_nan_mode="null", exclude_none=True, by_alias=True)
    except PydanticSerializationError:
        body = to_json(_without_surrogates(value), inf_nan_mode="null")
    return body if body.isascii() else _escape_line_ends(body)


def _escape_line_ends(body: bytes) -> bytes:
    return (
        body.replace(b"\xc2\x85", b"\\u0085").replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    )


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, BaseModel):
        return _without_surrogates(value.model_dump(exclude_none=True))
    return value
