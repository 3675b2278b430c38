"""Beside what `test_link` sends through a link: which outcomes are good ones."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.outcome import CallError, CallOutcome, FullDisk, read_outcome

HONEST: dict[str, Any] = {
    "exit_code": None,
    "signal": None,
    "dropped_bytes": 0,
    "tail_bytes": 0,
    "attachment_bytes": [],
}


def outcome(**fields: Any) -> CallOutcome:
    return read_outcome({**HONEST, **fields}, b"head", b"")


@pytest.mark.parametrize(
    ("fields", "is_ok"),
    [
        ({"verdict": "exited", "exit_code": 0}, True),
        ({"verdict": "exited", "exit_code": 1}, False),
        ({"verdict": "done", "result": {}}, True),
        ({"verdict": "refused", "error": {"code": "enoent", "message": "no"}}, False),
        ({"verdict": "timeout"}, False),
        ({"verdict": "timeout", "exit_code": 0}, False),
        ({"verdict": "cancelled"}, False),
        ({"verdict": "oom", "signal": 9}, False),
        ({"verdict": "pids"}, False),
        ({"verdict": "killed", "signal": 9}, False),
        ({"verdict": "output_limit"}, False),
        ({"verdict": "disk_full", "exit_code": 1}, False),
    ],
)
def test_what_is_well(fields: dict[str, Any], is_ok: bool) -> None:
    assert outcome(**fields).is_ok is is_ok


def test_a_full_disk_is_told_with_what_it_lacks() -> None:
    said = {"verdict": "disk_full", "exit_code": 1, "full": {"path": "/tmp", "size_bytes": 9, "lacks": "files"}}
    assert outcome(**said).full == FullDisk("/tmp", 9, lacks_files=True)
    error = {"code": "enospc", "message": "no room"}
    without_name = outcome(verdict="disk_full", error=error)
    assert (without_name.full, without_name.error) == (None, CallError("enospc", "no room"))


@pytest.mark.parametrize("full", [5, {}, {"path": "/", "size_bytes": -1, "lacks": "bytes"}, {"path": "/"}])
def test_a_full_disk_that_cannot_be_read_is_no_guests(full: object) -> None:
    with pytest.raises(SandboxGone):
        outcome(verdict="disk_full", exit_code=1, full=full)


def test_lost_state_is_told() -> None:
    assert outcome(verdict="exited", exit_code=3, state="lost").is_state_lost
    assert not outcome(verdict="exited", exit_code=0, state="kept").is_state_lost


def test_pictures_are_known_by_their_beginnings() -> None:
    pictures = {
        "image/png": b"\x89PNG\r\n\x1a\n...",
        "image/jpeg": b"\xff\xd8\xff\xe0...",
        "image/webp": b"RIFF\0\n\0\0WEBPVP8 ",
        "image/gif": b"GIF89a...",
    }
    false = {"image/png": b"GIF89a...", "image/svg+xml": b"<svg>", "text/html": b"<html>"}
    given = [*pictures.items(), *false.items()]
    sizes = {"attachment_types": [kind for kind, _ in given], "attachment_bytes": [len(each) for _, each in given]}
    found = read_outcome({**HONEST, **sizes, "verdict": "exited", "exit_code": 0}, b"", b"".join(c for _, c in given))
    assert {each.media_type: each.content for each in found.attachments} == pictures
