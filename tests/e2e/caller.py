"""A client of the HTTP API that knows nothing of the server's code: httpx2, JSON and bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

AGENT = "antigravity-preview-09-2026"
INTERACTIONS = "/v1beta/interactions"
ENVIRONMENTS = "/v1beta/environments"
ENDED = ("completed", "failed", "cancelled", "incomplete", "requires_action")

Json = dict[str, Any]


class Caller:
    """Requests to one server, under one API key or none. Use as a context manager."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 50.0) -> None:
        self.http = httpx2.Client(
            base_url=url, headers={"x-goog-api-key": key} if key else {}, timeout=timeout_s, trust_env=False
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, text: str, environment: Any = None, **fields: Any) -> httpx2.Response:
        """The answer to a create call, whatever it is."""
        body = {"agent": AGENT, "input": text, **({"environment": environment} if environment else {}), **fields}
        return self.http.post(INTERACTIONS, json=body)

    def create(self, text: str, environment: Any = None, **fields: Any) -> Json:
        """The interaction that a create call answers with; it is accepted."""
        answer = self.post(text, environment, **fields)
        assert answer.status_code == 200, answer.text
        return as_object(answer)

    def start(self, text: str, environment: Any = None, **fields: Any) -> str:
        """Starts an interaction in the background; its id."""
        return str(self.create(text, environment, background=True, **fields)["id"])

    def new_environment(self, text: str = "", **spec: Any) -> str:
        """The id of a new environment in which `text` has run to its end."""
        made = self.create(text or "```bash\ntrue\n```", {"type": "remote", **spec})
        assert made["status"] == "completed", made
        return str(made["environment_id"])

    def read(self, interaction_id: str, **parameters: Any) -> Json:
        """An interaction as GET answers it."""
        return as_object(self.read_raw(interaction_id, **parameters))

    def read_raw(self, interaction_id: str, **parameters: Any) -> httpx2.Response:
        answer = self.http.get(f"{INTERACTIONS}/{interaction_id}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer

    def wait(self, interaction_id: str, *, timeout_s: float = 30.0) -> Json:
        """The interaction once it has ended."""
        deadline = time.monotonic() + timeout_s
        while (found := self.read(interaction_id))["status"] not in ENDED:
            assert time.monotonic() < deadline, f"still {found['status']} after {timeout_s} s: {found}"
            time.sleep(0.05)
        return found

    def cancel(self, interaction_id: str) -> Json:
        answer = self.http.post(f"{INTERACTIONS}/{interaction_id}/cancel")
        assert answer.status_code == 200, answer.text
        return as_object(answer)

    @contextmanager
    def stream(self, text: str, environment: Any = None, **fields: Any) -> Iterator[Iterator[bytes]]:
        """A streamed create call: pieces of its bytes as they come."""
        body = {"agent": AGENT, "input": text, "stream": True, **fields}
        if environment:
            body["environment"] = environment
        with self.http.stream("POST", INTERACTIONS, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield answer.iter_raw()

    @contextmanager
    def tail(self, interaction_id: str, after: str | None = None) -> Iterator[Iterator[bytes]]:
        """The stream of an interaction, from its start or after an event."""
        parameters = {"stream": "true", **({"last_event_id": after} if after else {})}
        with self.http.stream("GET", f"{INTERACTIONS}/{interaction_id}", params=parameters) as answer:
            assert answer.status_code == 200, answer.read()
            yield answer.iter_raw()

    def replay(self, interaction_id: str, after: str | None = None) -> bytes:
        """All bytes of an interaction's stream."""
        with self.tail(interaction_id, after) as pieces:
            return b"".join(pieces)

    def ps(self) -> Json:
        """What an operator sees."""
        return as_object(self.http.get("/ops/ps"))

    def standing(self) -> Json:
        """What an operator sees, without when environments were last used: a run that has just ended still moves it."""
        seen = self.ps()
        for environment in seen["environments"]:
            del environment["last_accessed"]
        return seen

    def journal(self, log_id: str) -> list[Json]:
        """Everything that is stored about an interaction or environment, as operators read it."""
        answer = self.http.get(f"/ops/logs/{log_id}")
        assert answer.status_code == 200, answer.text
        return [httpx2.Response(200, content=line).json() for line in answer.content.splitlines()]

    def await_output(self, interaction_id: str, text: str, *, timeout_s: float = 20.0) -> None:
        """Returns when a call of the interaction has written `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in "".join(
            str(entry["body"]["text"]) for entry in self.journal(interaction_id) if entry["kind"] == "tool.output"
        ):
            assert time.monotonic() < deadline, f"no output {text!r} within {timeout_s} s"
            time.sleep(0.05)

    def environments(self) -> list[str]:
        """Ids of the project's environments."""
        found: list[str] = []
        token = ""
        while True:
            page = self.http.get(ENVIRONMENTS, params={"page_size": 1000, **({"page_token": token} if token else {})})
            assert page.status_code == 200, page.text
            found += [str(each["id"]) for each in page.json()["environments"]]
            token = page.json().get("next_page_token", "")
            if not token:
                return found

    def delete_environment(self, environment_id: str) -> None:
        answer = self.http.delete(f"{ENVIRONMENTS}/{environment_id}")
        assert answer.status_code == 200, answer.text

    def delete_environments(self) -> None:
        for environment_id in self.environments():
            self.delete_environment(environment_id)


def as_object(answer: httpx2.Response) -> Json:
    """The JSON object of an answer."""
    value = answer.json()
    assert isinstance(value, dict), value
    return value
