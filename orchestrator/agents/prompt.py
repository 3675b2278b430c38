"""The system prompt of a call: who the agent is, what it was told, and where it is. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.agents.registry import AgentDefinition


def build_system(
    agent: AgentDefinition,
    system_instruction: str | None,
    facts: Mapping[str, str],
    answer_schema: dict[str, Any] | bool | None = None,
) -> str:
    """One text, most general first: the agent's instructions, those of this call (they add, not replace), facts, and
    the form of the final answer: a JSON schema, or True for any JSON.

    `facts` are what is true of this run and the model cannot see (`{"working directory": "/workspace"}`); they must not
    hold anything that came out of a sandbox. The order is stable, so that providers can reuse what they cached.
    """
    told = [agent.system_instruction, agent.instructions, (system_instruction or "").strip()]
    if facts:
        told.append("Facts about this run\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if answer_schema is not None:
        told.append("Your final answer is one JSON document and nothing else, not even a fence around it.")
    if isinstance(answer_schema, dict):
        told.append(f"It fits this JSON schema:\n\n{json.dumps(answer_schema, ensure_ascii=False)}")
    return "\n\n".join(part for part in told if part)
