"""What the tests of environments share: a world with a platform that is asked again at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.sandboxes import lifecycle, link, reconciler
from tests.fakes.lives import World, opened_world


@pytest.fixture
async def world(tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World, None]:
    monkeypatch.setattr(reconciler, "_RETRY_ENGINE_S", 0.05)
    monkeypatch.setattr(lifecycle, "_ENGINE_PATIENCE_S", 0.0)
    async with opened_world(tmp_path, short_path) as world:
        yield world


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_CANCEL_GRACE_S", 0.3), ("_OVERDUE_S", 0.3), ("_ANSWER_TIMEOUT_S", 0.3)):
        monkeypatch.setattr(link, name, value)
    for name in ("_GREETING_S", "_SUSPECT_GREETING_S"):
        monkeypatch.setattr(lifecycle, name, 0.3)
