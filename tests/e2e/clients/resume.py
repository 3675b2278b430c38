"""A stream that is left in the middle and taken up again after the last event seen, while the run goes on."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT

PROGRAM = """```script
turns:
  - calls: [{tool: code_execution, arguments: {language: bash, code: "echo first"}}]
  - calls: [{tool: code_execution, arguments: {language: bash, code: "sleep 1; echo second"}}]
  - text: Both are done.
    chunk: 3
```"""
LEFT_AFTER = 6


def look(sdk: Any) -> dict[str, Any]:
    stream = sdk.interactions.create(agent=AGENT, input=PROGRAM, environment="remote", stream=True, background=True)
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == LEFT_AFTER:
            break
    interaction_id = seen[0].interaction.id
    rest = list(sdk.interactions.get(interaction_id, stream=True, last_event_id=seen[-1].event_id))
    whole = list(sdk.interactions.get(interaction_id, stream=True))
    middle = whole[len(whole) // 2].event_id
    after_last = list(sdk.interactions.get(interaction_id, stream=True, last_event_id=whole[-1].event_id))
    texts = [event.delta for event in rest if event.event_type == "step.delta" and event.delta.type == "text"]
    after_middle = list(sdk.interactions.get(interaction_id, stream=True, last_event_id=middle))
    return {
        "seen": len(seen),
        "rest": len(rest),
        "joined_is_whole": seen + rest == whole,
        "after_middle_is_the_second_half": after_middle == whole[len(whole) // 2 + 1 :],
        "after_the_last": len(after_last),
        "status": rest[-1].interaction.status,
        "text": "".join(delta.text for delta in texts),
        "environment_id": seen[0].interaction.environment_id,
    }
