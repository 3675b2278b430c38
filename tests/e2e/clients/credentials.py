"""The official Python SDK on credentials: `python -m tests.e2e.clients.credentials`. The life of some, in one story."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import client
from tests.e2e.clients.telling import AGENT, bash, tell


def look() -> dict[str, Any]:
    """What a user sees from the first call to the last."""
    whole = client("default")  # it closes what it has given when it is collected
    ours = whole.credentials
    bearer = ours.create(
        type="bearer_token", id="cred_bearer_123", token="canary", header_name="X-Custom-Auth", prefix="Token"
    )
    variable = ours.create(
        type="environment_variable",
        id="cred_env_123",
        value="canary",
        injection_location=["header", "query"],
        trusted_domains=["api.example.com", "service.example.org"],
    )
    first = ours.list(page_size=1)
    rest = ours.list(page_token=first.next_page_token)
    got = ours.get(id="cred_env_123")
    one = ours.update(id="cred_bearer_123", type="bearer_token", token="canary-2", update_mask="token")
    other = ours.update(
        id="cred_env_123", type="environment_variable", injection_location="body", trusted_domains=["a.example.com"]
    )
    refused = {
        "twice": _refusal(lambda: ours.create(type="bearer_token", id="cred_bearer_123", token="canary")),
        "another type": _refusal(lambda: ours.update(id="cred_env_123", type="bearer_token", token="canary")),
        "not exchanged": _refusal(
            lambda: ours.create(
                type="oauth2",
                id="mail",
                client_id="me",
                client_secret="canary",
                refresh_token="canary",
                token_url="https://127.0.0.1/token",
            )
        ),
    }
    used = whole.interactions.create(
        agent=AGENT,
        input=bash('echo have $TOKEN; curl -sS -H "X-Token: $TOKEN" http://b.example/'),
        environment={"type": "remote", "env": {"TOKEN": {"credential": "cred_env_123"}}},
    )
    for each in ("cred_bearer_123", "cred_env_123"):
        ours.delete(id=each)
    refused["deleted"] = _refusal(lambda: ours.get(id="cred_env_123"))
    return {
        "made": [
            [each.id, each.type, each.status, each.create_time == each.update_time] for each in (bearer, variable)
        ],
        "listed": [each.id for page in (first, rest) for each in page.credentials],
        "got": got == variable,
        "changed": [each.update_time > each.create_time for each in (one, other)],
        "refused": refused,
        "used": [step.result for step in used.steps if step.type == "code_execution_result"],
        "left": len(ours.list().credentials or []),
    }


def _refusal(call: Any) -> list[str]:
    try:
        call()
    except Exception as error:
        return [str(getattr(error, "code", None) or getattr(error, "status_code", "")), str(error)]
    return ["none", ""]


if __name__ == "__main__":
    tell({"credentials": look})
