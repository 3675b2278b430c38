"""Who is asking: API keys, or single-user mode on loopback (design 7).

Single-user mode holds while the server listens on a loopback address only and no API key was ever made. Then every
caller is the operator, so requests that a web page could have caused are refused: a foreign `Host` (DNS rebinding)
and a foreign `Origin`.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.requests import HTTPConnection

from orchestrator.clock import Clock
from orchestrator.errors import PermissionDenied, Unauthenticated
from orchestrator.store.port import Store

_MODE_LIFETIME_S = 1.0
"""For so long a first key that was just made may not be noticed."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    project_id: str
    is_operator: bool
    key_id: str | None = None
    """The API key's; None in single-user mode."""

    @property
    def name(self) -> str:
        """Who it is, among all callers."""
        return self.key_id or self.project_id

    @property
    def scope(self) -> str | None:
        """The project that operators' routes are limited to; None sees all."""
        return None if self.is_operator else self.project_id


class Authenticator:
    """Finds the caller of a request or WebSocket."""

    def __init__(self, store: Store, clock: Clock, host: str) -> None:
        self._store = store
        self._clock = clock
        self._is_loopback = is_loopback(host)
        self._single_user_until = -1.0

    async def caller(self, request: HTTPConnection) -> Caller:
        """The caller.

        Raises:
            Unauthenticated: no key, or not one of ours. PermissionDenied: a web page may be behind this request.
        """
        given = key_of(request)
        if given is not None:
            # Looked up by digest: no comparison whose time could tell how much of a key was right.
            key = await self._store.find_key(hashlib.sha256(given.encode("utf-8", "replace")).digest())
            if key is not None:
                return Caller(key.project_id, key.is_operator, key.id)
        if not await self.is_single_user():
            if given is None:
                raise Unauthenticated("No API key: send it as 'x-goog-api-key'.")
            raise Unauthenticated("The API key is unknown or revoked.")
        _refuse_web_pages(request)
        return Caller((await self._store.default_project()).id, is_operator=True)

    async def is_single_user(self) -> bool:
        """Whether callers without a key are served."""
        if not self._is_loopback:
            return False
        now = self._clock.monotonic()
        if now > self._single_user_until:
            if await self._store.keys():
                return False
            self._single_user_until = now + _MODE_LIFETIME_S
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_of(request: HTTPConnection) -> str | None:
    """The API key that a request shows, whether it is one of ours or not; None if it shows none."""
    bearer = request.headers.get("authorization", "")
    if bearer.lower().startswith("bearer "):
        return bearer[7:].strip()
    return request.headers.get("x-goog-api-key") or request.query_params.get("key") or None


def _hostname(authority: str) -> str:
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""  # not an authority at all


def _refuse_web_pages(request: HTTPConnection) -> None:
    host = _hostname(request.headers.get("host", ""))
    if not is_loopback(host):
        raise PermissionDenied(f"Host {host!r} is refused: without API keys only loopback names are served.")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise PermissionDenied("Requests of web pages are refused as long as there are no API keys.")
