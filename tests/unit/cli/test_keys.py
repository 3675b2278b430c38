from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import local_store
from orchestrator.store.records import KeyRow, ProjectRow
from tests.unit.cli.conftest import Corral

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


class KeyStore:
    """The part of the store that keys need, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[KeyRow, bytes]] = {}

    async def default_project(self) -> ProjectRow:
        return ProjectRow("prj_default", "default", NOW)

    async def ensure_project(self, name: str) -> ProjectRow:
        return ProjectRow(f"prj_{name}", name, NOW)

    async def create_key(self, key: KeyRow, key_hash: bytes) -> None:
        self.rows[key.id] = (key, key_hash)

    async def keys(self) -> list[KeyRow]:
        return [row for row, _ in self.rows.values()]

    async def sealing_key_ids(self) -> set[str]:
        return set()

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        if key_id not in self.rows:
            return None
        row, key_hash = self.rows[key_id]
        self.rows[key_id] = (replace(row, revoked=NOW), key_hash)
        return self.rows[key_id][0]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    store = KeyStore()

    @asynccontextmanager
    async def opened(_: Any) -> AsyncGenerator[KeyStore]:
        yield store

    monkeypatch.setattr(local_store, "_open", opened)
    return store


def test_a_key_is_shown_once_and_only_its_hash_is_kept(corral: Corral, store: KeyStore) -> None:
    outcome = corral("keys", "create", "--project", "team", "--name", "ci", "--operator")
    secret = outcome.out.strip()
    assert re.fullmatch(r"crl_[A-Za-z0-9_-]{43}", secret)
    ((row, key_hash),) = store.rows.values()
    assert key_hash == hashlib.sha256(secret.encode()).digest()
    assert (row.project_id, row.name, row.is_operator) == ("prj_team", "ci", True)
    assert secret.startswith(row.prefix)
    assert len(row.prefix) <= 12
    assert secret not in corral("keys", "list").out
    assert secret not in corral("keys", "list", "--json").out


def test_keys_belong_to_the_default_project_unless_told(corral: Corral, store: KeyStore) -> None:
    made = json.loads(corral("keys", "create", "--json").out)
    assert (made["project"], made["operator"]) == ("prj_default", False)
    assert made["key"].startswith("crl_")


def test_the_first_key_brings_a_sealing_key_along(corral: Corral, store: KeyStore, folder: Path) -> None:
    assert corral("keys", "create").code == 0
    sealing = (folder / "data/sealing_keys").read_text()
    assert corral("keys", "create").code == 0
    assert (folder / "data/sealing_keys").read_text() == sealing


def test_two_keys_differ(corral: Corral, store: KeyStore) -> None:
    assert corral("keys", "create").out != corral("keys", "create").out
    assert len(store.rows) == 2


def test_revoked_keys_stay_in_the_list(corral: Corral, store: KeyStore) -> None:
    identity = json.loads(corral("keys", "create", "--json").out)["id"]
    assert corral("keys", "revoke", identity).out == f"revoked {identity}\n"
    (listed,) = json.loads(corral("keys", "list", "--json").out)["keys"]
    assert listed["revoked"] == NOW.isoformat()
    assert "2026-11-20 09:00" in corral("keys", "list").out


def test_an_unknown_key_cannot_be_revoked(corral: Corral, store: KeyStore) -> None:
    outcome = corral("keys", "revoke", "key_x")
    assert outcome.code == 2
    assert "there is no key 'key_x'" in outcome.err


def test_an_empty_list_says_what_that_means(corral: Corral, store: KeyStore) -> None:
    assert corral("keys", "list").out.startswith("no keys: only this machine")
