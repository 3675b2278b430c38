"""Taking secrets out of text before it is stored or shown. Pure."""

from __future__ import annotations

import re

_OWN_KEYS = re.compile(r"crl_[A-Za-z0-9_-]{43}")
_BEGUN_KEY = re.compile(r"c(?:r(?:l(?:_[A-Za-z0-9_-]{0,42})?)?)?\Z")
_ENDED_KEY = re.compile(r"[A-Za-z0-9_-]{0,46}")
REDACTED = "[redacted]"


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
