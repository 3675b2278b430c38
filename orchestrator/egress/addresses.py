"""Addresses of names, judged: the one place where a name that was allowed becomes addresses that may be dialled.

Imports `policy`. Whoever dials, with threads or with tasks, dials what this returns and nothing else.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.errors import ConfigError, NetworkError
from orchestrator.policy.network import Address, Allowed, NetworkPolicy, Refusal, address_of, reached_by

_GET_ROUTE, _IS_REQUEST, _DESTINATION = 26, 1, 1
_ERROR_ANSWER = 2
_LOCAL_ROUTE = 2
_ANSWER_BYTES = 8192


@dataclass(slots=True)
class OwnAddresses:
    """Those of this machine, whatever interface they are of, public or not: as the kernel knows them now."""

    ports: set[int] = field(default_factory=set)
    """This server's own, once it listens: closed at each of these addresses, whatever the operator excepts."""

    def check(self) -> None:
        """Raises `ConfigError` if the kernel cannot be asked: then nobody is let out."""
        try:
            is_own = self.hold(ipaddress.IPv4Address("127.0.0.1"))
        except OSError as error:
            raise ConfigError(f"the kernel does not say which addresses are this machine's: {error}") from error
        if not is_own:
            raise ConfigError("the kernel does not say which addresses are this machine's")

    def hold(self, address: Address) -> bool:
        """Whether a packet for `address` would stay on this machine. Asks the kernel, which takes microseconds."""
        packed = address.packed
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        route = struct.pack("=BBBBBBBBI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        destination = struct.pack("=HH", 4 + len(packed), _DESTINATION) + packed
        size_bytes = 16 + len(route) + len(destination)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
            asking.setblocking(False)  # the kernel answers before `send` returns
            asking.send(struct.pack("=IHHII", size_bytes, _GET_ROUTE, _IS_REQUEST, 1, 0) + route + destination)
            answer = asking.recv(_ANSWER_BYTES)
        (kind,) = struct.unpack_from("=H", answer, 4)
        return kind != _ERROR_ANSWER and answer[16 + 7] == _LOCAL_ROUTE


def system_lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, as this machine resolves it; each once. Blocks for as long as its resolver does.

    Raises `OSError`.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def judged(policy: NetworkPolicy, own: OwnAddresses, allowed: Allowed, addresses: Iterable[str]) -> list[str]:
    """Those of `addresses` that may be dialled for `allowed`: all of them.

    Raises:
        NetworkError: `network_refused`. One that may not be reached among others is how a name is made to lead inside
            at the second try: it closes the name.
    """
    found = list(addresses)
    for text in found:
        address = address_of(text)
        if address is None:
            raise NetworkError(f"{allowed.host} has an address that cannot be judged", code="network_refused")
        if refusal := policy.judge_address(allowed.host, address, allowed.port):
            raise refused(refusal)
        is_excepted = policy.exceptions.holds(allowed.host, address, allowed.port)
        if (not is_excepted or allowed.port in own.ports) and own.hold(reached_by(address)):
            what = "this server itself" if allowed.port in own.ports else "this server's machine"
            raise NetworkError(f"{allowed.host} is {what}, which cannot be reached", code="network_refused")
    return found


def refused(refusal: Refusal) -> NetworkError:
    """As an exception."""
    return NetworkError(refusal.reason, code="network_refused")
