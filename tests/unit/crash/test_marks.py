"""The mark by which a sandbox of plain processes is known as a server's own, when that server dies as it writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.sandboxes.driver import SandboxSpec
from tests.fakes.local_driver import IMAGE, LocalDriver

pytestmark = pytest.mark.anyio


class Died(Exception):
    """In place of a SIGKILL."""


async def test_a_mark_is_whole_or_not_there(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die_in_the_middle(path: Path, _text: str, *_: Any, **__: Any) -> int:
        path.touch()
        raise Died

    driver = LocalDriver(short_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", die_in_the_middle)
        with pytest.raises(Died):
            async for _ in driver.create(SandboxSpec("one", IMAGE)):
                pass
    assert list(short_path.glob("*/instance")) == [], "it has no owner, and nobody would ever remove it"
    assert [each async for each in driver.owned()] == []
