"""A Corral server as a client sees it: canned answers on the wire, and what was asked. No sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2

ENVIRONMENT = "3f0c9a52d1e84b7fa6c2b8e07d915c44"
INTERACTION = "v1_abc"


class FakeServer:
    """Answers each request with the next of `answers`, which are made with the functions below."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def transport(self) -> httpx2.BaseTransport:
        return httpx2.MockTransport(self._answer)

    def body(self, number: int = 0) -> Any:
        """The JSON that request `number` carried."""
        return json.loads(self.requests[number].content)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(body: Any, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, json=body)


def refusal(status: int, code: str, message: str) -> httpx2.Response:
    return answer({"error": {"code": code, "message": message}}, status)


def sse(*events: dict[str, Any], then: BaseException | None = None, is_done: bool = True) -> httpx2.Response:
    """A stream of events; it ends with the end marker, without, or with `then`."""

    def body() -> Iterator[bytes]:
        yield b": keep-alive\n\n"
        for event in events:
            yield f"event: {event.get('event_type') or event.get('kind')}\ndata: {json.dumps(event)}\n\n".encode()
        if then is not None:
            raise then
        if is_done:
            yield b"event: done\ndata: [DONE]\n\n"

    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())


def created(**fields: Any) -> dict[str, Any]:
    interaction = {"id": INTERACTION, "status": "in_progress", "environment_id": ENVIRONMENT, **fields}
    return {"event_type": "interaction.created", "event_id": "e1", "interaction": interaction}


def completed(status: str = "completed", **fields: Any) -> dict[str, Any]:
    interaction = {"id": INTERACTION, "status": status, "usage": {"total_tokens": 4396}, **fields}
    return {"event_type": "interaction.completed", "event_id": "e99", "interaction": interaction}


def step(index: int, shell: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A step's events, with ids."""
    events: list[dict[str, Any]] = [{"event_type": "step.start", "step": shell}]
    events += [{"event_type": "step.delta", "delta": delta} for delta in deltas]
    events += [{"event_type": "step.stop"}]
    return [{**event, "index": index, "event_id": f"e{index}_{at}"} for at, event in enumerate(events)]


def journal(kind: str, body: dict[str, Any], log: str = INTERACTION) -> dict[str, Any]:
    return {"at": "2026-11-20T09:00:41.120000Z", "log": log, "seq": 1, "kind": kind, "body": body}


def ndjson(*entries: dict[str, Any]) -> httpx2.Response:
    content = "".join(json.dumps(entry) + "\n" for entry in entries)
    return httpx2.Response(200, headers={"content-type": "application/x-ndjson"}, content=content.encode())
