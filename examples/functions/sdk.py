"""An agent that asks your program: a function of your own, and a last answer that is JSON of a given form.

    pip install 'google-genai>=3'
    python examples/functions/sdk.py

The server: CORRAL_URL, else http://127.0.0.1:8080 (make serve). Where it has keys: CORRAL_API_KEY.
"""

from __future__ import annotations

import json
import os
from typing import Any

from google import genai
from google.genai import types

AGENT = "antigravity-preview-09-2026"
# What a language model would decide by itself, written out for the scripted one: two questions, some code, an answer.
PROMPT = """\
Which invoice is larger, 881 or 882?

```script
turns:
  - calls:
      - {tool: invoice, arguments: {number: 881}}
      - {tool: invoice, arguments: {number: 882}}
  - calls: [{tool: code_execution, arguments: {language: bash, code: "echo 'comparing 300 and 120'"}}]
  - text: 'The first one.'
    again: ['{"number": 881, "amount": 300}']
```
"""
TOOLS = [
    {"type": "code_execution"},
    {
        "type": "function",
        "name": "invoice",
        "description": "Looks up one invoice.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
]
ANSWER = {
    "type": "text",
    "mime_type": "application/json",
    "schema": {
        "type": "object",
        "properties": {"number": {"type": "integer"}, "amount": {"type": "number"}},
        "required": ["number", "amount"],
    },
}
LEDGER = {881: {"amount": 300, "paid": True}, 882: {"amount": 120, "paid": False}}

client = genai.Client(
    api_key=os.environ.get("CORRAL_API_KEY", "none"),
    http_options=types.HttpOptions(base_url=os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")),
)


def answers(interaction: Any) -> list[dict[str, Any]]:
    """A result for each call that the agent left to us."""
    calls = [step for step in interaction.steps if step.type == "function_call"]
    done = {step.call_id for step in interaction.steps if step.type == "function_result"}
    return [
        {"type": "function_result", "call_id": call.id, "name": call.name, "result": LEDGER[call.arguments["number"]]}
        for call in calls
        if call.id not in done
    ]


interaction = client.interactions.create(
    agent=AGENT, input=PROMPT, tools=TOOLS, environment="remote", response_format=ANSWER
)
while interaction.status == "requires_action":
    given = answers(interaction)
    print("asked:", *(each["result"]["amount"] for each in given))
    # Tools need not be sent again; what the answer must look like is said with each call.
    interaction = client.interactions.create(
        agent=AGENT,
        input=given,
        previous_interaction_id=interaction.id,
        environment=interaction.environment_id,
        response_format=ANSWER,
    )
print(interaction.status, json.loads(interaction.output_text))
client.environments.delete(id=str(interaction.environment_id))
