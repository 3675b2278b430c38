from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.outcome import Attachment, CallError, CallOutcome, FullDisk, Verdict
from orchestrator.tools import rendering
from orchestrator.tools.rendering import ending_of, output_of, size_of, with_ending, with_images
from orchestrator.wire.content import ImageContent, TextContent
from tests.fakes.sandboxes import outcome

KEY = "crl_" + "A" * 43


def test_output_is_text_whatever_it_was() -> None:
    assert output_of(outcome(b"a\xffb\0c\xc3")) == "a�b�c�"
    assert output_of(outcome("ä\r\n\x1b[31mred")) == "ä\r\n\x1b[31mred"


def test_head_and_tail_join_without_a_seam_where_nothing_was_dropped() -> None:
    data = "ä".encode()
    assert output_of(outcome(data[:1], tail=data[1:])) == "ä"


@given(st.text(min_size=1, max_size=200), st.integers(1, 100), st.integers(1, 100))
def test_truncation_never_splits_a_character(text: str, head_bytes: int, tail_bytes: int) -> None:
    data = text.encode("utf-8", "surrogatepass").replace(b"\0", b"0")
    if "\ufffd" in text or any("\ud800" <= char <= "\udfff" for char in text):
        return
    head, tail = data[:head_bytes], data[head_bytes:][-tail_bytes:]
    dropped = len(data) - len(head) - len(tail)
    if dropped <= 0:
        return
    shown = output_of(outcome(head, tail=tail, dropped_bytes=dropped))
    assert "\ufffd" not in shown
    begin, said, end = re.split(r"\n\[… (\d+) bytes of output dropped …\]\n", shown)
    assert data.decode().startswith(begin)
    assert data.decode().endswith(end)
    assert len(begin.encode()) + int(said) + len(end.encode()) == len(data)
    assert len(head) - len(begin.encode()) < 4 + len(KEY)
    assert len(tail) - len(end.encode()) < 4 + len(KEY)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x80\x80\x80\x80", b"\xff", b"\xf0\x9f\x98", b"\xc3"])
def test_truncation_takes_any_bytes(data: bytes) -> None:
    assert "dropped" in output_of(outcome(data, tail=data, dropped_bytes=5))


def test_keys_of_this_server_are_taken_out() -> None:
    assert output_of(outcome(f"before {KEY} after")) == "before [redacted] after"
    assert KEY not in output_of(outcome(f"{KEY} begin", tail=f"end {KEY}".encode(), dropped_bytes=5))


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 70), st.sampled_from([" ", "x", "ä", "\n"]))
def test_of_a_key_that_the_cut_goes_through_nothing_is_shown(before: int, gap: int, after: int, filler: str) -> None:
    """Wherever the gap begins and ends: four characters in a row are no secret yet."""
    text = filler * before + KEY + filler * after
    data = text.encode()
    head_bytes = len(filler.encode()) * before + len(KEY) // 2 - gap // 2
    head, tail = data[: max(0, head_bytes)], data[max(0, head_bytes) + gap :]
    shown = output_of(outcome(head, tail=tail, dropped_bytes=len(data) - len(head) - len(tail)))
    assert "AAAA" not in shown


def test_text_beside_a_cut_is_kept_as_far_as_it_cannot_be_a_key() -> None:
    ended = outcome("one two c", tail=b"cut off three", dropped_bytes=10)
    assert output_of(ended) == "one two \n[… 14 bytes of output dropped …]\n off three"


@pytest.mark.parametrize(
    ("ended", "line"),
    [
        (outcome(exit_code=0), ""),
        (outcome(exit_code=3), "[exit code 3]"),
        (
            outcome(exit_code=None, verdict=Verdict.TIMEOUT),
            "[timed out after 1.5 s; everything it had started was killed]",
        ),
        (outcome(exit_code=None, verdict=Verdict.CANCELLED), "[cancelled; everything it had started was killed]"),
        (outcome(exit_code=None, verdict=Verdict.KILLED, signal=9), "[killed by signal 9]"),
        (
            outcome(exit_code=None, verdict=Verdict.OUTPUT_LIMIT),
            "[too much output: more than 3 MiB, so it was stopped; write to a file instead]",
        ),
        (
            outcome(exit_code=1, verdict=Verdict.DISK_FULL, full=FullDisk("/workspace", 10 << 30, lacks_files=False)),
            "[disk full: /workspace has no room (limit 10 GiB); delete files and try again]",
        ),
        (
            outcome(exit_code=1, verdict=Verdict.DISK_FULL, full=FullDisk("/tmp", 1 << 20, lacks_files=True)),
            "[disk full: /tmp has no room for another file; delete files and try again]",
        ),
        (
            outcome(exit_code=None, verdict=Verdict.DISK_FULL, error=CallError("enospc", "x: No space left")),
            "[disk full: x: No space left; delete files and try again]",
        ),
        (
            outcome(exit_code=None, verdict=Verdict.REFUSED, error=CallError("enoent", "x: No such file")),
            "[x: No such file]",
        ),
        (outcome(exit_code=None, verdict=Verdict.DONE, result={}), ""),
        (
            outcome(exit_code=3, is_state_lost=True),
            "[exit code 3; the Python interpreter was restarted: variables are gone, files are not]",
        ),
    ],
)
def test_endings(ended: CallOutcome, line: str) -> None:
    assert ending_of(ended, Limits(call_timeout_s=1.5, output_total_limit_bytes=3 << 20)) == line


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_but_a_good_one_has_an_ending(verdict: Verdict) -> None:
    ended = outcome(exit_code=1, verdict=verdict, result={}, signal=9)
    assert bool(ending_of(ended, Limits())) is not ended.is_ok


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (3 << 19, "1.5 MiB"), (10 << 30, "10 GiB")],
)
def test_sizes_as_people_read_them(count_bytes: int, text: str) -> None:
    assert size_of(count_bytes) == text


def test_an_interpreter_that_left_well_says_only_what_is_lost() -> None:
    assert ending_of(outcome(exit_code=0, is_state_lost=True), Limits()).startswith(
        "[the Python interpreter was restarted"
    )


@pytest.mark.parametrize(
    ("text", "ending", "whole"),
    [
        ("", "", ""),
        ("out\n", "", "out\n"),
        ("", "[exit code 1]", "[exit code 1]"),
        ("out", "[exit code 1]", "out\n[exit code 1]"),
        ("out\n", "[exit code 1]", "out\n[exit code 1]"),
    ],
)
def test_the_ending_is_a_line_of_its_own(text: str, ending: str, whole: str) -> None:
    assert with_ending(text, ending) == whole


def test_text_stays_text_without_images() -> None:
    assert with_images("text", outcome()) == "text"
    assert with_images("", outcome()) == ""


def test_images_come_after_the_text_and_empty_text_not_at_all() -> None:
    pictures = (Attachment("image/png", b"one"), Attachment("image/jpeg", b"two"))
    images = [
        ImageContent(mime_type=each.media_type, data=base64.b64encode(each.content).decode()) for each in pictures
    ]
    assert with_images("text", outcome(attachments=pictures)) == [TextContent(text="text"), *images]
    assert with_images("", outcome(attachments=pictures)) == images


def test_images_that_are_too_large_together_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_IMAGES_LIMIT_BYTES", 10)
    pictures = tuple(Attachment("image/png", b"x" * size) for size in (6, 6, 3))
    content = with_images("text", outcome(attachments=pictures))
    assert isinstance(content, list)
    assert isinstance(content[0], TextContent)
    assert "images dropped" in content[0].text
    assert len(content) == 2
