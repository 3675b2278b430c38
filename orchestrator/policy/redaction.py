"""Taking secrets out of text before it is stored or shown. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_OWN_KEYS = re.compile(r"crl_[A-Za-z0-9_-]{43}")
_BEGUN_KEY = re.compile(r"c(?:r(?:l(?:_[A-Za-z0-9_-]{0,42})?)?)?\Z")
_ENDED_KEY = re.compile(r"[A-Za-z0-9_-]{0,46}")
REDACTED = "[redacted]"
_TAKEN_OUT = re.compile(r"\[redacted:([A-Za-z_][A-Za-z0-9_]*)\]")
_SHORTEST_SECRET = 6
"""Characters. What is shorter is in every second text, and no secret."""


def redact(text: str) -> str:
    """`text` without API keys of this server: an agent that reads one in a file must not spread it."""
    return _OWN_KEYS.sub(REDACTED, text) if "crl_" in text else text


def without_cut_keys(head: str, tail: str) -> tuple[str, str]:
    """What stands before and after a gap, without what may be part of a key that the gap goes through.

    Nobody knows of the tail's first word whether it is the end of a key, so as much of it as a key is long goes.
    """
    begun = _BEGUN_KEY.search(head)
    ended = _ENDED_KEY.match(tail)
    return head[: begun.start()] if begun else head, tail[ended.end() :] if ended else tail


class Redactor:
    """`redact` for a text that comes in pieces: what may be the beginning of a key waits for what follows."""

    def __init__(self) -> None:
        self.held = ""
        """What waits for what follows."""

    def feed(self, text: str, *, is_last: bool = False) -> str:
        """What may be shown now; after the last piece all of it. A piece that was cut off is not the last one."""
        text = redact(self.held + text)
        begun = None if is_last else _BEGUN_KEY.search(text)
        self.held = text[begun.start() :] if begun is not None else ""
        return text[: begun.start()] if begun is not None else text


class Scrubber:
    """`redact` for what leaves the server for good, such as recordings: takes out what it is told is secret, too.

    A variable's value becomes `[redacted:NAME]`, which `filled` makes its value again: what is written with one value
    can be used with another. Both also know the value as it is spelled inside JSON.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, secrets: Iterable[str] = ()) -> None:
        """`variables` by name; of `secrets` nothing is left but that there was one."""
        self._variables = {name: value.strip() for name, value in (variables or {}).items()}
        self._spelled: dict[str, str] = {}
        """How each secret may be spelled, and what takes its place."""
        for secret in secrets:
            self._add(secret.strip(), REDACTED)
        for name, value in self._variables.items():
            self._add(value, f"[redacted:{name}]")
        longest_first = sorted(self._spelled, key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _add(self, secret: str, replacement: str) -> None:
        if len(secret) >= _SHORTEST_SECRET:
            for spelled in (secret, _quoted(secret, is_ascii=False), _quoted(secret, is_ascii=True)):
                self._spelled.setdefault(spelled, replacement)

    def text(self, text: str) -> str:
        """`text` without secrets."""
        text = redact(text)
        return text if self._secret is None else self._secret.sub(lambda found: self._spelled[found[0]], text)

    def values(self, value: T) -> T:
        """The same for all texts in a JSON value; names of fields are left as they are."""
        if isinstance(value, str):
            return self.text(value)  # type: ignore[return-value]  # a text is a text
        if isinstance(value, list):
            return [self.values(each) for each in value]  # type: ignore[return-value]  # as is a list
        if isinstance(value, dict):
            return {name: self.values(each) for name, each in value.items()}  # type: ignore[return-value]
        return value

    def filled(self, text: str, *, is_json: bool = False) -> str:
        """`text` with the values of variables that were taken out; `is_json`: it is JSON, and they go into strings."""
        if "[redacted:" not in text:
            return text

        def value(found: re.Match[str]) -> str:
            known = self._variables.get(found[1])
            return found[0] if known is None else _quoted(known, is_ascii=False) if is_json else known

        return _TAKEN_OUT.sub(value, text)


def _quoted(text: str, *, is_ascii: bool) -> str:
    return json.dumps(text, ensure_ascii=is_ascii)[1:-1]
