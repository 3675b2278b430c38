"""The official Python SDK on agents: `python -m tests.e2e.clients.managed_agents`. The life of one, in one story."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import client
from tests.e2e.clients.telling import AGENT, tell

CLERK = "ledger-clerk"
READS = "```bash\ncat rules.md; echo mine > rules.md\n```"


def look() -> dict[str, Any]:
    """What a user sees from the first call to the last."""
    ours = client("default")
    base = {"type": "remote", "sources": [{"type": "inline", "target": "workspace/rules.md", "content": "Be brief."}]}
    made = ours.agents.create(
        id=CLERK,
        base_agent=AGENT,
        description="Reconciles ledgers",
        system_instruction="End with a table.",
        tools=[{"type": "code_execution"}],
        base_environment=base,
    )
    ran = [ours.interactions.create(agent=CLERK, input=READS, environment="remote") for _ in range(2)]
    on = ours.interactions.create(agent=CLERK, input=READS, environment=ran[0].environment_id)
    pinned = ours.interactions.create(agent=f"{CLERK}@1", input=READS, environment="remote")
    listed = ours.agents.list().agents
    got = ours.agents.get(id=CLERK)
    ours.agents.delete(id=CLERK)
    try:
        ours.agents.get(id=CLERK)
        after = "there"
    except Exception as error:
        after = str(getattr(error, "code", None) or getattr(error, "status_code", error))
    kept = ours.interactions.get(id=ran[0].id)
    return {
        "made": [made.id, made.base_agent, made.description, made.system_instruction],
        "sources": [source.content for source in got.base_environment.sources],
        "runs": [_result(each) for each in ran],
        "environments": len({each.environment_id for each in (*ran, pinned)}),
        "goes on": _result(on),
        "pinned": [_result(pinned), pinned.agent],
        "listed": [agent.id for agent in listed],
        "after": after,
        "kept": [kept.status, kept.agent],
    }


def _result(interaction: Any) -> str:
    (found,) = [step.result for step in interaction.steps if step.type == "code_execution_result"]
    return str(found).strip()


if __name__ == "__main__":
    tell({"agents": look})
