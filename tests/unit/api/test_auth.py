from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from fastapi import Request

from orchestrator.api.auth import Authenticator, Caller, is_loopback
from orchestrator.errors import PermissionDenied, Unauthenticated
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.clock import ManualClock
from tests.fakes.rows import key_row

KEY = "crl_" + "k" * 43


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(tmp_path / "corral.db", ManualClock())
    await store.open()
    yield store
    await store.aclose()


def request(query: str = "", **headers: str) -> Request:
    sent = {"host": "127.0.0.1:8080", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in sent.items() if value]
    return Request({"type": "http", "headers": raw, "query_string": query.encode(), "path": "/", "method": "GET"})


async def add_key(store: SqliteStore, key: str = KEY, **fields: object) -> Caller:
    project = await store.ensure_project("team")
    row = key_row(project.id, **fields)
    await store.create_key(row, hashlib.sha256(key.encode()).digest())
    return Caller(project.id, row.is_operator, row.id)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("corral.example", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_what_only_this_machine_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.anyio
class TestSingleUser:
    async def test_everybody_is_the_operator_of_the_default_project(self, store: SqliteStore) -> None:
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        caller = await authenticator.caller(request())
        assert caller == Caller((await store.default_project()).id, is_operator=True)
        assert caller.scope is None

    @pytest.mark.parametrize("key", ["anything", "", "crl_unknown"])
    async def test_clients_that_always_send_a_key_are_served(self, store: SqliteStore, key: str) -> None:
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        assert (await authenticator.caller(request(x_goog_api_key=key))).is_operator

    @pytest.mark.parametrize(
        "host", ["corral.example", "corral.example:8080", "", "127.0.0.1.example", "[::1", "a b", "@127.0.0.1@x", "[]"]
    )
    async def test_a_foreign_host_is_refused(self, store: SqliteStore, host: str) -> None:
        """A page whose name was bound to this address after it was loaded."""
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        with pytest.raises(PermissionDenied):
            await authenticator.caller(request(host=host))

    @pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost", "127.0.0.1"])
    async def test_loopback_names_are_served(self, store: SqliteStore, host: str) -> None:
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        for sent in ({}, {"origin": f"http://{host}"}):
            assert (await authenticator.caller(request(host=host, **sent))).is_operator

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "http://127.0.0.1",
            "http://localhost:8080",
            "http://[",
            "127.0.0.1:8080",
            "x",
        ],
    )
    async def test_a_foreign_page_is_refused(self, store: SqliteStore, origin: str) -> None:
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        with pytest.raises(PermissionDenied):
            await authenticator.caller(request(origin=origin))

    async def test_the_first_key_ends_it_within_a_second(self, store: SqliteStore) -> None:
        clock = ManualClock()
        authenticator = Authenticator(store, clock, "127.0.0.1")
        await authenticator.caller(request())
        await add_key(store)
        clock.advance(1.1)
        with pytest.raises(Unauthenticated):
            await authenticator.caller(request())

    async def test_a_revoked_key_does_not_bring_it_back(self, store: SqliteStore) -> None:
        await add_key(store)
        (row,) = await store.keys()
        await store.revoke_key(row.id)
        with pytest.raises(Unauthenticated):
            await Authenticator(store, ManualClock(), "127.0.0.1").caller(request())

    async def test_another_address_never_has_it(self, store: SqliteStore) -> None:
        with pytest.raises(Unauthenticated):
            await Authenticator(store, ManualClock(), "0.0.0.0").caller(request())


@pytest.mark.anyio
class TestKeys:
    @pytest.mark.parametrize(
        "sent",
        [
            {"x_goog_api_key": KEY},
            {"authorization": f"Bearer {KEY}"},
            {"authorization": f"bearer  {KEY} "},
            {"query": f"key={KEY}"},
        ],
    )
    async def test_a_key_may_come_in_every_way_that_clients_use(self, store: SqliteStore, sent: dict[str, str]) -> None:
        expected = await add_key(store)
        authenticator = Authenticator(store, ManualClock(), "0.0.0.0")
        caller = await authenticator.caller(request(sent.pop("query", ""), **sent))
        assert caller == expected
        assert caller.scope == expected.project_id

    async def test_with_a_key_the_page_does_not_matter(self, store: SqliteStore) -> None:
        expected = await add_key(store)
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        sent = request(x_goog_api_key=KEY, origin="https://app.example", host="x.example")
        assert await authenticator.caller(sent) == expected

    async def test_an_operators_key_sees_everything(self, store: SqliteStore) -> None:
        await add_key(store, is_operator=True)
        authenticator = Authenticator(store, ManualClock(), "0.0.0.0")
        assert (await authenticator.caller(request(x_goog_api_key=KEY))).scope is None

    @pytest.mark.parametrize("key", ["crl_wrong", KEY[:-1], KEY + "x", "ä\u00ff", "'; --", "x" * 100_000])
    async def test_other_keys_are_refused_in_one_way(self, store: SqliteStore, key: str) -> None:
        await add_key(store)
        authenticator = Authenticator(store, ManualClock(), "127.0.0.1")
        with pytest.raises(Unauthenticated, match="unknown or revoked"):
            await authenticator.caller(request(x_goog_api_key=key))

    async def test_a_revoked_key_is_refused_like_an_unknown_one(self, store: SqliteStore) -> None:
        await add_key(store)
        (row,) = await store.keys()
        await store.revoke_key(row.id)
        with pytest.raises(Unauthenticated, match="unknown or revoked"):
            await Authenticator(store, ManualClock(), "0.0.0.0").caller(request(x_goog_api_key=KEY))
