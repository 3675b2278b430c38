"""`store: false`: the answer has no id, nothing can be asked for later, and what needs a record is refused."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT, bash, results
from tests.e2e.clients.telling import outcome


def look(sdk: Any) -> dict[str, Any]:
    create = sdk.interactions.create
    kept = create(agent=AGENT, input=bash("echo kept >kept.txt"), environment="remote")
    unary = create(agent=AGENT, input=bash("cat kept.txt"), environment=kept.environment_id, store=False)
    events = list(
        create(agent=AGENT, input=bash("cat kept.txt"), environment=unary.environment_id, store=False, stream=True)
    )
    return {
        "id": getattr(unary, "id", None),
        "status": unary.status,
        "same_environment": unary.environment_id == kept.environment_id,
        "results": results(unary),
        "ids_streamed": sorted({event.interaction.id or "" for event in events if hasattr(event, "interaction")}),
        "ends": [event.interaction.status for event in events if event.event_type == "interaction.completed"],
        "results_streamed": [
            event.delta.result
            for event in events
            if event.event_type == "step.delta" and event.delta.type == "code_execution_result"
        ],
        "background": outcome(lambda: create(agent=AGENT, input="x", store=False, background=True)),
    }
