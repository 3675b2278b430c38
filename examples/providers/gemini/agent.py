"""An agent that thinks with Gemini and works in a Linux container, with Google's own SDK.

    GEMINI_API_KEY=… make serve                                    # the server has the key, in another terminal
    .venv/bin/corral models check gemini:gemini-3.8-flash          # does the model answer?
    pip install 'google-genai>=3'
    python examples/providers/gemini/agent.py [PROVIDER:MODEL]

The server: CORRAL_URL, else http://127.0.0.1:8080. Where it has keys of its own: CORRAL_API_KEY.
"""

from __future__ import annotations

import os
import sys

from google import genai
from google.genai import types

MODEL = sys.argv[1] if len(sys.argv) > 1 else "gemini:gemini-3.8-flash"
SALES = "item,amount\ntea,3\ncoffee,5\ntea,4\n"

client = genai.Client(
    api_key=os.environ.get("CORRAL_API_KEY", "none"),
    http_options=types.HttpOptions(base_url=os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")),
)
interaction = client.interactions.create(
    agent="antigravity-preview-09-2026",
    agent_config={"type": "antigravity", "model": MODEL},
    input="Add up the amounts in sales.csv for each item, with Python. Which item sold most?",
    environment={
        "type": "remote",
        "sources": [{"type": "inline", "target": "workspace/sales.csv", "content": SALES}],
    },
)
for step in interaction.steps:
    if step.type == "thought":
        print("thought:", *(block.text for block in step.summary or ()))
    elif step.type == "code_execution_call":
        print(f"runs {step.arguments.language}:\n{step.arguments.code}")
    elif step.type == "code_execution_result":
        print(f"result:\n{step.result}")
    elif step.type == "model_output":
        print("says:", *(block.text for block in step.content if block.type == "text"))
    else:
        print(step.type)
usage = interaction.usage
print(f"{interaction.status}: {usage.total_input_tokens} tokens in, {usage.total_output_tokens} out, {MODEL}")
client.environments.delete(id=str(interaction.environment_id))
