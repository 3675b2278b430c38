"""Structured output: the final answer is JSON that fits the schema, unary and streamed."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.clients.observing import AGENT
from tests.e2e.clients.telling import FORECAST_FORMAT, TELLS_FORECAST


def look(sdk: Any) -> dict[str, Any]:
    create = sdk.interactions.create
    made = create(agent=AGENT, input=TELLS_FORECAST, response_format=FORECAST_FORMAT)
    listed = create(agent=AGENT, input=TELLS_FORECAST, response_format=[FORECAST_FORMAT])
    events = list(create(agent=AGENT, input=TELLS_FORECAST, response_format=FORECAST_FORMAT, stream=True))
    deltas = [event.delta for event in events if event.event_type == "step.delta"]
    unfit = create(agent=AGENT, input="```script\nturns: [{text: Warm.}]\n```", response_format=FORECAST_FORMAT)
    return {
        "unfit": unfit.status,
        "status": made.status,
        "answer": json.loads(made.output_text),
        "listed": json.loads(listed.output_text),
        "streamed": json.loads("".join(delta.text for delta in deltas if delta.type == "text")),
    }
