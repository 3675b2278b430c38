"""What callers and the log are told of failures, beside the error's own status, code and message."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import structlog.testing
from starlette.types import Message, Receive, Scope, Send

from orchestrator.api.errors import LastResort
from orchestrator.errors import StoreError
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.api import Api
from tests.fakes.rows import key_row

pytestmark = pytest.mark.anyio


async def test_a_mistake_of_ours_can_be_found_in_the_log(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    owner = await api.store.ensure_project("ours")
    await api.store.create_key(key_row(owner.id), hashlib.sha256(b"crl_ours").digest())
    monkeypatch.setattr(SqliteStore, "interaction", broken)
    headers = {"x-goog-api-key": "crl_ours", "origin": "https://page.example"}
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await api.client.get("/v1beta/interactions/v1_x", headers=headers)
    assert answer.status_code == 500
    assert [line["request_id"] for line in lines] == [answer.headers["x-request-id"]]
    assert answer.headers["access-control-allow-origin"] == "*", "a page may read it, too"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1beta/environments", "GET, POST"),
        ("/v1/interactions/v1_x", "GET, DELETE"),
        ("/v1beta/interactions/v1_x/cancel", "POST"),
        ("/ops/ps", "GET"),
    ],
)
async def test_other_methods_are_told_all_that_are_possible(api: Api, path: str, methods: str) -> None:
    for method in ("PATCH", "OPTIONS"):
        answer = await api.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


async def test_a_store_that_fails_before_a_route_is_reached_is_no_mistake_of_ours(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> None:
        raise StoreError("busy", code="store_busy", retryable=True)

    monkeypatch.setattr(SqliteStore, "keys", busy)
    answer = await api.client.get("/v1beta/interactions/v1_x", headers={"origin": "https://page.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_busy")
    assert answer.headers["retry-after"] == "1"


async def test_what_breaks_after_the_answer_has_begun_is_logged_and_cut_off() -> None:
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise ZeroDivisionError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with structlog.testing.capture_logs() as lines, pytest.raises(ZeroDivisionError):
        await LastResort(app)({"type": "http", "path": "/v1beta/interactions"}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert [(line["event"], line["path"]) for line in lines] == [("request_broken", "/v1beta/interactions")]


@pytest.mark.parametrize("value", ["0.5", "1732060800", "2026-11-20", "2026-11-20T09:00:00"])
async def test_moments_are_rfc_3339_with_an_offset(api: Api, value: str) -> None:
    for name in ("created_from", "created_before"):
        status, code, message = await api.error("GET", "/v1beta/interactions", params={name: value})
        assert (status, code) == (400, "invalid_request")
        assert message.startswith(f"Invalid value at '{name}': ")
        assert "Value error" not in message
    answer = await api.client.get("/v1beta/interactions", params={"created_from": "9999-12-31T23:59:59.5-01:00"})
    assert answer.json() == {"interactions": []}
