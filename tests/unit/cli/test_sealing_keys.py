"""`corral keys rotate`, on a real store."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import open_store
from orchestrator.config import Settings
from orchestrator.credentials.keys import KeyFile
from orchestrator.credentials.safekeeping import place_of
from orchestrator.credentials.sealing import SealingKey
from orchestrator.store.lock import DataFolderLock
from tests.fakes.rows import credential_row
from tests.unit.cli.conftest import Corral


@pytest.fixture
def data(folder: Path) -> Path:
    return folder / "data"


@pytest.fixture
def file(data: Path) -> KeyFile:
    return KeyFile(data / "sealing_keys")


def keep(data: Path, key: SealingKey, name: str = "crm") -> None:
    """Keeps a credential that this key has sealed."""

    async def work() -> None:
        async with open_store(Settings(data_dir=data)) as store:
            row = credential_row((await store.default_project()).id, name=name)
            from orchestrator.credentials.sealing import KeyRing

            key_id, sealed = KeyRing([key]).seal(b"secret", place_of(row))
            await store.create_credential(replace(row, key_id=key_id, sealed=sealed), limit=9)

    asyncio.run(work())


def needed(data: Path) -> set[str]:
    async def work() -> set[str]:
        async with open_store(Settings(data_dir=data)) as store:
            return await store.sealing_key_ids()

    return asyncio.run(work())


def rotate(corral: Corral, *options: str) -> dict[str, Any]:
    outcome = corral("keys", "rotate", "--json", *options)
    assert outcome.code == 0, outcome.err
    said: dict[str, Any] = json.loads(outcome.out)
    return said


def test_the_first_time_makes_a_key(corral: Corral, file: KeyFile) -> None:
    assert rotate(corral) == {"sealing_key": file.ring().newest.id, "resealed": 0, "older": 0, "dropped": 0}
    assert len(file.ring().ids) == 1


def test_everything_is_sealed_with_a_new_key_and_the_old_one_stays(corral: Corral, data: Path, file: KeyFile) -> None:
    old = file.add()
    for name in ("a", "b"):
        keep(data, old, name)
    said = rotate(corral)
    new = file.ring().newest
    assert said == {"sealing_key": new.id, "resealed": 2, "older": 1, "dropped": 0}
    assert needed(data) == {new.id}
    assert file.ring().ids == {old.id, new.id}
    outcome = corral("keys", "rotate")
    assert outcome.out.startswith("2 credentials sealed anew; the sealing key is ")
    assert "2 older sealing keys stay, for backups; --drop-old removes them" in outcome.err


def test_old_keys_are_removed_on_request_while_no_server_runs(corral: Corral, data: Path, file: KeyFile) -> None:
    keep(data, file.add())
    lock = DataFolderLock(data)
    lock.acquire()
    before = file.path.read_text()
    outcome = corral("keys", "rotate", "--drop-old")
    assert outcome.code == 2
    assert "in use" in outcome.err
    assert file.path.read_text() == before
    lock.release()
    said = rotate(corral, "--drop-old")
    assert (said["resealed"], said["older"], said["dropped"]) == (1, 0, 1)
    assert file.ring().ids == needed(data) == {said["sealing_key"]}


def test_a_key_that_is_gone_is_not_replaced(corral: Corral, data: Path, file: KeyFile) -> None:
    keep(data, file.add())
    file.path.unlink()
    outcome = corral("keys", "rotate")
    assert outcome.code == 2
    assert "is gone, and credentials are sealed with the key" in outcome.err
    assert not file.exists()


def test_keys_of_a_setting_are_the_operators_to_add(
    corral: Corral, data: Path, file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = SealingKey.new(), SealingKey.new()
    keep(data, old)
    monkeypatch.setenv("CORRAL_SEALING_KEYS", json.dumps([old.text, new.text]))
    assert rotate(corral) == {"sealing_key": new.id, "resealed": 1, "older": 1, "dropped": 0}
    assert needed(data) == {new.id}
    assert not file.exists()
    outcome = corral("keys", "rotate", "--drop-old")
    assert outcome.code == 2
    assert "remove old ones there" in outcome.err
