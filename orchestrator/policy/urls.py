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
_PORTS = {"http": 80, "https": 443, "ssh": 22, "sftp": 22}


class UrlProblem(ValueError):
    """Text that is no address. The message says why, and does not repeat the text: there may be a secret in it."""


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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

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
