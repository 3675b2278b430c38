"""What is known of processes from /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.guest.trees import has_pending_kill, is_dying

STATUS = b"Name:\tpython3\nState:\tR (running)\nSigQ:\t1/95\nSigPnd:\t%b\nShdPnd:\t%b\nSigBlk:\t0000000000000100\n"
NONE = b"0000000000000000"


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        (NONE, NONE, False),
        (b"0000000000000100", NONE, True),
        (NONE, b"0000000000000100", True),
        (b"0000000000010102", NONE, True),
        (b"0000000000000200", b"0000000000010000", False),
    ],
)
def test_a_kill_that_has_not_come_through_is_seen(own: bytes, shared: bytes, expected: bool) -> None:
    assert has_pending_kill(STATUS % (own, shared)) is expected


def test_who_lives_is_told_from_who_is_gone() -> None:
    assert not is_dying(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert is_dying(process.pid)
