"""Tools declared as in Google's samples that reach nothing from here: their results are errors, the run goes on."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT, kinds
from tests.e2e.clients.telling import SEARCHES

TOOLS = [{"type": "google_search"}, {"type": "url_context"}, {"type": "code_execution"}]


def look(sdk: Any) -> dict[str, Any]:
    made = sdk.interactions.create(agent=AGENT, input=SEARCHES, tools=TOOLS)
    events = list(sdk.interactions.get(made.id, stream=True))
    return {
        "status": made.status,
        "kinds": kinds(made),
        "classes": [type(step).__name__ for step in made.steps],
        "asked": [made.steps[0].arguments.queries, made.steps[2].arguments.urls],
        "is_error": [step.is_error for step in made.steps if step.type.endswith("_result")],
        "delta_classes": sorted({type(event.delta).__name__ for event in events if event.event_type == "step.delta"}),
        "text": made.output_text,
    }
