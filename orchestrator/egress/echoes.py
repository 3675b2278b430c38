"""Taking secrets out of what servers answer: some repeat what they were sent. Pure; imports nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, quote_plus

_REDACTED = b"[redacted]"
_FILLER = b"*"
_NOTHING = re.compile(rb"(?!)")
_SHORTEST_BYTES = 6
"""What is shorter is in every second answer, and no secret: a tenant's name in a header, say."""


@dataclass(frozen=True, slots=True)
class Echoes:
    """Of one request."""

    values: tuple[bytes, ...] = field(default=(), repr=False)
    """In all forms in which they may come back, the longest first. Secret."""
    pattern: re.Pattern[bytes] = field(default=_NOTHING, repr=False)
    """Finds them. Secret."""

    @classmethod
    def of(cls, headers: Mapping[str, str], values: Iterable[str]) -> Self:
        """Of headers that were added, with and without a scheme before them, and of values that were put in."""
        secrets = {each for value in headers.values() for each in spelled(value)} | set(values)
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST_BYTES}
        if not forms:
            return cls()
        longest_first = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        return cls(longest_first, re.compile(b"|".join(map(re.escape, longest_first))))

    def __bool__(self) -> bool:
        return bool(self.values)

    def redacted(self, text: bytes) -> bytes:
        """Of a header's value, or any text of an answer that is not its body."""
        return self.pattern.sub(_REDACTED, text)

    def filter(self) -> BodyFilter:
        """For the body of one answer."""
        return BodyFilter(self.pattern, self.values)


class BodyFilter:
    """Fills secrets in a body that comes in pieces with as many asterisks: its length stays what it was told to be.

    What may be the beginning of one waits for what follows, nothing else does.
    """

    def __init__(self, pattern: re.Pattern[bytes], values: tuple[bytes, ...]) -> None:
        self._pattern = pattern
        self._values = values
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on."""
        seen = self._filled(self._held + piece)
        cut = len(seen) - self._begun(seen)
        self._held = seen[cut:]
        return seen[:cut]

    def end(self) -> bytes:
        """The rest."""
        rest, self._held = self._held, b""
        return rest

    def _filled(self, data: bytes) -> bytes:
        return self._pattern.sub(lambda found: _FILLER * len(found[0]), data)

    def _begun(self, data: bytes) -> int:
        """How many of the last bytes may be the beginning of a secret."""
        longest = len(self._values[0]) - 1
        for size in range(min(longest, len(data)), 0, -1):
            tail = data[-size:]
            if any(value.startswith(tail) for value in self._values):
                return size
        return 0


def spelled(value: str) -> tuple[str, str]:
    """A header's value, and without a scheme before it."""
    return value, value.partition(" ")[2]


def _forms(secret: str) -> set[bytes]:
    plain = secret.encode("utf-8", "surrogatepass")
    forms = {plain, quote(secret, safe="").encode(), quote_plus(secret).encode()}
    if secret.isascii() and plain.strip():
        try:  # `Basic` has user and password in base64
            decoded = base64.b64decode(plain, validate=True)
        except ValueError:
            return forms
        user, colon, password = decoded.partition(b":")
        if colon and user.isascii():
            forms |= {decoded, password}
    return forms
