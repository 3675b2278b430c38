from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.terminal import dollars, duration, moment, neutralise, size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢字 \t tab\n", "plain ä 漢字 \t tab\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;c2VjcmV0\x07", ""),
        ("\x9b31mred\x9d0;title\x9c!", "red!"),
        ("\x1bPq#0;2\x1b\\sixel", "sixel"),
        ("\x1bc\x1b(0reset", "reset"),
        ("10%\r20%\r\nend", "10%\n20%\nend"),
        ("a\x08\x7f\x00b", "ab"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("\ud800half", "half"),
        ("cut \x1b[3", "cut 3"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(text: str, shown: str) -> None:
    assert neutralise(text) == shown


@given(st.text(alphabet="\x1b[]()\x9b\x9d\x07\\;0m3Px\n\r\x00ab", max_size=60))
def test_no_control_survives_whatever_the_mixture(text: str) -> None:
    shown = neutralise(text)
    assert all(char == "\n" or char.isprintable() for char in shown)
    assert neutralise(shown) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (34_000, "34 kB"), (999_999, "1.0 MB"), (5 * 10**10, "50 GB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (12.3, "$12.30"),
        (1234.567, "$1,234.57"),
        (0.25, "$0.25"),
        (0.00412, "$0.0041"),
        (1e-6, "$0.0000010"),
    ],
)
def test_dollars(amount: float, shown: str) -> None:
    assert dollars(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (12.9, "12 s"), (185, "3 min 5 s"), (7400, "2 h 3 min"), (435_700, "5 d 1 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(timedelta(seconds=seconds)) == shown


def test_moments_are_aware_or_none() -> None:
    assert moment("2026-11-20T09:00:41.120000Z") is not None
    assert moment("2026-11-20T09:00:41") is None
    assert moment("now") is None
