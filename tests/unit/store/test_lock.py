from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.store.lock import LOCK_NAME, DataFolderLock


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    with DataFolderLock(tmp_path), pytest.raises(ConfigError, match=rf"process id {os.getpid()}; stop that server"):
        DataFolderLock(tmp_path).acquire()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    lock = DataFolderLock(tmp_path)
    for _ in range(2):
        lock.acquire()
        lock.release()
        lock.release()
    with DataFolderLock(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_locks_on_other_folders_do_not_meet(tmp_path: Path) -> None:
    with DataFolderLock(tmp_path / "a"), DataFolderLock(tmp_path / "b"):
        assert (tmp_path / "a" / LOCK_NAME).exists()
        assert (tmp_path / "b" / LOCK_NAME).exists()


def test_the_same_lock_is_not_taken_twice(tmp_path: Path) -> None:
    with DataFolderLock(tmp_path) as lock, pytest.raises(ConfigError):
        lock.acquire()


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with DataFolderLock(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / LOCK_NAME).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/data cannot be used: Not a directory"):
        DataFolderLock(tmp_path / "file" / "data").acquire()


def test_an_unwritten_process_id_is_no_trouble(tmp_path: Path) -> None:
    with DataFolderLock(tmp_path):
        (tmp_path / LOCK_NAME).write_text("")
        with pytest.raises(ConfigError, match="in use by another process"):
            DataFolderLock(tmp_path).acquire()
