"""Addresses of data as callers write them, taken apart strictly. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote, urljoin

from orchestrator.policy.network import HostProblem, parse_host

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?")
_AUTHORITY = re.compile(r"(?:([^@]*)@)?(\[[^\]@]*\]|[^:@]*)(?::([0-9]{1,5}))?")
_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_URL_CHARS = 4096
_PORT_LIMIT = 65535
_PORTS = {"http": 80, "https": 443, "ssh": 22, "sftp": 22}


class UrlProblem(ValueError):
    """Text that is no address. The message says why, and does not repeat the text: there may be a secret in it."""


def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[address]:port`, and nothing else with it.

    Raises `UrlProblem`; also without a port, if there is no `default_port`.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None or found[1] is not None:
        raise UrlProblem("it is not a host with or without a port")
    try:
        host = parse_host(found[2])
    except HostProblem as error:
        raise UrlProblem(f"its host is none: {error}") from None
    port = int(found[3]) if found[3] else default_port
    if port is None or not 0 < port <= _PORT_LIMIT:
        raise UrlProblem("its port is missing or none")
    return host, port


def shown_authority(host: str, port: int, default_port: int) -> str:
    """As a `Host` header has it: the port only if it is not the usual one."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == default_port else f"{bracketed}:{port}"


@dataclass(frozen=True, slots=True)
class Url:
    """An address: `scheme://user@host:port/path?query`. Host and port are those that are judged and dialled."""

    scheme: str
    host: str
    port: int
    path: str
    """Begins with `/`; percent-encoded as it goes over the line."""
    query: str = ""
    user: str = ""

    @classmethod
    def parse(cls, text: str, schemes: Collection[str]) -> Self:
        """Raises `UrlProblem`."""
        if len(text) > _URL_CHARS or not text.isprintable() or " " in text or "\\" in text:
            raise UrlProblem("it has characters or a length that addresses cannot have")
        if not (found := _URL.fullmatch(text)) or found[1].lower() not in schemes:
            raise UrlProblem(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        scheme = found[1].lower()
        if not (authority := _AUTHORITY.fullmatch(found[2])):
            raise UrlProblem("it names no host, or more than a host and a port")
        user = authority[1] or ""
        if user and (scheme.startswith("http") or not _USER.fullmatch(user)):
            raise UrlProblem(
                "passwords and tokens do not belong into an address; see 'network.allowlist' and 'profile'"
            )
        try:
            host = parse_host(authority[2])
        except HostProblem as error:
            raise UrlProblem(f"its host is none: {error}") from None
        port = int(authority[3] or _PORTS[scheme])
        path = quote(found[3] or "/", safe="/%:@!$&'()*+,;=~-._")
        return cls(scheme, host, port, path, quote(found[4] or "", safe="/%?:@!$&'()*+,;=~-._"), user)

    @property
    def authority(self) -> str:
        """Host, and the port if it is not the usual one: as a `Host` header has it."""
        return shown_authority(self.host, self.port, _PORTS[self.scheme])

    @property
    def origin(self) -> str:
        """`https://host:port`."""
        return f"{self.scheme}://{self.authority}"

    @property
    def target(self) -> str:
        """Path and query: as a request line has it."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def shown(self) -> str:
        """For messages: without query, where signatures stand."""
        return f"{self.origin}{self.path}"

    def with_path(self, path: str, query: str = "") -> Self:
        """Another resource of the same server."""
        return replace(self, path=path, query=query)

    def joined(self, location: str) -> Self:
        """Where a redirect leads from here. Raises `UrlProblem`; never from https to http."""
        text = urljoin(f"{self.origin}{self.target}", location)
        return type(self).parse(text, ("https",) if self.scheme == "https" else ("https", "http"))
