"""Where the files of sandboxes are: by the settings, and by where they are already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import choose_disks
from orchestrator.config import Settings
from orchestrator.errors import ConfigError


@pytest.fixture(autouse=True)
def is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def settings(short_path: Path, **chosen: Any) -> Settings:
    return Settings(data_dir=short_path, **{"engine_url": f"unix://{short_path}/nobody.sock", **chosen})


def with_disk(short_path: Path) -> None:
    place = short_path / "disks" / "files" / "sandboxes"
    place.mkdir(parents=True)
    (place / "0123.img").touch()


@pytest.mark.parametrize("is_container", [True, False])
def test_an_engine_that_is_away_takes_nobodys_disks(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, is_container: bool
) -> None:
    """A machine starts, and the server is there before its engine: sandboxes must not begin without their files."""
    monkeypatch.setattr("orchestrator.sandboxes.engine_host._is_in_container", lambda: is_container)
    with_disk(short_path)
    assert choose_disks(settings(short_path)) is not None


@pytest.mark.parametrize("url", ["ssh://root@elsewhere", "tcp://127.0.0.1:1"])
def test_disks_that_cannot_be_used_any_more_are_no_reason_to_start_without_them(short_path: Path, url: str) -> None:
    with_disk(short_path)
    with pytest.raises(ConfigError, match="cannot be used: the engine is on another machine"):
        choose_disks(settings(short_path, engine_url=url))
    assert choose_disks(settings(short_path, engine_url=url, storage="layers")) is None, "as the operator says"


def test_a_pool_counts_although_it_is_not_mounted(short_path: Path) -> None:
    (short_path / "disks").mkdir()
    (short_path / "disks" / "pool.xfs").touch()
    assert choose_disks(settings(short_path)) is not None


def test_without_any_they_are_taken_where_they_are_possible(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sandboxes.engine_host._is_in_container", lambda: True)
    assert choose_disks(settings(short_path)) is None
    monkeypatch.setattr("orchestrator.sandboxes.engine_host._is_in_container", lambda: False)
    assert choose_disks(settings(short_path)) is not None
    with pytest.raises(ConfigError, match="no disks here: the engine is on another machine"):
        choose_disks(settings(short_path, engine_url="ssh://root@elsewhere", storage="disks"))
