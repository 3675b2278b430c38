"""The credentials of all projects: made, changed, revoked, and their secrets as they are now.

A token that ends is renewed by whoever asks first; others who ask meanwhile wait for the same. What a token server
gives is durable before it is used: it may have made the refresh token before it worthless.

Imports `store`, `egress` by way of `exchange`, `policy`, `wire`, `errors`, `ids` and `clock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import structlog

from orchestrator.clock import Clock
from orchestrator.credentials.exchange import ExchangeFailed, Grant, TokenExchange
from orchestrator.credentials.keys import SealingKeys
from orchestrator.credentials.safekeeping import place_of
from orchestrator.credentials.sealing import KeyRing
from orchestrator.errors import ConfigError, Conflict, CredentialError, InvalidRequest, NotFound, StoreError
from orchestrator.ids import new_credential_id, new_credential_uid
from orchestrator.policy.credentials import CREDENTIALS_LIMIT, Naming, check_credential, check_naming
from orchestrator.policy.network import Refusal
from orchestrator.policy.secrets import CredentialSecret, VariableSecret, header_secret
from orchestrator.store.port import Store
from orchestrator.store.records import CredentialRow
from orchestrator.wire.base import encode_json
from orchestrator.wire.credentials import (
    AnyCredential,
    BearerToken,
    EnvironmentVariable,
    OAuth2,
    changed,
    dump_credential,
    parse_credential,
)

log = structlog.get_logger(__name__)

_EARLY_S = 60.0
"""So long before its end a token is renewed, but not in the first three quarters of its life."""
_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 300.0


@dataclass(frozen=True, slots=True)
class _Token:
    """An access token."""

    access_token: str = field(repr=False)
    renew_at: float
    """Seconds since 1970, as `ends_at`."""
    ends_at: float

    @classmethod
    def of(cls, grant: Grant, now: datetime) -> _Token:
        ends_at = (now + timedelta(seconds=grant.lifetime_s)).timestamp()
        return cls(grant.access_token, ends_at - min(_EARLY_S, grant.lifetime_s / 4), ends_at)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is sealed of a credential."""

    credential: AnyCredential
    token: _Token | None = None
    """Of the type `oauth2` only."""

    def dump(self) -> bytes:
        token = asdict(self.token) if self.token is not None else None
        return encode_json({"credential": dump_credential(self.credential), "token": token})

    @classmethod
    def parse(cls, plain: bytes) -> _Kept:
        said = json.loads(plain)
        token = _Token(**said["token"]) if said["token"] is not None else None
        return cls(parse_credential(said["credential"]), token)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a token was not renewed, and until when nobody asks again."""

    message: str
    until_s: float
    """Of the monotonic clock."""
    delay_s: float


class Vault:
    """Keeps and opens credentials. Close it: what is being renewed is brought to its end."""

    def __init__(self, store: Store, keys: SealingKeys, exchange: TokenExchange, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._exchange = exchange
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._renewals: dict[str, asyncio.Task[_Token]] = {}
        self._failures: dict[str, _Failure] = {}
        self._unsaved: dict[str, tuple[int, _Kept]] = {}
        """By uid: what a token server gave and the store did not take, and of which version it is the next."""

    async def aclose(self) -> None:
        """Waits for what is under way: what a token server has sent must not be lost."""
        await asyncio.gather(*self._renewals.values(), return_exceptions=True)

    # for those who keep secrets here

    async def create(self, project_id: str, wanted: AnyCredential) -> CredentialRow:
        """A new credential. One of the type `oauth2` is exchanged once before it is kept.

        Raises:
            InvalidRequest: it cannot be used; names the field. Conflict: the id is taken. LimitExceeded: the project
            has as many as it may.
        """
        credential = check_credential(wanted)
        name = credential.id or new_credential_id()
        if await self._store.credential(project_id, name) is not None:
            # Before anything is exchanged: the other one may have the same refresh token, which would be used up.
            raise Conflict(f"Credential {name!r} exists already.")
        with _naming_field():
            kept = await self._exchanged(credential.model_copy(update={"id": name}))
        now = self._clock.now()
        row = CredentialRow(new_credential_uid(), project_id, name, credential.type, 1, now, now, "")
        row = await self._sealed(row, kept)
        await self._store.create_credential(row, limit=CREDENTIALS_LIMIT)
        return row

    async def find(self, project_id: str, name: str) -> CredentialRow:
        """Raises `NotFound`."""
        row = await self._store.credential(project_id, name)
        if row is None:
            raise NotFound(f"Credential {name!r} not found.")
        return row

    async def change(self, project_id: str, name: str, body: Any, mask: str | None) -> CredentialRow:
        """The credential as a change's body says; see `changed`. One of the type `oauth2` is exchanged anew.

        Raises:
            NotFound. InvalidRequest: names the field, or it is revoked; nothing was changed.
        """
        uid = (await self.find(project_id, name)).uid
        async with self._lock(uid):
            row = await self.find(project_id, name)
            if row.is_revoked:
                raise InvalidRequest(f"Credential {name!r} is revoked; delete it, and create another.")
            row, kept = await self._latest(row)
            new = check_credential(changed(kept.credential, body, mask))
            with _naming_field():
                kept = await self._exchanged(new)
            return await self._save(row, kept, updated=max(self._clock.now(), row.updated))

    async def revoke(self, project_id: str, name: str) -> CredentialRow:
        """Forgets the secret for good; the id stays taken. May be repeated. Raises `NotFound`."""
        row = await self.find(project_id, name)
        await self._store.revoke_credential(row.uid)
        self._forget(row.uid)
        return await self.find(project_id, name)

    async def delete(self, project_id: str, name: str) -> None:
        """Raises `NotFound`."""
        row = await self.find(project_id, name)
        await self._store.delete_credential(row.uid)
        self._forget(row.uid)

    async def check(self, project_id: str, namings: Iterable[Naming]) -> None:
        """Whether what fields of a request name is there and can be used there.

        Raises:
            InvalidRequest: names the field.
        """
        for naming in namings:
            row = await self._store.credential(project_id, naming.credential_id)
            known = (row.type, "revoked" if row.is_revoked else "active") if row is not None else (None, None)
            check_naming(naming, *known)

    # for what goes out

    async def secret(self, project_id: str, name: str) -> CredentialSecret:
        """What the project's credential stands for now. Ask each time: it may be revoked or renewed any moment.

        Raises:
            CredentialError: there is none, it is revoked, or no token can be had for it now. StoreError: what is
            sealed cannot be opened.
        """
        row = await self._store.credential(project_id, name)
        if row is None:
            raise CredentialError(f"there is no credential {name!r}", code="credential_unknown")
        if row.is_revoked:
            raise CredentialError(f"credential {name!r} is revoked", code="credential_revoked")
        kept = await self._opened(row)
        match kept.credential:
            case BearerToken() as bearer:
                return header_secret(name, bearer.header_name, bearer.prefix, bearer.token)
            case EnvironmentVariable() as variable:
                trusted = tuple(variable.trusted_domains or ())
                return VariableSecret(name, variable.value, frozenset(variable.injection_location), trusted)
            case OAuth2():
                token = await self._good(row, kept)
                return header_secret(name, "Authorization", "Bearer", token.access_token)

    async def found(self, project_id: str, names: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        """What each of the project's credentials stands for now, or why it cannot be had: one does not stop others."""

        async def one(name: str) -> CredentialSecret | Refusal:
            try:
                return await self.secret(project_id, name)
            except (CredentialError, StoreError) as error:
                return Refusal(error.message)

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def _good(self, row: CredentialRow, kept: _Kept) -> _Token:
        """A token that has not ended. While its server refuses, one is used to its end."""
        now = self._clock.now().timestamp()
        token = kept.token
        if token is not None and now < token.renew_at:
            return token
        try:
            return await self._renewed(row)
        except CredentialError:
            if token is not None and now < token.ends_at:
                return token
            raise

    async def _renewed(self, row: CredentialRow) -> _Token:
        """Of all who ask at once, one does it; none that leaves ends it."""
        if (renewal := self._renewals.get(row.uid)) is None:
            failure = self._failures.get(row.uid)
            if failure is not None and self._clock.monotonic() < failure.until_s:
                raise CredentialError(failure.message)
            renewal = asyncio.create_task(self._renew(row))
            self._renewals[row.uid] = renewal
            renewal.add_done_callback(lambda done: self._settle(row.uid, done))
        return await asyncio.shield(renewal)

    def _settle(self, uid: str, done: asyncio.Task[_Token]) -> None:
        del self._renewals[uid]
        if not done.cancelled():
            done.exception()  # whoever asked may have left

    async def _renew(self, row: CredentialRow) -> _Token:
        async with self._lock(row.uid):
            try:
                found = await self.find(row.project_id, row.name)
                if found.uid != row.uid or found.is_revoked:
                    raise CredentialError(f"credential {row.name!r} is revoked", code="credential_revoked")
                found, kept = await self._latest(found)
                if kept.token is None or self._clock.now().timestamp() >= kept.token.renew_at:
                    kept = await self._exchanged(kept.credential)
                    await self._save(found, kept, updated=found.updated)
            except (NotFound, Conflict) as error:
                raise CredentialError(error.message, code="credential_revoked") from None
            except (ExchangeFailed, StoreError) as error:
                raise self._failed(row, error.message) from None
        assert kept.token is not None  # noqa: S101 - it was exchanged
        log.info("credential_renewed", credential_id=row.name, project_id=row.project_id)
        return kept.token

    def _failed(self, row: CredentialRow, reason: str) -> CredentialError:
        before = self._failures.get(row.uid)
        delay_s = min(before.delay_s * 2, _LONGEST_BACKOFF_S) if before is not None else _BACKOFF_S
        message = f"credential {row.name!r} has no token: {reason.removesuffix('.')}; change it or try again later"
        self._failures[row.uid] = _Failure(message, self._clock.monotonic() + delay_s, delay_s)
        log.warning("credential_not_renewed", credential_id=row.name, project_id=row.project_id, reason=reason)
        return CredentialError(message)

    # what is sealed

    async def _exchanged(self, credential: AnyCredential) -> _Kept:
        """With a token, if it is of the type that has one. Raises `ExchangeFailed`."""
        if not isinstance(credential, OAuth2):
            return _Kept(credential)
        grant = await self._exchange.exchange(credential)
        if grant.refresh_token is not None:
            credential = credential.model_copy(update={"refresh_token": grant.refresh_token})
        return _Kept(credential, _Token.of(grant, self._clock.now()))

    async def _latest(self, row: CredentialRow) -> tuple[CredentialRow, _Kept]:
        """What `row` holds; or what the store did not take the last time, once it has taken it."""
        version, kept = self._unsaved.get(row.uid, (0, None))
        if kept is None or version != row.version:
            return row, await self._opened(row)
        return await self._save(row, kept, updated=row.updated), kept

    async def _save(self, row: CredentialRow, kept: _Kept, *, updated: datetime) -> CredentialRow:
        """The next version of `row`, durable. If the store does not take it, it is not forgotten."""
        following = replace(row, version=row.version + 1, updated=updated)
        self._unsaved[row.uid] = (row.version, kept)
        try:
            following = await self._sealed(following, kept)
            await self._store.replace_credential(following)
        except (NotFound, Conflict):
            self._forget(row.uid)
            raise
        self._forget(row.uid)
        return following

    async def _sealed(self, row: CredentialRow, kept: _Kept) -> CredentialRow:
        ring = await self._ring()
        key_id, sealed = ring.seal(kept.dump(), place_of(row))
        return replace(row, key_id=key_id, sealed=sealed)

    async def _opened(self, row: CredentialRow) -> _Kept:
        """Raises `StoreError`."""
        assert row.sealed is not None  # noqa: S101 - not of a listing, and not revoked
        ring = await self._ring()
        return _Kept.parse(ring.open(row.key_id, row.sealed, place_of(row)))

    async def _ring(self) -> KeyRing:
        """Raises `StoreError`: who asks need not know where the keys are."""
        try:
            return await asyncio.to_thread(self._keys.ring)
        except ConfigError as error:
            log.error("sealing_keys_unusable", reason=error.message)
            raise StoreError("The sealing keys of this server cannot be read; its log says why.") from None

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    def _forget(self, uid: str) -> None:
        self._failures.pop(uid, None)
        self._unsaved.pop(uid, None)


@contextlib.contextmanager
def _naming_field() -> Generator[None, None, None]:
    """Says which field an exchange that failed speaks of."""
    try:
        yield
    except ExchangeFailed as error:
        raise InvalidRequest(f"Invalid value at '{error.field}': {error.message}.") from None
