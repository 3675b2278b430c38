"""The system prompt of a call: who the agent is, what it was told, and where it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.agents.registry import AgentDefinition


def build_system(agent: AgentDefinition, system_instruction: str | None, facts: Mapping[str, str]) -> str:
    """One text, most general first: the agent's instructions, those of this call (they add, not replace), and facts.

    `facts` are what is true of this run and the model cannot see (`{"working directory": "/workspace"}`); they must not
    hold anything that came out of a sandbox. The order is stable, so that providers can reuse what they cached.
    """
    told = [agent.system_instruction, agent.instructions, (system_instruction or "").strip()]
    if facts:
        told.append("Facts about this run\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items()))
    return "\n\n".join(part for part in told if part)
