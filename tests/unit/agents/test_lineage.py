from __future__ import annotations

import pytest

from orchestrator.agents.lineage import Lineage, combined, parse_lineage
from orchestrator.errors import InvalidRequest
from orchestrator.wire.agents import AgentCreate, AgentParts
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.sources import InlineSource
from orchestrator.wire.tools import CodeExecutionTool, UrlContextTool


def environment(text: str) -> EnvironmentSpec:
    return EnvironmentSpec(sources=[InlineSource(target="workspace/a", content=text)])


BASE = AgentParts(
    system_instruction="Be brief.\n",
    tools=[CodeExecutionTool()],
    agent_config=AntigravityConfig(model="a:b", max_total_tokens=9),
    base_environment=environment("base"),
)


def test_who_says_nothing_is_as_its_base() -> None:
    assert combined(BASE, AgentParts()) == BASE.model_copy(update={"system_instruction": "Be brief."})
    assert combined(AgentParts(), AgentParts()) == AgentParts()
    assert combined(AgentParts(), BASE).tools == BASE.tools


def test_instructions_add_up_and_the_rest_is_that_of_the_most_specific() -> None:
    own = AgentParts(
        system_instruction="Be kind.",
        tools=[UrlContextTool()],
        agent_config=AntigravityConfig(max_total_tokens=5),
        base_environment=environment("own"),
    )
    both = combined(BASE, own)
    assert both.system_instruction == "Be brief.\n\nBe kind."
    assert both.tools == own.tools
    assert both.agent_config == AntigravityConfig(model="a:b", max_total_tokens=5)
    assert both.base_environment == own.base_environment


def test_no_tools_and_an_empty_environment_are_something() -> None:
    own = AgentParts(tools=[], base_environment=EnvironmentSpec())
    both = combined(BASE, own)
    assert both.tools == []
    assert both.base_environment == EnvironmentSpec()


def test_a_child_has_all_that_its_parents_have_also_after_it_was_stored() -> None:
    parent = AgentCreate(id="parent", **dict(BASE))
    middle = AgentCreate(id="middle", system_instruction="Be kind.", tools=[])
    lineage = Lineage("general").of_child("agt_1", parent).of_child("agt_2", middle)
    assert lineage.uids == ("agt_2", "agt_1")
    assert lineage.root == "general"
    assert lineage.inherited == combined(combined(AgentParts(), parent), middle)
    assert parse_lineage(lineage.dump()) == lineage


def test_there_is_an_end_to_it() -> None:
    lineage = Lineage("general")
    for number in range(7):
        lineage = lineage.of_child(f"agt_{number}", AgentCreate(id="a"))
    with pytest.raises(InvalidRequest, match="'base_agent': at most 8 agents"):
        lineage.of_child("agt_8", AgentCreate(id="a"))
