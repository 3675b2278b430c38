from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.credentials.keys import GivenKeys, KeyFile
from orchestrator.credentials.safekeeping import check_keys, place_of, reseal_all
from orchestrator.credentials.sealing import KeyRing, SealingKey
from orchestrator.errors import ConfigError, StoreError
from orchestrator.store.records import CredentialRow
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.rows import credential_row

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(tmp_path / "corral.db", ManualClock())
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "sealing_keys")


async def kept(store: SqliteStore, ring: KeyRing, secret: bytes = b"secret", name: str = "crm") -> CredentialRow:
    row = credential_row((await store.default_project()).id, name=name)
    key_id, sealed = ring.seal(secret, place_of(row))
    row = replace(row, key_id=key_id, sealed=sealed)
    await store.create_credential(row, limit=1000)
    return row


async def test_a_first_key_is_made_in_single_user_mode_alone(store: SqliteStore, file: KeyFile) -> None:
    with pytest.raises(ConfigError, match=r"needs a sealing key.*corral keys rotate"):
        await check_keys(file, store, is_single_user=False)
    assert not await asyncio.to_thread(file.exists)
    await check_keys(file, store, is_single_user=True)
    newest = (await asyncio.to_thread(file.ring)).newest
    await check_keys(file, store, is_single_user=False)
    assert (await asyncio.to_thread(file.ring)).newest == newest


async def test_a_key_that_something_is_sealed_with_must_be_there(store: SqliteStore, file: KeyFile) -> None:
    await check_keys(file, store, is_single_user=True)
    row = await kept(store, (await asyncio.to_thread(file.ring)))
    file.path.rename(file.path.with_name("away"))
    with pytest.raises(ConfigError, match=f"is gone, and credentials are sealed with the key {row.key_id}"):
        await check_keys(file, store, is_single_user=True)
    assert not await asyncio.to_thread(file.exists)
    with pytest.raises(ConfigError, match=f"the key {row.key_id}, which is not among"):
        await check_keys(GivenKeys([SealingKey.new().text]), store, is_single_user=True)
    await store.revoke_credential(row.uid)
    await check_keys(file, store, is_single_user=True)


async def test_everything_is_sealed_with_the_newest_key(store: SqliteStore, file: KeyFile) -> None:
    await asyncio.to_thread(file.ensure)
    old = await asyncio.to_thread(file.ring)
    rows = [await kept(store, old, b"%d" % number, f"c{number}") for number in range(250)]
    new = await asyncio.to_thread(file.add)
    outcome = await reseal_all(store, file)
    assert (outcome.key_id, outcome.count) == (new.id, 250)
    assert await store.sealing_key_ids() == {new.id}
    for number, row in enumerate(rows):
        found = await store.credential(row.project_id, row.name)
        assert found is not None
        assert found.sealed is not None
        assert KeyRing([new]).open(found.key_id, found.sealed, place_of(found)) == b"%d" % number
        assert (found.version, found.updated) == (row.version, row.updated)
    assert (await reseal_all(store, file)).count == 0


async def test_resealing_that_was_broken_off_goes_on(store: SqliteStore, file: KeyFile) -> None:
    await asyncio.to_thread(file.ensure)
    for number in range(3):
        await kept(store, (await asyncio.to_thread(file.ring)), name=f"c{number}")
    new = await asyncio.to_thread(file.add)
    first, *_ = await store.credentials_of_other_keys(new.id, limit=1)
    assert first.sealed is not None
    plain = (await asyncio.to_thread(file.ring)).open(first.key_id, first.sealed, place_of(first))
    await store.reseal_credential(first, *(await asyncio.to_thread(file.ring)).seal(plain, place_of(first)))
    assert (await reseal_all(store, file)).count == 2


async def test_two_that_rotate_at_once_come_to_the_newest_key(store: SqliteStore, file: KeyFile) -> None:
    await asyncio.to_thread(file.ensure)
    for number in range(250):
        await kept(store, await asyncio.to_thread(file.ring), name=f"c{number}")

    async def rotated() -> str:
        beside = KeyFile(file.path)
        await asyncio.to_thread(beside.add)
        return (await reseal_all(store, beside)).key_id

    async with asyncio.timeout(20):
        await asyncio.gather(*(rotated() for _ in range(3)))
    assert await store.sealing_key_ids() == {(await asyncio.to_thread(file.ring)).newest.id}


async def test_a_row_that_does_not_open_is_named(store: SqliteStore, file: KeyFile) -> None:
    await asyncio.to_thread(file.ensure)
    row = await kept(store, (await asyncio.to_thread(file.ring)))
    assert row.sealed is not None
    await store.replace_credential(replace(row, version=2, sealed=row.sealed[::-1]))
    await asyncio.to_thread(file.add)
    with pytest.raises(StoreError, match=row.uid):
        await reseal_all(store, file)
