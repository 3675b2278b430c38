"""What every sandbox driver must do, as checks that anybody can run against their own driver (see README.md here).

The one part of the product that imports pytest: install the extra `corral[conformance]`. It knows the driver port, the
link and what is written on the link; nothing else of Corral.

    differences.py   what a platform may state to do otherwise
    platform.py      what the author of a driver says, and what all checks share
    bench.py         sandboxes for checks, and commands in them
    lifecycle.py     create, inspect, start, stop, destroy, owned, exits, a platform that is silent
    streams.py       connect: the stream to the guest, reconnecting, generations
    calls.py         calls by identity: once, followed again, forgotten, cancelled, in parallel
    commands.py      what a command gets and how it ends
    output.py        order, limits, floods, bytes that are no text
    cells.py         the stateful Python interpreter
    files.py         file operations; names.py odd names; archives.py tar in and out
    limits.py        memory, processes, open files, CPU, disk
    isolation.py     who the agent is, and what it cannot reach
    pausing.py       pause and resume; snapshots.py snapshots and forks
    integrity.py     whatever is done to a sandbox, its files stay what they were
"""

from __future__ import annotations

import pytest

_MODULES = (
    "archives",
    "bench",
    "calls",
    "cells",
    "commands",
    "files",
    "integrity",
    "isolation",
    "lifecycle",
    "limits",
    "names",
    "output",
    "pausing",
    "platform",
    "snapshots",
    "streams",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from orchestrator.conformance.differences import Difference  # noqa: E402 - pytest must know the modules before
from orchestrator.conformance.suite import DriverSuite  # noqa: E402

__all__ = ["Difference", "DriverSuite"]
