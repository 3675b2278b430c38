"""Exit codes of `corral`, part of its contract."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    """It worked; for `run`: completed."""
    FAILED = 1
    """The interaction failed; for `doctor`: something is broken."""
    USAGE = 2
    """Wrong arguments or settings, no server, or the server refused."""
    REQUIRES_ACTION = 3
    """The agent waits for the result of a client function."""
    INCOMPLETE = 4
    """The run stopped early, at a limit."""
    CANCELLED = 130
    """Cancelled, here with Ctrl-C or elsewhere."""


BY_STATUS = {
    "completed": Exit.OK,
    "failed": Exit.FAILED,
    "requires_action": Exit.REQUIRES_ACTION,
    "incomplete": Exit.INCOMPLETE,
    "cancelled": Exit.CANCELLED,
}
"""Exit code of `run` by the interaction's final status."""
