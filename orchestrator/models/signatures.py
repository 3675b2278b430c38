"""Signatures of thoughts: what a provider needs back, wrapped so that it goes back to its own sort and place. Pure.

A step has one opaque `signature`. Providers sign different things: Anthropic a thought, Gemini a thought, a text or a
call, OpenAI-compatible servers nothing, but they want to know in which field a thought came. What is wrapped says who
signed and what; it is unwrapped byte for byte. What others sign is never sent to a provider: it would refuse it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?P<kind>[a-z]+(?:-[a-z]+)*)\.(?P<place>[A-Za-z0-9_-]+):(?P<raw>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Signature:
    """`kind` is empty for one that did not come from this server's providers, such as a conversation held elsewhere."""

    kind: str
    place: str
    raw: str

    def wrapped(self) -> str:
        return f"{self.kind}.{self.place}:{self.raw}"


def unwrapped(text: str | None) -> Signature | None:
    """What a step's signature says; None if it has none."""
    if not text:
        return None
    found = _FORM.fullmatch(text)
    return Signature(found["kind"], found["place"], found["raw"]) if found else Signature("", "", text)
