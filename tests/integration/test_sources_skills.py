"""Skills of the server, delivered: whole, as they were checked, and to whoever may have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.skill_registry import RegisteredSkill, SkillRegistry
from orchestrator.sources import Fetcher
from tests.integration.sources import deliver, opened_fetcher, refused

pytestmark = pytest.mark.anyio

SKILL: dict[str, Any] = {"type": "skill_registry", "source": "charts", "target": "workspace/charts"}


@pytest.fixture
def skill(tmp_path: Path) -> Path:
    place = tmp_path / "skills" / "charts"
    (place / "scripts").mkdir(parents=True)
    (place / "SKILL.md").write_text("---\nname: charts\ndescription: Draws.\n---\n")
    (place / "scripts" / "draw.sh").write_text("echo drawn")
    (place / "scripts" / "draw.sh").chmod(0o755)
    (place / "scripts" / "again").symlink_to("draw.sh")
    return place


@pytest.fixture
def sha256(skill: Path) -> str:
    found = SkillRegistry.of(skill.parent).find("charts")
    assert isinstance(found, RegisteredSkill)
    return found.sha256


@pytest.fixture
async def fetcher(tmp_path: Path, skill: Path) -> AsyncGenerator[Fetcher, None]:
    async with opened_fetcher(tmp_path, skills=SkillRegistry.of(skill.parent).folders) as made:
        yield made


async def test_a_skill_comes_whole(fetcher: Fetcher, sha256: str) -> None:
    came = await deliver(fetcher, {**SKILL, "sha256": sha256}, network="disabled")
    files = {name.removeprefix("workspace/charts/"): mode for name, mode in came.modes.items()}
    assert files == {"SKILL.md": 0o644, "scripts": 0o755, "scripts/draw.sh": 0o755}
    assert came.files["workspace/charts/scripts/draw.sh"] == b"echo drawn"
    assert list(came.links.values()) == ["draw.sh"]


async def test_what_has_changed_since_it_was_checked_is_not_delivered(
    fetcher: Fetcher, skill: Path, sha256: str
) -> None:
    await asyncio.to_thread((skill / "scripts" / "draw.sh").write_text, "echo other")
    told = r"source 1 \(skill_registry\) could not be fetched: the skill 'charts' is not the same any more"
    inline = {"type": "inline", "content": "x"}
    await refused(fetcher, inline, {**SKILL, "sha256": sha256}, told=told)
    await deliver(fetcher, SKILL)


async def test_what_is_gone_since_it_was_checked_is_said(fetcher: Fetcher, skill: Path, sha256: str) -> None:
    await asyncio.to_thread((skill / "SKILL.md").unlink)
    await refused(fetcher, {**SKILL, "sha256": sha256}, told="does not have the skill 'charts' any more")


async def test_a_skill_has_limits_of_its_own(fetcher: Fetcher, skill: Path) -> None:
    await asyncio.to_thread((skill / "big").write_bytes, bytes(21 << 20))
    await refused(fetcher, SKILL, told="larger than 20971520 bytes")
