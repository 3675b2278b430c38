"""LiteLLM's `litellm.interactions`: `Api-Revision` header, `?alt=sse`, the `:cancel` form, its own error classes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm  # type: ignore[import-not-found]

from tests.e2e.clients.telling import (
    AGENT,
    ASKS_TWICE,
    FORECAST_FORMAT,
    NOBODY,
    SEARCHES,
    SKIES,
    TELLS_FORECAST,
    WEATHER,
    bash,
    outcome,
    tell,
    until,
    url,
)

WHERE = {"api_base": url(), "api_key": "any"}
STREAMED = """```script
turns:
  - thought: Count first.
    calls: [{tool: code_execution, arguments: {language: bash, code: "seq 3"}}]
  - text: One, two, three.
    chunk: 4
```"""

litellm.suppress_debug_info = True


def create(text: Any, **fields: Any) -> Any:
    return litellm.interactions.create(agent=AGENT, input=text, **fields, **WHERE)


def get(interaction_id: str) -> Any:
    return litellm.interactions.get(interaction_id=interaction_id, **WHERE)


def unary() -> dict[str, Any]:
    made = create(bash("echo hello"), environment="remote")
    read = get(made.id)
    return {
        "status": made.status,
        "agent": made.agent,
        "kinds": _kinds(made),
        "read_kinds": _kinds(read),
        "results": _results(made),
        "has_environment": bool(made.environment_id),
        "tokens": made.usage["total_tokens"],
    }


def stream() -> dict[str, Any]:
    events = list(create(STREAMED, environment="remote", stream=True))
    return {**_streamed(events), "read": _kinds(get(events[0].interaction["id"]))}


def stream_asynchronously() -> dict[str, Any]:
    async def listen() -> list[Any]:
        made = await litellm.interactions.acreate(
            agent=AGENT, input=STREAMED, environment="remote", stream=True, **WHERE
        )
        return [event async for event in made]

    return _streamed(asyncio.run(listen()))


def background() -> dict[str, Any]:
    begun = create(bash("sleep 1; echo done"), environment="remote", background=True)
    ended = until(lambda: get(begun.id), lambda found: found.status != "in_progress")
    long = create(bash("sleep 300"), environment=begun.environment_id, background=True)
    until(lambda: get(long.id), lambda found: "code_execution_call" in _kinds(found))
    cancelled = litellm.interactions.cancel(interaction_id=long.id, **WHERE)
    after = get(long.id)
    deleted = litellm.interactions.delete(interaction_id=long.id, **WHERE)
    return {
        "began_as": begun.status,
        "status": ended.status,
        "results": _results(ended),
        "cancel_says": cancelled.status,
        "then_reads": after.status,
        "deleted": deleted.success,
        "after_delete": outcome(lambda: get(long.id))[:2],
    }


def conversation() -> dict[str, Any]:
    first = create(bash("echo kept >kept.txt"), environment="remote")
    content = [{"type": "text", "text": bash("cat kept.txt")}]
    second = create(content, environment=first.environment_id, previous_interaction_id=first.id)
    as_model = litellm.interactions.create(
        model=f"gemini/{AGENT}",
        input=bash("cat kept.txt"),
        environment=first.environment_id,
        previous_interaction_id=second.id,
        **WHERE,
    )
    return {
        "statuses": [each.status for each in (first, second, as_model)],
        "previous": [second.previous_interaction_id == first.id, as_model.previous_interaction_id == second.id],
        "one_environment": len({each.environment_id for each in (first, second, as_model)}) == 1,
        "results": [_results(second), _results(as_model)],
    }


def model() -> dict[str, Any]:
    made = litellm.interactions.create(
        model="gemini/gemini-3.8-flash",
        input="```script\nturns: [{text: 'One, two, three.'}]\n```",
        system_instruction="Count.",
        generation_config={"max_output_tokens": 2},
        **WHERE,
    )
    return {"model": made.model, "status": made.status, "text": _text(made)}


def functions() -> dict[str, Any]:
    asked = create(ASKS_TWICE, tools=[WEATHER])
    statuses, cities = [asked.status], []
    while asked.status == "requires_action" and len(statuses) < 5:
        calls = [step for step in asked.steps if step["type"] == "function_call"]
        cities.append([call["arguments"]["city"] for call in calls])
        given = [
            {
                "type": "function_result",
                "name": call["name"],
                "call_id": call["id"],
                "result": {"sky": SKIES[call["arguments"]["city"]]},
            }
            for call in calls
        ]
        asked = create(given, previous_interaction_id=asked.id, tools=[WEATHER])
        statuses.append(asked.status)
    return {"statuses": statuses, "cities": cities, "text": _text(asked)}


def stateless() -> dict[str, Any]:
    unary = create(bash("echo hello"), environment="remote", store=False)
    events = list(create(bash("echo hello"), environment=unary.environment_id, store=False, stream=True))
    return {"id": unary.id, "status": unary.status, "results": _results(unary), "streamed": _streamed(events)["status"]}


def structured() -> dict[str, Any]:
    now = create(TELLS_FORECAST, response_format=FORECAST_FORMAT)
    old = create(
        TELLS_FORECAST, response_format=FORECAST_FORMAT["schema"], response_mime_type=FORECAST_FORMAT["mime_type"]
    )
    return {"now": json.loads(_text(now)), "old": json.loads(_text(old))}


def offered() -> dict[str, Any]:
    made = create(SEARCHES, tools=[{"type": "google_search"}, {"type": "url_context"}])
    return {"status": made.status, "kinds": _kinds(made), "text": _text(made)}


def errors() -> dict[str, Any]:
    return {
        "agent": outcome(lambda: litellm.interactions.create(agent="nobody", input="x", **WHERE)),
        "environment": outcome(lambda: create("x", environment=NOBODY)),
        "previous": outcome(lambda: create("x", previous_interaction_id="v1_nobody")),
        "field": outcome(lambda: create("x", extra_body={"inptu": "y"})),
        "read": outcome(lambda: get("v1_nobody")),
        "cancel": outcome(lambda: litellm.interactions.cancel(interaction_id="v1_nobody", **WHERE)),
        "stream": outcome(lambda: list(create("x", environment=NOBODY, stream=True))),
    }


def _kinds(interaction: Any) -> list[str]:
    return [step["type"] for step in interaction.steps]


def _results(interaction: Any) -> list[Any]:
    return [step["result"] for step in interaction.steps if step["type"].endswith("_result")]


def _text(interaction: Any) -> str:
    (output,) = [step for step in interaction.steps if step["type"] == "model_output"]
    return "".join(block["text"] for block in output["content"])


def _streamed(events: list[Any]) -> dict[str, Any]:
    deltas = [event.delta for event in events if event.event_type == "step.delta"]
    return {
        "first": events[0].event_type,
        "last": events[-1].event_type,
        "delta_kinds": sorted({delta["type"] for delta in deltas}),
        "text": "".join(delta["text"] for delta in deltas if delta["type"] == "text"),
        "status": events[-1].interaction["status"],
        "tokens": events[-1].interaction["usage"]["total_tokens"],
    }


if __name__ == "__main__":
    tell(
        {
            "unary": unary,
            "stream": stream,
            "stream asynchronously": stream_asynchronously,
            "background": background,
            "conversation": conversation,
            "model": model,
            "functions": functions,
            "stateless": stateless,
            "structured": structured,
            "offered": offered,
            "errors": errors,
        }
    )
