from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.redaction import Redactor, Scrubber, redact

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


# what leaves the server for good


def test_values_go_by_the_names_of_their_variables_and_come_back() -> None:
    scrubber = Scrubber(
        {"A": "alpha-one", "B": "alpha-one-two", "SHORT": "x", "PEM": "line\nline\n"}, ["of a provider"]
    )
    text = "alpha-one alpha-one-two x line\nline of a provider"
    taken_out = scrubber.text(text)
    assert taken_out == "[redacted:A] [redacted:B] x [redacted:PEM] [redacted]"
    assert scrubber.filled(taken_out) == "alpha-one alpha-one-two x line\nline [redacted]"
    assert scrubber.text(KEY) == "[redacted]"
    assert Scrubber().text(f"alpha {KEY}") == "alpha [redacted]"


@given(st.text(min_size=6, max_size=12).filter(lambda text: len(text.strip()) >= 6), st.booleans())
def test_a_value_is_found_in_json_as_well(secret: str, is_ascii: bool) -> None:
    scrubber = Scrubber({"NAME": secret})
    text = json.dumps({"code": f"<{secret.strip()}>"}, ensure_ascii=is_ascii)
    taken_out = scrubber.text(text)
    if secret.strip() not in "[redacted:NAME]":
        assert "[redacted:NAME]" in taken_out
        assert json.loads(scrubber.filled(taken_out, is_json=True)) == json.loads(text)


def test_values_within_values() -> None:
    scrubber = Scrubber({"TOKEN": "secret-token"})
    value = {"secret-token": ["secret-token", 1, None, {"a": "is secret-token."}]}
    assert scrubber.values(value) == {"secret-token": ["[redacted:TOKEN]", 1, None, {"a": "is [redacted:TOKEN]."}]}
