"""What Eigent sends and reads: plain HTTP, its own spellings of an environment, text of now and of May 2026."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx2

from tests.e2e.clients.telling import AGENT, NOBODY, bash, tell, until, url

BASE = f"{url()}/v1beta"
"""Its GEMINI_INTERACTIONS_BASE_URL."""
HTTP = httpx2.Client(headers={"x-goog-api-key": "any"}, timeout=50.0, trust_env=False)


def body(text: str, environment: Any, **fields: Any) -> dict[str, Any]:
    return {"agent": AGENT, "input": [{"type": "text", "text": text}], "environment": environment, **fields}


def post(text: str, environment: Any, **fields: Any) -> Any:
    answer = HTTP.post(f"{BASE}/interactions", json=body(text, environment, stream=False, **fields))
    return answer.raise_for_status().json()


def stream(text: str, environment: Any, **fields: Any) -> Iterator[dict[str, Any]]:
    """Reads line by line, as it does."""
    wanted = body(text, environment, stream=True, **fields)
    with HTTP.stream("POST", f"{BASE}/interactions", json=wanted) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                yield json.loads(data)


@cache
def home() -> dict[str, Any]:
    """The environment of stories that do not care in which they are told."""
    return {"env_id": post(bash("true"), {"enabled": True})["environment_id"]}


def conversation() -> dict[str, Any]:
    first = post(bash("echo kept >kept.txt"), {"enabled": True})
    second = post(bash("cat kept.txt"), {"env_id": first["environment_id"]}, previous_interaction_id=first["id"])
    return {
        "statuses": [first["status"], second["status"]],
        "one_environment": first["environment_id"] == second["environment_id"],
        "previous": second["previous_interaction_id"] == first["id"],
        "results": [step["result"] for step in second["steps"] if step["type"] == "code_execution_result"],
    }


def streamed() -> dict[str, Any]:
    says = "```script\nturns: [{text: 'One, two, three.', chunk: 4}]\n```"
    events = list(stream(says, home()))
    kinds = ("step.delta", "content.delta")
    return {
        "text": "".join(event["delta"].get("text", "") for event in events if event["event_type"] in kinds),
        "has_environment": bool(events[0]["interaction"]["environment_id"]),
        "status": events[-1]["interaction"]["status"],
    }


def outputs() -> dict[str, Any]:
    """The final contents where answers had them before there were steps."""
    made = post("```script\nturns: [{text: Done.}]\n```", home())
    return {"outputs": made.get("outputs"), "output_text": made.get("output_text")}


def probe() -> dict[str, Any]:
    """How it validates a key: a run in the background, which it does not wait for."""
    begun = post("Reply with: ok", home(), background=True)
    interaction = f"{BASE}/interactions/{begun['id']}"
    ended = until(lambda: HTTP.get(interaction).json(), lambda found: found["status"] != "in_progress")
    return {"began_as": begun["status"], "status": ended["status"]}


def errors() -> dict[str, Any]:
    wanted = {
        "agent": {**body("x", home()), "agent": "nobody"},
        "environment": body("x", {"env_id": NOBODY}),
        "field": body("x", home(), inptu="y"),
    }
    answers = {name: HTTP.post(f"{BASE}/interactions", json=each) for name, each in wanted.items()}
    return {name: [answer.status_code, answer.json()["error"]["message"]] for name, answer in answers.items()}


if __name__ == "__main__":
    tell(
        {"conversation": conversation, "streamed": streamed, "outputs": outputs, "probe": probe, "errors": errors},
    )
