"""Skills of the server over REST: listed, and refused where they are asked for before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.skill_registry import SkillRegistry
from tests.fakes.api import Api

pytestmark = pytest.mark.anyio

SKILL: dict[str, Any] = {"type": "skill_registry", "source": "charts"}


@pytest.fixture
def skills(tmp_path: Path) -> SkillRegistry:
    for name, told in (("charts", "name: charts\ndescription: Draws."), ("bomb", "a: &a x\nname: bomb")):
        place = tmp_path / "skills" / name
        place.mkdir(parents=True)
        (place / "SKILL.md").write_text(f"---\n{told}\n---\n")
    return SkillRegistry.of(tmp_path / "skills")


@pytest.fixture
def serving(api: Api, skills: SkillRegistry) -> Api:
    api.world.agents.skills = skills
    return api


async def test_they_are_listed_with_what_is_wrong(serving: Api) -> None:
    bomb, charts = (await serving.client.get("/v1beta/skills")).json()["skills"]
    assert bomb == {"name": "bomb", "problem": "its front matter has anchors or aliases"}
    assert charts.items() >= {"name": "charts", "description": "Draws."}.items()
    assert len(charts["sha256"]) == 64


async def test_without_any_there_are_none(api: Api) -> None:
    assert (await api.client.get("/v1beta/skills")).json() == {"skills": []}


async def test_an_environment_says_which_it_has(serving: Api) -> None:
    made = (await serving.client.post("/v1beta/environments", json={"sources": [SKILL]})).json()
    (source,) = made["sources"]
    (known,) = [each for each in (await serving.client.get("/v1beta/skills")).json()["skills"] if "sha256" in each]
    assert source == {**SKILL, "target": ".agents/skills/charts", "sha256": known["sha256"]}
    again = await serving.client.post("/v1beta/environments", json={"sources": [source]})
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": "chart"}, "source': the server has no skill 'chart'; it has charts, bomb."),
        ({"source": "bomb"}, "source': skill 'bomb' cannot be used: its front matter has anchors or aliases."),
        ({"sha256": "0" * 64}, "sha256': skill 'charts' is another one by now"),
    ],
)
async def test_what_cannot_be_had_is_refused_by_the_field(serving: Api, change: dict[str, str], told: str) -> None:
    spec = {"type": "remote", "sources": [{**SKILL, **change}]}
    for path, body, at in (
        ("environments", {"sources": spec["sources"]}, "sources[0]."),
        ("interactions", {"agent": "general", "input": "x", "environment": spec}, "environment.sources[0]."),
        ("agents", {"id": "clerk", "base_environment": spec}, "base_environment.sources[0]."),
    ):
        status, code, message = await serving.error("POST", f"/v1beta/{path}", json=body)
        assert (status, code) == (400, "invalid_request")
        assert at + told in message
    assert (await serving.client.get("/v1beta/environments")).json()["environments"] == []


async def test_a_base_that_cannot_be_had_any_more_refuses_the_call(serving: Api) -> None:
    spec = {"type": "remote", "sources": [SKILL]}
    made = await serving.client.post("/v1beta/agents", json={"id": "clerk", "base_environment": spec})
    assert made.status_code == 200, made.text
    assert made.json()["base_environment"]["sources"] == [{**SKILL, "target": ".agents/skills/charts"}]
    serving.world.agents.skills = SkillRegistry()
    status, _, message = await serving.error(
        "POST", "/v1beta/interactions", json={"agent": "clerk", "input": "x", "environment": "remote"}
    )
    assert status == 400
    assert "'base_environment.sources[0].source': the server has no skill 'charts'" in message
