"""An agent that thinks with a model of OpenAI, or of any server that speaks OpenAI's chat format, and works in a Linux
container. One REST call, nothing but Python's own library.

    OPENAI_API_KEY=… make serve                                    # the server has the key, in another terminal
    .venv/bin/corral models check openai:gpt-5-mini                # does the model answer?
    python examples/providers/openai/agent.py [PROVIDER:MODEL]

vLLM, Ollama, llama.cpp and the like need an address and no key, and the model is called as it is there:

    OPENAI_BASE_URL=http://127.0.0.1:11434/v1 make serve
    python examples/providers/openai/agent.py openai:qwen3

The server: CORRAL_URL, else http://127.0.0.1:8080. Where it has keys of its own: CORRAL_API_KEY.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.request import Request, urlopen

MODEL = sys.argv[1] if len(sys.argv) > 1 else "openai:gpt-5-mini"
SERVER = os.environ.get("CORRAL_URL", "http://127.0.0.1:8080")
SALES = "item,amount\ntea,3\ncoffee,5\ntea,4\n"


def call(method: str, path: str, body: Any = None) -> Any:
    headers = {"content-type": "application/json", "x-goog-api-key": os.environ.get("CORRAL_API_KEY", "none")}
    data = json.dumps(body).encode() if body is not None else None
    with urlopen(Request(f"{SERVER}/v1beta/{path}", data, headers, method=method)) as answer:
        return json.load(answer)


def text_of(blocks: Any) -> str:
    return blocks if isinstance(blocks, str) else "".join(block.get("text", "") for block in blocks or ())


interaction = call(
    "POST",
    "interactions",
    {
        "agent": "antigravity-preview-09-2026",
        "agent_config": {"type": "antigravity", "model": MODEL},
        "input": "Add up the amounts in sales.csv for each item, with Python. Which item sold most?",
        "environment": {
            "type": "remote",
            "sources": [{"type": "inline", "target": "workspace/sales.csv", "content": SALES}],
        },
    },
)
for step in interaction["steps"]:
    match step["type"]:
        case "thought":
            print("thought:", text_of(step.get("summary")))
        case "code_execution_call":
            print(f"runs {step['arguments']['language']}:\n{step['arguments']['code']}")
        case "code_execution_result":
            print(f"result:\n{text_of(step['result'])}")
        case "model_output":
            print("says:", text_of(step["content"]))
        case other:
            print(other)
usage = interaction["usage"]
print(f"{interaction['status']}: {usage['total_input_tokens']} tokens in, {usage['total_output_tokens']} out, {MODEL}")
call("DELETE", f"environments/{interaction['environment_id']}")
