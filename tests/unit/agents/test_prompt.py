from __future__ import annotations

from orchestrator.agents.prompt import build_system
from orchestrator.agents.registry import AgentDefinition


def test_general_comes_first_and_the_call_adds() -> None:
    agent = AgentDefinition(id="a", system_instruction="One.", instructions="Two.")
    prompt = build_system(agent, " Three. ", {"working directory": "/workspace", "network": "none"})
    assert prompt == (
        "One.\n\nTwo.\n\nThree.\n\nFacts about this run\n\n- working directory: /workspace\n- network: none"
    )


def test_what_is_empty_leaves_no_trace() -> None:
    assert build_system(AgentDefinition(id="a", instructions="Two."), None, {}) == "Two."
