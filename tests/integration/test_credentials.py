"""Credentials with a real store, sealing keys in a file, and a token server over TLS on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from orchestrator.credentials.exchange import TokenExchange
from orchestrator.credentials.keys import KeyFile
from orchestrator.credentials.safekeeping import reseal_all
from orchestrator.credentials.vault import Vault
from orchestrator.egress.posting import Poster
from orchestrator.errors import Conflict, CredentialError, InvalidRequest, NotFound, StoreError
from orchestrator.policy.network import HostList
from orchestrator.policy.secrets import HeaderSecret, VariableSecret
from orchestrator.store.records import CredentialRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.credentials import parse_credential
from tests.fakes.clock import ManualClock
from tests.fakes.token_server import TokenServer, saying
from tests.fakes.web_server import redirect

pytestmark = pytest.mark.anyio

BEARER = {"type": "bearer_token", "id": "crm", "token": "canary-bearer"}
VARIABLE = {
    "type": "environment_variable",
    "id": "crm",
    "value": "canary-value",
    "injection_location": ["header", "body"],
    "trusted_domains": ["CRM.example."],
}


class Failing(SqliteStore):
    """A store that takes no changes of credentials as long as `fails`."""

    fails = False

    async def replace_credential(self, row: CredentialRow) -> None:
        if self.fails:
            raise StoreError("the disk is full", code="store_full")
        await super().replace_credential(row)


@dataclass
class World:
    """A vault and what it works with."""

    store: Failing
    keys: KeyFile
    vault: Vault
    clock: ManualClock
    project: str
    folder: Path
    others: list[Vault] = field(default_factory=list)

    async def create(self, config: dict[str, Any], **fields: Any) -> CredentialRow:
        return await self.vault.create(self.project, parse_credential({**config, **fields}))

    async def token(self, name: str = "mail") -> str:
        secret = await self.vault.secret(self.project, name)
        assert isinstance(secret, HeaderSecret)
        assert (secret.name, secret.value) == ("Authorization", f"Bearer {secret.token}")
        return secret.token

    async def content(self) -> bytes:
        """Everything in the files of the store."""

        def read() -> bytes:
            return b"".join(path.read_bytes() for path in self.folder.glob("corral.db*"))

        return await asyncio.to_thread(read)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with TokenServer(tmp_path / "certificates") as server:
        yield server


@pytest.fixture
async def poster(tokens: TokenServer) -> AsyncGenerator[Poster, None]:
    poster = Poster(HostList.parse(["127.0.0.1"]), tokens.ca)
    yield poster
    await poster.aclose()


@pytest.fixture
async def world(tmp_path: Path, poster: Poster) -> AsyncGenerator[World, None]:
    clock = ManualClock()
    folder = tmp_path / "data"
    await asyncio.to_thread(folder.mkdir)
    store = Failing(folder / "corral.db", clock)
    await store.open()
    keys = KeyFile(folder / "sealing_keys")
    await asyncio.to_thread(keys.ensure)
    vault = Vault(store, keys, TokenExchange(poster), clock)
    yield World(store, keys, vault, clock, (await store.default_project()).id, folder)
    await vault.aclose()
    await store.aclose()


async def refused(world: World, config: dict[str, Any], told: str, **fields: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await world.create(config, **fields)
    assert told in caught.value.message
    assert "canary" not in caught.value.message
    assert await world.store.credentials(world.project) == []


# kept and given out


async def test_secrets_are_given_as_they_were_taken(world: World) -> None:
    await world.create(BEARER)
    assert await world.vault.secret(world.project, "crm") == HeaderSecret(
        "crm", "Authorization", "Bearer canary-bearer", "canary-bearer"
    )
    await world.vault.delete(world.project, "crm")
    await world.create(VARIABLE)
    assert await world.vault.secret(world.project, "crm") == VariableSecret(
        "crm", "canary-value", frozenset({"header", "body"}), ("crm.example",)
    )
    made = await world.create(BEARER, id=None, prefix="", header_name="X-Key")
    assert len(made.name) == len("cred-") + 32
    secret = await world.vault.secret(world.project, made.name)
    assert isinstance(secret, HeaderSecret)
    assert (secret.name, secret.value) == ("X-Key", "canary-bearer")


async def test_no_secret_is_in_the_files_of_the_store(world: World, tokens: TokenServer) -> None:
    await world.create(BEARER)
    await world.create(VARIABLE, id="variable")
    await world.create(tokens.config, id="mail")
    world.clock.advance(4000)
    assert await world.token() == "canary-access-2"
    await world.vault.change(world.project, "crm", {"token": "canary-changed"}, None)
    content = await world.content()
    assert b"bearer_token" in content
    assert b"canary" not in content
    key = (await asyncio.to_thread(world.keys.ring)).newest
    assert key.secret not in content
    assert key.text.encode() not in content


async def test_a_secret_that_was_moved_to_another_row_does_not_open(world: World) -> None:
    mine = await world.create(BEARER)
    other = (await world.store.ensure_project("other")).id
    theirs = await world.vault.create(other, parse_credential({**BEARER, "token": "theirs"}))
    await world.store.replace_credential(replace(mine, version=2, key_id=theirs.key_id, sealed=theirs.sealed))
    with pytest.raises(StoreError, match="not put there by this server"):
        await world.vault.secret(world.project, "crm")


async def test_what_is_unknown_revoked_or_anothers_is_not_given(world: World) -> None:
    await world.create(BEARER)
    other = (await world.store.ensure_project("other")).id

    async def code(project: str, name: str) -> str:
        with pytest.raises(CredentialError) as caught:
            await world.vault.secret(project, name)
        return caught.value.code

    assert await code(world.project, "nobody") == "credential_unknown"
    assert await code(other, "crm") == "credential_unknown"
    with pytest.raises(NotFound):
        await world.vault.revoke(other, "crm")
    with pytest.raises(NotFound):
        await world.vault.delete(other, "crm")
    with pytest.raises(NotFound):
        await world.vault.change(other, "crm", {"token": "x"}, None)
    await world.vault.revoke(world.project, "crm")
    assert await code(world.project, "crm") == "credential_revoked"
    with pytest.raises(InvalidRequest, match="is revoked"):
        await world.vault.change(world.project, "crm", {"token": "x"}, None)
    with pytest.raises(Conflict):
        await world.create(BEARER)


async def test_a_change_counts_at_once(world: World) -> None:
    made = await world.create(BEARER)
    world.clock.advance(5)
    changed = await world.vault.change(world.project, "crm", {"token": "new", "prefix": "Key"}, None)
    assert (changed.created, changed.updated) == (made.created, world.clock.now())
    secret = await world.vault.secret(world.project, "crm")
    assert isinstance(secret, HeaderSecret)
    assert secret.value == "Key new"
    with pytest.raises(InvalidRequest, match="'header_name'"):
        await world.vault.change(world.project, "crm", {"header_name": "Host"}, None)


async def test_changes_at_once_are_all_made(world: World) -> None:
    await world.create(BEARER)
    bodies = [{"token": "t"}, {"prefix": "P"}, {"header_name": "X-Key"}]
    await asyncio.gather(*(world.vault.change(world.project, "crm", body, None) for body in bodies))
    secret = await world.vault.secret(world.project, "crm")
    assert isinstance(secret, HeaderSecret)
    assert (secret.name, secret.value) == ("X-Key", "P t")


async def test_keys_are_rotated_beside_a_running_server(world: World) -> None:
    await world.create(BEARER)
    other = KeyFile(world.keys.path)  # as another process has it
    new = await asyncio.to_thread(other.add)
    await reseal_all(world.store, other)
    assert isinstance(await world.vault.secret(world.project, "crm"), HeaderSecret)
    row = await world.create(VARIABLE, id="variable")
    assert row.key_id == new.id
    assert await world.store.sealing_key_ids() == {new.id}
    await asyncio.to_thread(other.drop_others, frozenset[str]())
    assert isinstance(await world.vault.secret(world.project, "crm"), HeaderSecret)


async def test_keys_that_cannot_be_read_are_the_servers_fault_and_told_in_its_log(world: World) -> None:
    await world.create(BEARER)
    await asyncio.to_thread(world.keys.path.chmod, 0o644)
    await asyncio.to_thread(world.keys.path.touch)
    with structlog.testing.capture_logs() as lines, pytest.raises(StoreError) as caught:
        await world.vault.secret(world.project, "crm")
    assert str(world.folder) not in caught.value.message
    (line,) = lines
    assert "chmod 600" in line["reason"]


# exchanged


async def test_a_refresh_token_is_exchanged_before_it_is_kept(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail", scopes=["read", "write"])
    (form,) = tokens.forms
    assert form == {
        "grant_type": "refresh_token",
        "refresh_token": "canary-refresh-0",
        "client_id": "corral-test",
        "client_secret": "canary-client-secret",
        "scope": "read write",
    }
    assert await world.token() == "canary-access-1"
    world.clock.advance(3500)
    assert await world.token() == "canary-access-1"
    assert len(tokens.forms) == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"refresh_token": "canary-old"}, "'refresh_token': the token server https://127.0.0.1:"),
        ({"refresh_token": "canary-old"}, "answers 400 (invalid_grant)"),
        ({"client_secret": "canary-no"}, "'client_secret': the token server"),
        ({"scopes": ["wrong"]}, "'scopes': the token server"),
        ({"token_url": "http://127.0.0.1/token"}, "'token_url': it must begin with https://"),
        ({"token_url": "https://127.0.0.1:1/token"}, "'token_url': 127.0.0.1:1 cannot be reached"),
        ({"token_url": "https://10.0.0.1/token"}, "'token_url': 10.0.0.1 is not public"),
        ({"token_url": "https://169.254.169.254/token"}, "'token_url': 169.254.169.254 is not public"),
    ],
)
async def test_what_cannot_be_exchanged_is_not_kept(
    world: World, tokens: TokenServer, fields: dict[str, Any], told: str
) -> None:
    await refused(world, tokens.config, told, **fields)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"<html>canary", 200, "does not answer as one: it has no 'access_token'"),
        (b"[]", 200, "it has no 'access_token'"),
        (b"[" * 100_000, 200, "it has no 'access_token'"),
        ({"error": "invalid_grant"}, 200, "does not answer as one: invalid_grant"),
        ({"error": "Canary canary!"}, 400, "answers 400."),
        ({"error": ["canary"]}, 500, "answers 500."),
        ({"access_token": 5}, 200, "it has no 'access_token'"),
        ({"access_token": "canary\r\nX: y"}, 200, "cannot be sent in a header"),
        ({"access_token": "canary", "token_type": "mac"}, 200, "'token_type' is not 'Bearer'"),
        ({"access_token": "canary", "expires_in": "soon"}, 200, "'expires_in' is no number"),
        ({"access_token": "canary", "expires_in": -1}, 200, "'expires_in' is not positive"),
        ({"access_token": "canary", "expires_in": "NaN"}, 200, "'expires_in' is not positive"),
        ({"access_token": "canary", "refresh_token": 5}, 200, "'refresh_token' is none"),
        (b"x" * 300_000, 200, "answered more than 262144 bytes"),
    ],
)
async def test_servers_that_answer_nonsense_are_named_and_not_repeated(
    world: World, tokens: TokenServer, body: Any, status: int, told: str
) -> None:
    tokens.fault = saying(body, status)
    await refused(world, tokens.config, told)


async def test_no_redirect_is_followed_with_the_secrets(world: World, tokens: TokenServer) -> None:
    tokens.fault = redirect(f"{tokens.url}2", 307)
    await refused(world, tokens.config, "answers 307")
    assert len(tokens.forms) == 1


@pytest.mark.parametrize(("expires_in", "lives_s"), [(None, 3600), ("120", 120), (1e12, 30 * 24 * 3600)])
async def test_tokens_live_as_their_server_says(
    world: World, tokens: TokenServer, expires_in: Any, lives_s: float
) -> None:
    tokens.expires_in = expires_in
    await world.create(tokens.config, id="mail")
    world.clock.advance(lives_s - min(60, lives_s / 4) - 1)
    assert await world.token() == "canary-access-1"
    world.clock.advance(2)
    assert await world.token() == "canary-access-2"


async def test_of_two_with_one_id_only_the_first_uses_up_its_token(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    with pytest.raises(Conflict, match="exists already"):
        await world.create(tokens.config, id="mail", refresh_token="canary-refresh-1")
    assert len(tokens.forms) == 1


async def test_a_token_that_ends_is_renewed_once_for_all_who_ask(world: World, tokens: TokenServer) -> None:
    made = await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    assert await asyncio.gather(*(world.token() for _ in range(20))) == ["canary-access-2"] * 20
    assert len(tokens.forms) == 2
    row = await world.vault.find(world.project, "mail")
    assert (row.version, row.updated) == (2, made.updated)


async def test_who_leaves_does_not_end_a_renewal(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    tokens.was_asked.clear()
    tokens.may_answer.clear()
    leaving = asyncio.create_task(world.token())
    assert await asyncio.to_thread(tokens.was_asked.wait, 10)
    staying = asyncio.create_task(world.token())
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    tokens.may_answer.set()
    assert await staying == "canary-access-2"


async def test_the_next_renewal_has_the_refresh_token_of_the_one_before(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    for number in range(1, 4):
        assert await world.token() == f"canary-access-{number}"
        world.clock.advance(3600)
    assert [form["refresh_token"] for form in tokens.forms] == [f"canary-refresh-{number}" for number in range(3)]


async def test_what_was_renewed_is_there_for_the_next_server(world: World, tokens: TokenServer, poster: Poster) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    assert await world.token() == "canary-access-2"
    next_one = Vault(world.store, KeyFile(world.keys.path), TokenExchange(poster), world.clock)
    secret = await next_one.secret(world.project, "mail")
    assert isinstance(secret, HeaderSecret)
    assert secret.token == "canary-access-2"
    world.clock.advance(3600)
    await next_one.secret(world.project, "mail")
    assert tokens.forms[-1]["refresh_token"] == "canary-refresh-2"


async def test_a_token_is_not_given_out_before_its_successor_is_durable(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    world.store.fails = True
    with pytest.raises(CredentialError, match="the disk is full"):
        await world.token()
    assert len(tokens.forms) == 2
    world.store.fails = False
    world.clock.advance(10)
    assert await world.token() == "canary-access-2"
    assert len(tokens.forms) == 2
    world.clock.advance(3600)
    assert await world.token() == "canary-access-3"


async def test_a_change_keeps_a_refresh_token_that_the_store_did_not_take(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    world.store.fails = True
    with pytest.raises(CredentialError):
        await world.token()
    world.store.fails = False
    await world.vault.change(world.project, "mail", {"scopes": ["read"]}, None)
    assert [form["refresh_token"] for form in tokens.forms] == [f"canary-refresh-{number}" for number in range(3)]
    assert await world.token() == "canary-access-3"


async def test_a_server_that_refuses_is_left_alone_for_longer_and_longer(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    tokens.fault = saying({"error": "invalid_grant", "error_description": "canary"}, 400)

    async def asked() -> int:
        with pytest.raises(CredentialError, match="invalid_grant") as caught:
            await world.token()
        assert caught.value.code == "credential_failed"
        assert "canary" not in caught.value.message
        return len(tokens.forms)

    assert [await asked() for _ in range(3)] == [2, 2, 2]
    for delay_s, count in ((1, 3), (1, 3), (1, 4), (3, 4), (1, 5)):
        world.clock.advance(delay_s)
        assert await asked() == count
    world.clock.advance(300)
    tokens.fault = None
    assert await world.token() == f"canary-access-{count + 1}"
    world.clock.advance(3600)
    tokens.fault = saying({}, 503)
    with pytest.raises(CredentialError, match="answers 503"):
        await world.token()
    world.clock.advance(1)
    tokens.fault = None
    assert (await world.token()).startswith("canary-access")


async def test_a_token_is_used_to_its_end_while_its_server_is_away(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    tokens.fault = saying({}, 503)
    world.clock.advance(3560)
    assert await world.token() == "canary-access-1"
    assert len(tokens.forms) == 2
    world.clock.advance(41)
    with pytest.raises(CredentialError, match="503"):
        await world.token()


async def test_a_change_is_exchanged_or_not_made(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    with pytest.raises(InvalidRequest, match="'client_secret'"):
        await world.vault.change(world.project, "mail", {"client_secret": "canary-no"}, None)
    assert await world.token() == "canary-access-1"
    assert (await world.vault.find(world.project, "mail")).version == 1
    tokens.good.add("canary-other")
    await world.vault.change(world.project, "mail", {"refresh_token": "canary-other"}, None)
    assert await world.token() == "canary-access-3"


async def test_a_change_ends_the_time_in_which_nobody_asks(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    tokens.good = {"canary-other"}
    with pytest.raises(CredentialError):
        await world.token()
    await world.vault.change(world.project, "mail", {"refresh_token": "canary-other"}, None)
    assert await world.token() == "canary-access-3"


async def test_what_is_revoked_or_deleted_meanwhile_is_not_given(world: World, tokens: TokenServer) -> None:
    for name, end in (("one", world.vault.revoke), ("two", world.vault.delete)):
        tokens.good = {"canary-refresh-0"}
        await world.create(tokens.config, id=name)
        world.clock.advance(3600)
        tokens.was_asked.clear()
        tokens.may_answer.clear()
        asking = asyncio.create_task(world.token(name))
        assert await asyncio.to_thread(tokens.was_asked.wait, 10)
        await end(world.project, name)
        tokens.may_answer.set()
        with pytest.raises(CredentialError) as caught:
            await asking
        assert caught.value.code == "credential_revoked"


async def test_closing_waits_for_what_is_being_renewed(world: World, tokens: TokenServer) -> None:
    await world.create(tokens.config, id="mail")
    world.clock.advance(3600)
    tokens.was_asked.clear()
    tokens.may_answer.clear()
    asking = asyncio.create_task(world.token())
    assert await asyncio.to_thread(tokens.was_asked.wait, 10)
    closing = asyncio.create_task(world.vault.aclose())
    asking.cancel()
    tokens.may_answer.set()
    await closing
    row = await world.vault.find(world.project, "mail")
    assert row.version == 2
