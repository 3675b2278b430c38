"""A model without an agent: instructions and generation config go along, and an answer that is cut says so."""

from __future__ import annotations

from typing import Any

MODEL = "gemini-3.8-flash"
SAYS = "```script\nturns: [{text: 'One, two, three.'}]\n```"


def look(sdk: Any) -> dict[str, Any]:
    create = sdk.interactions.create
    whole = create(model=MODEL, input=SAYS, system_instruction="Count.", generation_config={"temperature": 0.5})
    cut = create(model=MODEL, input=SAYS, generation_config={"max_output_tokens": 2}, previous_interaction_id=whole.id)
    read = sdk.interactions.get(whole.id)
    return {
        "model": whole.model,
        "texts": [whole.output_text, cut.output_text],
        "statuses": [whole.status, cut.status],
        "instruction": read.system_instruction,
        "environment_id": whole.environment_id,
    }
