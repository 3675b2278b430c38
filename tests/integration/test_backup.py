"""A database that was restored from a backup, beside sandboxes that went on."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import DATABASE_NAME
from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import running

pytestmark = pytest.mark.anyio


async def test_sandboxes_that_know_later_servers_than_the_database_serve_again(tmp_path: Path, sandboxes: Path) -> None:
    data_dir, copy = tmp_path / "data", tmp_path / "copy.db"
    async with running(data_dir, LocalDriver(sandboxes)) as server:
        environment = (await server.create("```python\nkept = 41\n```", environment="remote"))["environment_id"]
    with sqlite3.connect(data_dir / DATABASE_NAME) as database:
        database.execute("VACUUM INTO ?", (str(copy),))
    database.close()
    for _ in range(3):
        async with running(data_dir, LocalDriver(sandboxes)) as server:
            await server.create("```python\nkept\n```", environment=environment)
    for file in data_dir.glob(f"{DATABASE_NAME}*"):
        file.unlink()
    copy.rename(data_dir / DATABASE_NAME)
    async with running(data_dir, LocalDriver(sandboxes)) as server:
        assert results(await server.create("```python\nkept + 1\n```", environment=environment)) == ["42\n"]
    async with running(data_dir, LocalDriver(sandboxes)) as server:
        assert results(await server.create("```python\nkept + 2\n```", environment=environment)) == ["43\n"]


def results(interaction: dict[str, Any]) -> list[str]:
    return [step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"]
