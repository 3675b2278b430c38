from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.cli import local_store
from orchestrator.store.records import ProjectRow
from tests.unit.cli.conftest import Corral

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


class ProjectStore:
    """The part of the store that projects need, in memory."""

    def __init__(self) -> None:
        self.rows = {name: ProjectRow(f"prj_{name}", name, NOW) for name in ("default", "team")}

    async def projects(self) -> list[ProjectRow]:
        return list(self.rows.values())

    async def set_retention(self, name: str, days: int | None) -> ProjectRow | None:
        if name not in self.rows:
            return None
        self.rows[name] = replace(self.rows[name], retention_days=days)
        return self.rows[name]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ProjectStore:
    store = ProjectStore()

    @asynccontextmanager
    async def opened(_: Any) -> AsyncGenerator[ProjectStore]:
        yield store

    monkeypatch.setattr(local_store, "_open", opened)
    return store


@pytest.mark.parametrize(
    ("arguments", "days", "told"),
    [
        (("--days", "7"), 7, "team keeps interactions for 7 days"),
        (("--days", "0"), 0, "team keeps interactions for ever"),
        (("--default",), None, "team keeps interactions as the setting 'retention_days' says"),
    ],
)
def test_a_project_keeps_what_it_is_told(
    corral: Corral, store: ProjectStore, arguments: tuple[str, ...], days: int | None, told: str
) -> None:
    outcome = corral("projects", "keep", "team", *arguments)
    assert (outcome.code, outcome.out.strip()) == (0, told)
    assert store.rows["team"].retention_days == days
    assert store.rows["default"].retention_days is None


def test_all_are_listed(corral: Corral, store: ProjectStore) -> None:
    corral("projects", "keep", "team", "--days", "7")
    assert "for 7 days" in corral("projects", "list").out
    listed = json.loads(corral("projects", "list", "--json").out)["projects"]
    assert [(each["name"], each["retention_days"]) for each in listed] == [("default", None), ("team", 7)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--days", "7"), "nobody"),
        (("team",), "--default"),
        (("team", "--days", "7", "--default"), "--default"),
        (("team", "--days", "-1"), "--days"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    corral: Corral, store: ProjectStore, arguments: tuple[str, ...], said: str
) -> None:
    outcome = corral("projects", "keep", *arguments)
    assert outcome.code != 0
    assert said in outcome.err
    assert [row.retention_days for row in store.rows.values()] == [None, None]
