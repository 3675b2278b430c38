"""What an upload inside must never do, whoever is faster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.guest import uploads
from orchestrator.guest.file_tools import FileProblem


def test_what_has_come_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "waiting").write_text("new")
    (tmp_path / "place").write_text("old")
    waiting, place = (os.fsencode(tmp_path / name) for name in ("waiting", "place"))
    with pytest.raises(FileProblem):
        uploads._put(waiting, place, overwrite=False)
    assert (tmp_path / "place").read_text() == "old"
    uploads._put(waiting, place, overwrite=True)
    assert (tmp_path / "place").read_text() == "new"
    assert not (tmp_path / "waiting").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "/workspace/.corral-x", "/workspace/.corral-0123456789abcdef/x"])
def test_only_uploads_are_written_and_dropped(name: str) -> None:
    with pytest.raises(FileProblem):
        uploads.drop_upload({"temporary": name})
