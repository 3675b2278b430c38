"""Posting to real servers: rules, secrets, redirects, servers that are slow or answer without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from orchestrator.egress.posting import Posted, Poster
from orchestrator.errors import NetworkError
from orchestrator.policy.network import HostList
from orchestrator.policy.secrets import header_secret
from orchestrator.wire.environments import parse_environment
from orchestrator.wire.network import Network
from tests.fakes.web_server import WebServer, answer, redirect
from tests.integration.sources import PROJECT, Credentials

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    made = Poster(HostList.parse(["127.0.0.1"]))
    yield made
    await made.aclose()


def rules(*allowed: dict[str, Any]) -> Network | None:
    spec = parse_environment({"type": "remote", "network": {"allowlist": list(allowed)}})
    assert spec is not None
    return spec.network


async def post(poster: Poster, url: str, network: Network | None = None, **fields: Any) -> Posted:
    given = {"timeout_s": 10, "limit_bytes": 1000, **fields}
    headers = given.pop("headers", {})
    return await poster.post(network, url, headers, b'{"a": 1}', **given)


async def refused(poster: Poster, url: str, network: Network | None = None, **fields: Any) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        await post(poster, url, network, **fields)
    return caught.value


async def test_a_credential_of_the_rules_goes_along_and_is_looked_up_each_time(web: WebServer) -> None:
    web.pages["/"] = web.taking(b"taken")
    credentials = Credentials(crm=header_secret("crm", "X-Key", "", "canary-token"))
    made = Poster(HostList.parse(["127.0.0.1"]), find=credentials.find)
    named = rules({"domain": "127.0.0.1", "credential": "crm", "transform": {"X-A": "1"}})
    try:
        await post(made, f"{web.url}/", named, headers={"x-key": "own"}, project_id=PROJECT)
        credentials.known.clear()
        refusal = await refused(made, f"{web.url}/", named, project_id=PROJECT)
    finally:
        await made.aclose()
    assert "is revoked" in refusal.message
    ((_, headers),) = web.requests
    assert (headers["x-key"], headers["x-a"]) == ("canary-token", "1")


async def test_the_body_arrives_and_the_rule_has_the_last_word_about_headers(poster: Poster, web: WebServer) -> None:
    bodies: list[bytes] = []

    def take(request: BaseHTTPRequestHandler) -> None:
        bodies.append(request.rfile.read(int(request.headers["Content-Length"])))
        answer(request, b"taken", status=201)

    web.pages["/hook"] = take
    rule = {"domain": "127.0.0.1", "transform": {"Authorization": "Bearer right"}}
    own = {"authorization": "Bearer wrong", "X-Source": "s"}
    assert await post(poster, f"{web.url}/hook?a=1", rules(rule), headers=own) == Posted(201, b"taken")
    ((path, headers),) = web.requests
    assert (path, headers["authorization"], headers["x-source"]) == ("/hook?a=1", "Bearer right", "s")
    assert bodies == [b'{"a": 1}']


async def test_a_redirect_is_an_answer(poster: Poster, web: WebServer) -> None:
    web.pages["/hook"] = redirect("/other")
    assert (await post(poster, f"{web.url}/hook")).status == 302
    assert [path for path, _ in web.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("url", "network", "told"),
    [
        ("http://127.0.0.2:1/", None, "is not public"),
        ("http://169.254.169.254/latest", None, "is not public"),
        ("http://[::ffff:169.254.169.254]/", None, "is not public"),
        ("http://0x7f.1/", None, "four decimal numbers"),
        ("file:///etc/passwd", None, "must begin with"),
        ("http://me:secret@127.0.0.1/", None, "do not belong into an address"),
        ("http://127.0.0.1:1/", {"domain": "example.com"}, "not in the allowlist"),
    ],
)
async def test_what_policy_refuses(poster: Poster, url: str, network: dict[str, Any] | None, told: str) -> None:
    error = await refused(poster, url, rules(network) if network is not None else None)
    assert error.code == "network_refused"
    assert told in error.message
    assert "secret" not in error.message


async def test_nobody_there_and_an_answer_without_end(poster: Poster, web: WebServer) -> None:
    assert (await refused(poster, "http://127.0.0.1:1/")).code == "network_failed"
    web.pages["/hook"] = lambda request: answer(request, b"x" * 5000)
    assert "more than 1000 bytes" in (await refused(poster, f"{web.url}/hook")).message


async def test_who_is_silent_is_cut_off_and_others_go_on(poster: Poster, web: WebServer) -> None:
    goes_on = threading.Event()

    def hang(_request: BaseHTTPRequestHandler) -> None:
        goes_on.wait(30)

    web.pages["/slow"] = hang
    web.pages["/hook"] = lambda request: answer(request, b"there")
    try:
        slow = [refused(poster, f"{web.url}/slow", timeout_s=0.2) for _ in range(20)]
        quick = post(poster, f"{web.url}/hook")
        failures, answered = await asyncio.wait_for(asyncio.gather(asyncio.gather(*slow), quick), 8)
    finally:
        goes_on.set()
    assert answered == Posted(200, b"there")
    assert all("does not answer" in each.message for each in failures)


async def test_a_cancel_cuts_the_connection(poster: Poster, web: WebServer) -> None:
    asked, seen_end = threading.Event(), threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        request.rfile.read(int(request.headers["Content-Length"]))
        if request.connection.recv(1) == b"":
            seen_end.set()

    web.pages["/slow"] = hang
    posting = asyncio.create_task(post(poster, f"{web.url}/slow", timeout_s=60))
    assert await asyncio.to_thread(asked.wait, 10)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    assert await asyncio.to_thread(seen_end.wait, 10)


async def test_certificates_count(tmp_path: Path) -> None:
    exceptions = HostList.parse(["127.0.0.1"])
    with WebServer(tmp_path) as web:
        web.pages["/hook"] = lambda request: answer(request, b"there")
        stranger, friend = Poster(exceptions), Poster(exceptions, web.ca)
        try:
            assert "certificate is not good" in (await refused(stranger, f"{web.url}/hook")).message
            assert await post(friend, f"{web.url}/hook") == Posted(200, b"there")
        finally:
            await stranger.aclose()
            await friend.aclose()
