"""What reaches a terminal. Whatever comes from a server passes `neutralise` first: a sandbox is hostile, and a terminal
obeys what is written to it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x9b[0-?]*[ -/]*[@-~]"  # the same, as one C1 character
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, …: title, clipboard
    r"|\x1b[ -/]*[0-~]"  # the rest: reset, character sets
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls that are left, marks that reverse the order of text, and halves of characters, which cannot be encoded."""


def neutralise(text: str) -> str:
    """The text without anything that a terminal would obey. Line ends become `\\n`; tabs stay."""
    text = _SEQUENCE.sub("", text)
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def console(*, stderr: bool = False) -> Console:
    """A rich console that takes no markup, emoji or highlighting from text."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"corral: {neutralise(message)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output, ASCII only and hence harmless, flushed."""
    print(json.dumps(value), flush=True)


def size(count: int) -> str:
    """Bytes for people: `512 B`, `34 kB`, `1.2 MB`."""
    if count < 1000:
        return f"{count} B"
    number, unit = next(
        ((count / factor, unit) for factor, unit in ((10**3, "kB"), (10**6, "MB")) if count < 999.5 * factor),
        (count / 10**9, "GB"),
    )
    return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def dollars(amount: float) -> str:
    """US dollars for people: `$12.30`, `$0.25`, `$0.0041`: of less than a cent the first two digits that count."""
    if amount >= 1 or amount == 0:
        return f"${amount:,.2f}"
    places = max(2, 1 - math.floor(math.log10(amount)))
    return f"${amount:.{places}f}"


def duration(span: timedelta) -> str:
    """Time for people, the two largest units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 3 min`, `5 d 1 h`."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for large, small, name, rest in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large} {name} {whole % large // small} {rest}"
    return f"{whole} s"


def moment(text: str) -> datetime | None:
    """The time that an RFC 3339 text states, aware; None if it is none."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None
