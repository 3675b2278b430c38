"""Who may read the counters, and in which form they come."""

from __future__ import annotations

import hashlib

import pytest

from tests.fakes.api import Api
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio


async def key(api: Api, secret: str, *, is_operator: bool) -> dict[str, str]:
    project = await api.store.ensure_project("team")
    row = key_row(project.id, is_operator=is_operator)
    await api.store.create_key(row, hashlib.sha256(secret.encode()).digest())
    return {"authorization": f"Bearer {secret}"}


async def test_without_keys_the_machine_may_read_them_and_web_pages_may_not(api: Api) -> None:
    await api.create()
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'corral_interactions_total{status="completed"} 1.0\n' in answer.text
    assert "# TYPE corral_model_calls_total counter\n" in answer.text
    assert (await api.error("GET", "/metrics", headers={"origin": "https://example.com"}))[0] == 403
    assert (await api.error("GET", "/metrics?format=x"))[0] == 400


async def test_with_keys_they_are_the_operators_alone(api: Api) -> None:
    project = await key(api, "crl_project", is_operator=False)
    operator = await key(api, "crl_operator", is_operator=True)
    assert (await api.error("GET", "/metrics"))[:2] == (401, "unauthenticated")
    assert (await api.error("GET", "/metrics", headers=project))[:2] == (403, "permission_denied")
    assert (await api.client.get("/metrics", headers=operator)).status_code == 200
