from __future__ import annotations

import pytest

from orchestrator.wire.files import dump_entry, mime_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("main.py", "text/x-python; charset=utf-8"),
        ("a.CSV", "text/csv; charset=utf-8"),
        ("chart.png", "image/png"),
        ("x.tar.gz", "application/gzip"),
        ("data:text/html,x", "application/octet-stream"),
        ("none", "application/octet-stream"),
        (".html", "application/octet-stream"),
    ],
)
def test_types_go_by_the_name(name: str, expected: str) -> None:
    assert mime_type(name) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.5, "1970-01-01T00:00:00.500000Z"),
        (1e18, "9999-12-31T23:59:59.999999Z"),
        (-1e18, "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_the_nearest_that_it_has(seconds: float, expected: str) -> None:
    assert dump_entry(b"workspace/a", "file", 1, 0, seconds).modified == expected


def test_a_path_that_is_no_text_can_still_be_asked_for() -> None:
    entry = dump_entry(b"workspace/\xff", "file", 1, 0, 0)
    assert (entry.path, entry.encoded_path) == ("workspace/\ufffd", "workspace/%FF")
    assert dump_entry("workspace/ä".encode(), "file", 1, 0, 0).encoded_path is None


def test_folders_have_no_size_and_no_type() -> None:
    entry = dump_entry(b"workspace", "directory", 4096, 0, 0)
    assert (entry.type, entry.size_bytes, entry.mime_type) == ("DIRECTORY", None, None)
