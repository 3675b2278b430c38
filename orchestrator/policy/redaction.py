"""Taking secrets out of text before it is stored or shown. Pure."""

from __future__ import annotations

import re

_OWN_KEYS = re.compile(r"crl_[A-Za-z0-9_-]{43}")
_BEGUN_KEY = re.compile(r"c(?:r(?:l(?:_[A-Za-z0-9_-]{0,42})?)?)?\Z")
REDACTED = "[redacted]"


def redact(text: str) -> str:
    """`text` without API keys of this server: an agent that reads one in a file must not spread it."""
    return _OWN_KEYS.sub(REDACTED, text) if "crl_" in text else text


class Redactor:
    """`redact` for a text that comes in pieces: what may be the beginning of a key waits for what follows."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str, *, is_last: bool = False) -> str:
        """What may be shown now; after the last piece all of it."""
        text = redact(self._held + text)
        begun = None if is_last else _BEGUN_KEY.search(text)
        self._held = text[begun.start() :] if begun is not None else ""
        return text[: begun.start()] if begun is not None else text
