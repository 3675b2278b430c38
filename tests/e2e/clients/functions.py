"""Functions of the client: several calls at once are answered in one input, until the agent asks for nothing more."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.clients.observing import AGENT
from tests.e2e.clients.telling import ASKS_TWICE, SKIES, WEATHER

MOST_ROUNDS = 5


def look(sdk: Any) -> dict[str, Any]:
    """Finds the calls as Google's samples do: those without a result. The tools are declared in the first call only."""
    asked = sdk.interactions.create(agent=AGENT, input=ASKS_TWICE, tools=[WEATHER])
    statuses, cities, chained = [asked.status], [], []
    while asked.status == "requires_action" and len(statuses) < MOST_ROUNDS:
        answered = {step.call_id for step in asked.steps if step.type == "function_result"}
        calls = [step for step in asked.steps if step.type == "function_call" and step.id not in answered]
        cities.append([call.arguments["city"] for call in calls])
        given = [
            {
                "type": "function_result",
                "name": call.name,
                "call_id": call.id,
                "result": {"sky": SKIES[call.arguments["city"]]},
            }
            for call in calls
        ]
        before = asked
        asked = sdk.interactions.create(agent=AGENT, input=given, previous_interaction_id=before.id)
        statuses.append(asked.status)
        chained.append(asked.previous_interaction_id == before.id)
    return {"statuses": statuses, "cities": cities, "chained": chained, "text": asked.output_text}


def look_replayed(sdk: Any) -> dict[str, Any]:
    """Keeps the conversation itself, as Google's samples without a record do: each call gets all steps again."""
    history: list[Any] = [{"type": "user_input", "content": [{"type": "text", "text": ASKS_TWICE}]}]
    statuses: list[str] = []
    cities: list[list[str]] = []
    text = ""
    while len(statuses) < MOST_ROUNDS:
        made = sdk.interactions.create(agent=AGENT, input=history, tools=[WEATHER], store=False)
        statuses.append(made.status)
        text = made.output_text
        if made.status != "requires_action":
            break
        calls = [step for step in made.steps if step.type == "function_call"]
        cities.append([call.arguments["city"] for call in calls])
        history += made.steps
        history += [
            {
                "type": "function_result",
                "name": call.name,
                "call_id": call.id,
                "result": SKIES[call.arguments["city"]],
            }
            for call in calls
        ]
    return {"statuses": statuses, "cities": cities, "text": text}


def look_streamed(sdk: Any) -> dict[str, Any]:
    """Gathers the arguments from fragments, answers in the other order, and with content blocks and text."""
    given: Any = ASKS_TWICE
    previous: dict[str, Any] = {}
    ends: list[str] = []
    cities: list[list[str]] = []
    text = ""
    while len(ends) < MOST_ROUNDS:
        calls: dict[int, dict[str, Any]] = {}
        for event in sdk.interactions.create(agent=AGENT, input=given, tools=[WEATHER], stream=True, **previous):
            if event.event_type == "step.start" and event.step.type == "function_call":
                calls[event.index] = {"id": event.step.id, "name": event.step.name, "arguments": ""}
            elif event.event_type == "step.delta" and event.delta.type == "arguments_delta":
                calls[event.index]["arguments"] += event.delta.arguments
            elif event.event_type == "step.delta" and event.delta.type == "text":
                text += event.delta.text
            elif event.event_type == "interaction.completed":
                ends.append(event.interaction.status)
                previous = {"previous_interaction_id": event.interaction.id}
        if ends[-1] != "requires_action":
            break
        wanted = [(call, json.loads(call["arguments"])["city"]) for call in calls.values()]
        cities.append([city for _, city in wanted])
        given = [
            {
                "type": "function_result",
                "name": call["name"],
                "call_id": call["id"],
                "result": SKIES[city] if city == "Rome" else [{"type": "text", "text": SKIES[city]}],
            }
            for call, city in reversed(wanted)
        ]
    return {"ends": ends, "cities": cities, "text": text}
