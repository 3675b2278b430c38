"""How messages name a place in the caller's JSON, and how they quote the caller's own text. Imports nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SHOWN_CHARS = 80


def path_of(at: str, parts: Sequence[str | int]) -> str:
    """A path as callers read it: `environment.sources[0].content`; keys that are no plain names stand in brackets."""
    path = at
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif len(part) <= _SHOWN_CHARS and _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += "[" + quote(part, '"') + "]"
    return path


def quote(text: str, mark: str = "'") -> str:
    """A caller's own text for a message: one line, printable, at most 80 characters, between quotation marks."""
    shown = text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
    return mark + "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in shown) + mark
