"""Whether a server may start with the sealing keys that it has, and putting what is sealed under the newest of them.

Imports `keys`, `sealing`, `store` and `errors`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator.credentials.keys import KeyFile, SealingKeys
from orchestrator.credentials.sealing import Place
from orchestrator.errors import ConfigError
from orchestrator.store.port import Store
from orchestrator.store.records import CredentialRow

_BATCH = 100
_HOW = "'corral keys rotate' makes one, or give it with the setting 'sealing_keys'"


async def check_keys(keys: SealingKeys, store: Store, *, is_single_user: bool) -> None:
    """Makes the first key where that is safe: in single-user mode, of a store that has nothing sealed.

    Raises:
        ConfigError: there is no key and it is not safe, or keys are missing that something is sealed with.
    """
    needed = await store.sealing_key_ids()
    if isinstance(keys, KeyFile) and not await asyncio.to_thread(keys.exists):
        if needed:
            raise ConfigError(
                f"the file of sealing keys {keys.path} is gone, and credentials are sealed with "
                f"{_listed(needed)}: put it back"
            )
        if not is_single_user:
            raise ConfigError(f"a server that others may use needs a sealing key, and {keys.path} is not there; {_HOW}")
        await asyncio.to_thread(keys.ensure)
    missing = needed - (await asyncio.to_thread(keys.ring)).ids
    if missing:
        raise ConfigError(
            f"credentials are sealed with {_listed(missing)}, which is not among the sealing keys: put it back"
        )


def _listed(key_ids: set[str]) -> str:
    return f"the key{'s' if len(key_ids) > 1 else ''} {', '.join(sorted(key_ids))}"


def place_of(row: CredentialRow) -> Place:
    """Where its secret stands."""
    return Place("credentials", row.uid, row.project_id, "sealed")


@dataclass(frozen=True, slots=True)
class Resealed:
    """What came of it."""

    key_id: str
    """What everything is sealed with now."""
    count: int
    """How many credentials were sealed anew."""


async def reseal_all(store: Store, keys: SealingKeys) -> Resealed:
    """Seals what other keys have sealed with the newest, in batches, beside a server that may be running.

    Broken off it has done a part; called again it does the rest.

    Raises:
        StoreError: something cannot be opened; what came before it is done.
    """
    count = 0
    while True:
        # Looked at again for each batch: of two that do this at once, both come to the newest key.
        ring = await asyncio.to_thread(keys.ring)
        rows = await store.credentials_of_other_keys(ring.newest.id, limit=_BATCH)
        if not rows:
            return Resealed(ring.newest.id, count)
        for row in rows:
            assert row.sealed is not None  # noqa: S101 - what is revoked is not listed
            plain = ring.open(row.key_id, row.sealed, place_of(row))
            await store.reseal_credential(row, *ring.seal(plain, place_of(row)))
        count += len(rows)
