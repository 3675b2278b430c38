"""Who may be reached: hosts by an environment's rules, addresses by what nobody may reach. Pure.

Imports `errors` and `wire`. It serves what the server fetches for an environment, and later the sandbox's own traffic:
both ask here, with the name that they are going to dial and with each address that it has.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from orchestrator.errors import ConfigError, InvalidRequest, NotSupported
from orchestrator.wire.environments import AllowedDomain, Network
from orchestrator.wire.paths import quote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_TEXT_CHARS = 1024
_NAME_CHARS = 253
_PORT_LIMIT = 65535
_NOT_TO_BE_SET = frozenset(
    ("host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect", "keep-alive")
)
"""Headers that say whom a request is for and where it ends: with another one of these it would be another request."""

_CLOSED_V4 = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own, and some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
    )
)
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
"""Everything else in version 6 is private, link-local, multicast or not given to anybody."""
_CLOSED_V6 = tuple(
    ipaddress.IPv6Network(each)
    for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # tunnels, with addresses inside; examples
)
_CARRIERS_OF_V4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""Mapped addresses, and those of NAT64: they reach the version 4 address in their last four bytes."""


class HostProblem(ValueError):
    """Text that is no host. The message says why, and does not repeat the text."""


def parse_host(text: str) -> str:
    """The one form of a host: lower case, ASCII, without a last dot; addresses as they are usually written, without
    brackets. What this gives is judged, dialled and compared; nothing else parses names.

    Raises:
        HostProblem: it is not a host name or an address, or has anything else with it.
    """
    if not text or len(text) > _TEXT_CHARS:
        raise HostProblem("it is empty or too long")
    if ":" in text or text.startswith("["):
        return _parse_v6(text)
    if not text.isascii():
        text = _to_ascii(text)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _NAME_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise HostProblem("it has characters or lengths that host names cannot have")
    if _NUMBER.fullmatch(labels[-1]):
        # `127.1`, `0x7f.0.0.1` and `2130706433` are addresses to some parsers and names to others.
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise HostProblem("an address is written as four decimal numbers") from None
    return name


def _parse_v6(text: str) -> str:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" in inner:
        raise HostProblem("addresses with a zone reach nobody from here")
    try:
        return str(ipaddress.IPv6Address(inner))
    except ValueError:
        raise HostProblem("a host stands alone, without port") from None


def _to_ascii(text: str) -> str:
    import idna

    try:
        return idna.encode(text, uts46=True, std3_rules=False).decode("ascii")
    except UnicodeError:
        raise HostProblem("it has characters that host names cannot have") from None


def parse_pattern(text: str) -> str:
    """The one form of what a rule is for: a host, `*.` before a name (names below it, not itself), or `*`.

    Raises:
        HostProblem: it is none of these.
    """
    if text == "*":
        return text
    if not text.startswith("*."):
        return parse_host(text)
    name = parse_host(text[2:])
    if address_of(name) is not None:
        raise HostProblem("there are no names below an address")
    return f"*.{name}"


def address_of(host: str) -> Address | None:
    """The address that a host is; None: it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def reached_by(address: Address) -> Address:
    """Whom an address reaches in the end: version 6 has ways to write those of version 4."""
    if isinstance(address, ipaddress.IPv6Address) and any(address in each for each in _CARRIERS_OF_V4):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether it is somebody's on the Internet: not private, loopback, link-local, metadata, multicast or reserved."""
    reached = reached_by(address)
    if isinstance(reached, ipaddress.IPv4Address):
        return not any(reached in each for each in _CLOSED_V4)
    return reached in _OPEN_V6 and not any(reached in each for each in _CLOSED_V6)


@dataclass(frozen=True, slots=True)
class NetworkExceptions:
    """What the operator allows though it is not public."""

    networks: tuple[_AnyNetwork, ...] = ()
    patterns: tuple[str, ...] = ()
    """Whatever address such a host has."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Of networks (`10.1.0.0/16`), addresses and hosts (`git.corp`, `*.corp`). Raises `ConfigError`."""
        networks: list[_AnyNetwork] = []
        patterns: list[str] = []
        for text in texts:
            try:
                networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                try:
                    patterns.append(parse_pattern(text))
                except HostProblem as error:
                    raise ConfigError(f"setting 'network_exceptions': {quote(text)}: {error}") from None
        return cls(tuple(networks), tuple(patterns))

    def allow(self, host: str, address: Address) -> bool:
        """Whether `host` may be reached at `address` all the same."""
        reached = reached_by(address)
        return any(reached in each for each in self.networks) or any(_fits(each, host) for each in self.patterns)


@dataclass(frozen=True, slots=True)
class Allowed:
    """May be reached, as `host` and `port` say it."""

    host: str
    port: int
    headers: Mapping[str, str] = field(repr=False)
    """What requests to it get. Secret."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """May not be reached."""

    reason: str


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What one environment may reach."""

    rules: tuple[tuple[str, Mapping[str, str]], ...] | None = field(default=None, repr=False)
    """Pattern and headers, the least exact first; None: everybody that is public."""
    exceptions: NetworkExceptions = NetworkExceptions()

    @classmethod
    def of(cls, network: Network | None, exceptions: NetworkExceptions, at: str = "network") -> Self:
        """Raises `InvalidRequest` or `NotSupported`, naming the field, if a rule is not one."""
        if network is None:
            return cls(None, exceptions)
        if isinstance(network, str):
            return cls((), exceptions)
        rules = [_rule(rule, f"{at}.allowlist[{index}]") for index, rule in enumerate(network.allowlist)]
        return cls(tuple(sorted(rules, key=lambda rule: _exactness(rule[0]))), exceptions)

    def judge(self, host: str, port: int) -> Allowed | Refusal:
        """Whether this host may be dialled, its addresses permitting (`judge_address`), and what requests get."""
        try:
            name = parse_host(host)
        except HostProblem as error:
            return Refusal(f"{quote(host)} is not a host: {error}")
        if not 0 < port <= _PORT_LIMIT:
            return Refusal(f"{port} is not a port")
        headers: dict[str, str] = {}
        if self.rules is not None:
            fitting = [given for pattern, given in self.rules if _fits(pattern, name)]
            if not fitting:
                why = (
                    "is not in the allowlist of 'network'"
                    if self.rules
                    else "cannot be reached: 'network' lets nothing out"
                )
                return Refusal(f"{name} {why}")
            for given in fitting:
                overridden = {key.lower() for key in given}
                headers = {key: value for key, value in headers.items() if key.lower() not in overridden} | dict(given)
        address = address_of(name)
        refusal = self.judge_address(name, address) if address is not None else None
        return refusal or Allowed(name, port, headers)

    def judge_address(self, host: str, address: Address) -> Refusal | None:
        """Whether `host`, which was allowed, may be reached at `address`; None: it may."""
        if is_public(address) or self.exceptions.allow(host, address):
            return None
        where = host if str(address) == host else f"{host} has the address {address}, which"
        return Refusal(f"{where} is not public; the operator of this server can allow it with 'network_exceptions'")


def may_be_set(header: str) -> bool:
    """Whether others than the client itself may say this header of a request."""
    return header.lower() not in _NOT_TO_BE_SET and not header.lower().startswith("proxy-")


def _rule(rule: AllowedDomain, at: str) -> tuple[str, Mapping[str, str]]:
    if rule.credential is not None:
        raise NotSupported(f"Not supported: '{at}.credential'.")
    for name in rule.transform or {}:
        if not may_be_set(name):
            raise InvalidRequest(f"Invalid value at '{at}.transform': {quote(name)} cannot be set.")
    try:
        return parse_pattern(rule.domain), dict(rule.transform or {})
    except HostProblem as error:
        raise InvalidRequest(
            f"Invalid value at '{at}.domain': {quote(rule.domain)} is not a domain: {error}."
        ) from None


def _fits(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _exactness(pattern: str) -> tuple[bool, int]:
    return not pattern.startswith("*"), len(pattern)
