"""A streamed call: typed events as they come, and the same once more from the record."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT

PROGRAM = """```script
turns:
  - thought: Count first.
    calls: [{tool: code_execution, arguments: {language: bash, code: "seq 3"}}]
  - calls: [{tool: write_file, arguments: {path: streamed.txt, content: done}}]
  - text: One, two, three.
    chunk: 4
```"""


def look(sdk: Any) -> dict[str, Any]:
    live = list(sdk.interactions.create(agent=AGENT, input=PROGRAM, environment="remote", stream=True))
    interaction_id = live[0].interaction.id
    replayed = list(sdk.interactions.get(interaction_id, stream=True))
    deltas = [event.delta for event in live if event.event_type == "step.delta"]
    return {
        "kinds": [event.event_type for event in live],
        "classes": sorted({type(event).__name__ for event in live}),
        "delta_classes": sorted({type(delta).__name__ for delta in deltas}),
        "delta_kinds": [delta.type for delta in deltas],
        "event_ids": [event.event_id for event in live],
        "text": "".join(delta.text for delta in deltas if delta.type == "text"),
        "environment_id": live[0].interaction.environment_id,
        "last_environment_id": live[-1].interaction.environment_id,
        "status": live[-1].interaction.status,
        "tokens": live[-1].interaction.usage.total_tokens,
        "read_text": sdk.interactions.get(interaction_id).output_text,
        "replay_is_the_same": replayed == live,
    }
