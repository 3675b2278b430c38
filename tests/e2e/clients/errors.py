"""What goes wrong, as the exceptions that users catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.e2e.clients.telling import AGENT, NOBODY, bash, outcome


def look(sdk: Any) -> dict[str, Any]:
    create, get = sdk.interactions.create, sdk.interactions.get
    finished = create(agent=AGENT, input="x")
    attempts: dict[str, Callable[[], Any]] = {
        "agent": lambda: create(agent="antigravity-preview-09-2025", input="x"),
        "environment": lambda: create(agent=AGENT, input="x", environment=NOBODY),
        "previous": lambda: create(agent=AGENT, input="x", previous_interaction_id="v1_nobody"),
        "field": lambda: create(agent=AGENT, input="x", extra_body={"inptu": "y"}),
        "network": lambda: create(
            agent=AGENT,
            input="x",
            environment={"type": "remote", "network": {"allowlist": [{"domain": "a.example", "credential": "c"}]}},
        ),
        "target": lambda: create(
            agent=AGENT,
            input="x",
            environment={
                "type": "remote",
                "sources": [{"type": "inline", "target": "etc/passwd", "content": "x"}],
            },
        ),
        "too large": lambda: create(agent=AGENT, input="x" * (33 << 20)),
        "read": lambda: get("v1_nobody"),
        "cancel": lambda: sdk.interactions.cancel("v1_nobody"),
        "delete": lambda: sdk.interactions.delete("v1_nobody"),
        "event": lambda: list(get(finished.id, stream=True, last_event_id="evt_999999")),
        "stream": lambda: list(create(agent=AGENT, input=bash("true"), environment=NOBODY, stream=True)),
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}
