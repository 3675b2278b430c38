"""An agent that thinks with a model of Anthropic and works in a Linux container, its steps as they come. One REST call
with server-sent events, nothing but Python's own library.

    ANTHROPIC_API_KEY=… make serve                                 # the server has the key, in another terminal
    .venv/bin/corral models check anthropic:claude-sonnet-5        # does the model answer?
    python examples/providers/anthropic/agent.py [PROVIDER:MODEL]

The server: CORRAL_URL, else http://127.0.0.1:8080. Where it has keys of its own: CORRAL_API_KEY.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

MODEL = sys.argv[1] if len(sys.argv) > 1 else "anthropic:claude-sonnet-5"
SERVER = os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")
HEADERS = {"content-type": "application/json", "x-goog-api-key": os.environ.get("CORRAL_API_KEY", "none")}
SALES = "item,amount\ntea,3\ncoffee,5\ntea,4\n"
REQUEST = {
    "agent": "antigravity-preview-09-2026",
    "agent_config": {"type": "antigravity", "model": MODEL},
    "input": "Add up the amounts in sales.csv for each item, with Python. Which item sold most?",
    "environment": {
        "type": "remote",
        "sources": [{"type": "inline", "target": "workspace/sales.csv", "content": SALES}],
    },
    "stream": True,
}


def events() -> Iterator[dict[str, Any]]:
    with urlopen(Request(f"{SERVER}/v1beta/interactions", json.dumps(REQUEST).encode(), HEADERS)) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


def show(text: str) -> None:
    print(text, end="", flush=True)


done: dict[str, Any] = {}
for event in events():
    match event:
        case {"event_type": "step.start", "step": {"type": kind}}:
            show(f"{kind}: ")
        case {"delta": {"type": "text", "text": text}} | {"delta": {"content": {"text": text}}}:
            show(text)
        case {"delta": {"type": "code_execution_call", "arguments": {"language": language, "code": code}}}:
            show(f"{language}\n{code}")
        case {"delta": {"type": "code_execution_result", "result": str(result)}}:
            show(f"\n{result}")
        case {"event_type": "step.stop"}:
            show("\n")
        case {"event_type": "interaction.completed", "interaction": interaction}:
            done = interaction
usage = done["usage"]
print(f"{done['status']}: {usage['total_input_tokens']} tokens in, {usage['total_output_tokens']} out, {MODEL}")
urlopen(Request(f"{SERVER}/v1beta/environments/{done['environment_id']}", headers=HEADERS, method="DELETE")).close()
