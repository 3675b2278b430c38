"""Who may be reached: hosts by an environment's rules, addresses by what nobody may reach. Pure.

Imports `rules`, `secrets`, `errors` and `wire`. It serves what the server fetches for an environment and the sandbox's
own traffic: both ask here, with the name that they are going to dial and with each address that it has.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from orchestrator.errors import ConfigError, InvalidRequest
from orchestrator.policy.rules import ANY, Rule
from orchestrator.policy.secrets import HeaderSecret
from orchestrator.wire.network import AllowedDomain, Network
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
class HostList:
    """Hosts, addresses and networks that the operator names in a setting; each may have one port."""

    networks: tuple[tuple[_AnyNetwork, int | None], ...] = ()
    patterns: tuple[tuple[str, int | None], ...] = ()
    """Whatever address such a host has."""

    @classmethod
    def parse(cls, texts: Iterable[str], setting: str = "network_exceptions") -> Self:
        """Of networks (`10.1.0.0/16`), addresses and hosts (`git.corp`, `*.corp`), the latter two also with a port
        (`git.corp:8443`). Raises `ConfigError`, naming the setting.
        """
        networks: list[tuple[_AnyNetwork, int | None]] = []
        patterns: list[tuple[str, int | None]] = []
        for text in texts:
            host, port = _with_port(text)
            try:
                networks.append((ipaddress.ip_network(host.strip("[]"), strict=False), port))
            except ValueError:
                try:
                    if port is not None and not 0 < port <= _PORT_LIMIT:
                        raise HostProblem("its port is none")
                    patterns.append((parse_pattern(host), port))
                except HostProblem as error:
                    raise ConfigError(f"setting '{setting}': {quote(text)}: {error}") from None
        return cls(tuple(networks), tuple(patterns))

    def names(self, host: str, port: int) -> bool:
        """Whether the name, or an address that is written as one, stands in it."""
        return any(fits(pattern, host) and only in (None, port) for pattern, only in self.patterns)

    def holds(self, host: str, address: Address, port: int) -> bool:
        """Whether `host` at `address` stands in it."""
        reached = reached_by(address)
        in_networks = any(reached in network and only in (None, port) for network, only in self.networks)
        return in_networks or self.names(host, port)


def _with_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.endswith("]")):
        return text, None
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Allowed:
    """May be reached, as `host` and `port` say it."""

    host: str
    port: int
    rules: tuple[Rule, ...] = field(default=(ANY,), repr=False)
    """Those that let it through, the least exact first."""

    @property
    def pattern(self) -> str:
        """Of the most exact rule; `*` where there are none."""
        return self.rules[-1].pattern

    @property
    def is_narrow(self) -> bool:
        """Whether not all requests to it are allowed: each must be read and judged."""
        return all(rule.is_narrow for rule in self.rules)

    @property
    def adds(self) -> bool:
        """Whether some requests to it get headers."""
        return any(rule.adds for rule in self.rules)

    @property
    def needs_reading(self) -> bool:
        """Whether requests to it must be read, to be judged or given something."""
        return self.adds or self.is_narrow

    def fitting(self, method: str, path: str) -> tuple[Rule, ...] | Refusal:
        """The rules that let a request through, `path` being without query; or that none does."""
        fitting = tuple(rule for rule in self.rules if rule.admits(method, path))
        if not fitting:
            return Refusal(f"{quote(method)} {quote(path)} is not among what 'network' allows at {self.host}")
        return fitting

    def judge_request(self, method: str, path: str) -> Mapping[str, str] | Refusal:
        """What a request gets, by rules that name no credential any more (`with_secrets`). Secret."""
        fitting = self.fitting(method, path)
        return fitting if isinstance(fitting, Refusal) else granted(fitting, {})

    def judge_all(self) -> Mapping[str, str] | Refusal:
        """The same for one that is not narrow: what all requests get alike. Secret."""
        return granted(self.rules, {})


@dataclass(frozen=True, slots=True)
class Refusal:
    """May not be reached."""

    reason: str
    wanted: str = ""
    """The domain that a rule for it would name; empty: no rule of an environment can allow it."""


Found = Mapping[str, HeaderSecret | Refusal]
"""By id: what credentials stand for now, or why they cannot be had. Secret."""


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What one environment may reach."""

    rules: tuple[Rule, ...] | None = field(default=None, repr=False)
    """The least exact first; None: everybody that is public."""
    exceptions: HostList = HostList()
    denied: HostList = HostList()
    """What the operator forbids, above all else."""

    @classmethod
    def of(
        cls, network: Network | None, exceptions: HostList, at: str = "network", denied: HostList = HostList()
    ) -> Self:
        """Raises `InvalidRequest`, naming the field, if a rule is not one."""
        if network is None:
            return cls(None, exceptions, denied)
        if isinstance(network, str):
            return cls((), exceptions, denied)
        rules = [_rule(rule, f"{at}.allowlist[{index}]") for index, rule in enumerate(network.allowlist)]
        return cls(tuple(sorted(rules, key=lambda rule: _exactness(rule.pattern))), exceptions, denied)

    @property
    def credentials(self) -> frozenset[str]:
        """Ids of those that rules name."""
        return frozenset(rule.credential for rule in self.rules or () if rule.credential)

    def with_secrets(self, found: Found) -> Self:
        """The same with headers in place of credentials: as they are now, for whoever asks within a moment. Secret.

        Requests whose credential cannot be had are refused, no others.
        """
        return replace(self, rules=tuple(_armed(rule, found) for rule in self.rules) if self.rules else self.rules)

    def judge(self, host: str, port: int) -> Allowed | Refusal:
        """Whether this host may be dialled, its addresses permitting (`judge_address`), and what requests get."""
        try:
            name = parse_host(host)
        except HostProblem as error:
            return Refusal(f"{quote(host)} is not a host: {error}")
        if not 0 < port <= _PORT_LIMIT:
            return Refusal(f"{port} is not a port")
        if self.denied.names(name, port):
            return Refusal(f"{name} is denied by the operator of this server")
        address = address_of(name)
        if address is not None and (refusal := self.judge_address(name, address, port)):
            return refusal
        if self.rules == ():
            return Refusal(f"{name} cannot be reached: 'network' lets nothing out")
        fitting = [rule for rule in self.rules or (ANY,) if fits(rule.pattern, name)]
        if not fitting:
            return Refusal(f"{name} is not in the allowlist of 'network'", name)
        through = tuple(rule for rule in fitting if rule.admits_port(port))
        if not through:
            return Refusal(f"port {port} of {name} is closed; a rule of 'network' can open it with 'ports'", name)
        return Allowed(name, port, through)

    def judge_address(self, host: str, address: Address, port: int) -> Refusal | None:
        """Whether `host`, which was allowed, may be reached at `address`; None: it may."""
        where = str(address) if str(address) == host else f"{host} has the address {address}, which"
        if self.denied.holds(host, address, port):
            return Refusal(f"{where} is denied by the operator of this server")
        if is_public(address) or self.exceptions.holds(host, address, port):
            return None
        return Refusal(f"{where} is not public; the operator of this server can allow it with 'network_exceptions'")


def may_be_set(header: str) -> bool:
    """Whether others than the client itself may say this header of a request."""
    return header.lower() not in _NOT_TO_BE_SET and not header.lower().startswith("proxy-")


def without(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Those headers that `others` does not have, in whatever case."""
    taken = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in taken}


def granted(rules: Iterable[Rule], found: Found) -> Mapping[str, str] | Refusal:
    """What a request gets that all of these let through, the least exact first: the more exact win. Secret.

    Equally exact ones that want different values of one header are a mistake that nobody can decide: refused.
    """
    headers: dict[str, str] = {}
    said: dict[str, tuple[str, str]] = {}
    for rule in (_armed(rule, found) for rule in rules):
        if rule.refusal:
            return Refusal(rule.refusal)
        for name, value in rule.headers.items():
            pattern, other = said.get(name.lower(), ("", ""))
            if pattern == rule.pattern and other != value:
                return Refusal(f"two rules for {pattern} give the header {name} different values")
            said[name.lower()] = rule.pattern, value
        headers = {**without(headers, rule.headers), **rule.headers}
    return headers


def _armed(rule: Rule, found: Found) -> Rule:
    """The rule with its credential's header among its own, which go over it."""
    if not rule.credential:
        return rule
    secret = found.get(rule.credential, Refusal(f"credential {quote(rule.credential)} cannot be had"))
    if isinstance(secret, Refusal):
        return replace(rule, credential="", refusal=secret.reason)
    own = {**without({secret.name: secret.value}, rule.headers), **rule.headers}
    return replace(rule, credential="", headers=own, is_secret=True)


def _rule(rule: AllowedDomain, at: str) -> Rule:
    for name in rule.transform or {}:
        if not may_be_set(name):
            raise InvalidRequest(f"Invalid value at '{at}.transform': {quote(name)} cannot be set.")
    try:
        pattern = parse_pattern(rule.domain)
    except HostProblem as error:
        raise InvalidRequest(
            f"Invalid value at '{at}.domain': {quote(rule.domain)} is not a domain: {error}."
        ) from None
    methods = frozenset(method.upper() for method in rule.methods or ())
    return Rule(
        pattern,
        dict(rule.transform or {}),
        rule.credential or "",
        ports=frozenset(rule.ports or ()),
        methods=methods,
        paths=tuple(rule.paths or ()),
    )


def fits(pattern: str, host: str) -> bool:
    """Whether a host in its one form is one of those that a pattern of `parse_pattern` is for."""
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _exactness(pattern: str) -> tuple[bool, int]:
    return not pattern.startswith("*"), len(pattern)
