from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.redaction import Redactor, redact

KEY = "crl_" + "aZ09_-" * 7 + "b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("nothing here", "nothing here"),
        (KEY, "[redacted]"),
        (f"x{KEY}.", "x[redacted]."),
        (f"{KEY} {KEY}", "[redacted] [redacted]"),
        (KEY[:-1], KEY[:-1]),
        (f"crl_{KEY}", "[redacted]" + KEY[-4:]),
    ],
)
def test_own_keys_are_taken_out_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


texts = st.lists(st.sampled_from([KEY, "crl_", "cr", "c", " ", "x", "ä", KEY[:20], "\n"]), max_size=6).map("".join)


@given(texts, st.lists(st.integers(0, 300), max_size=8))
def test_pieces_show_what_the_whole_shows(text: str, at: list[int]) -> None:
    edges = sorted({0, len(text), *(each % (len(text) + 1) for each in at)})
    redactor = Redactor()
    shown = "".join(redactor.feed(text[start:end]) for start, end in pairwise(edges))
    assert shown + redactor.feed("", is_last=True) == redact(text)
    assert KEY not in shown


def test_what_cannot_become_a_key_is_not_held_back() -> None:
    redactor = Redactor()
    assert redactor.feed("progress 5%") == "progress 5%"
    assert redactor.feed("crl_ is no key, crl_short neither.") == "crl_ is no key, crl_short neither."
