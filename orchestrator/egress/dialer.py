"""Connections to outside that are judged first. Blocking; imports `addresses` and `policy`.

A name is resolved once. Every address that it has is judged, and one of those is dialled: a server of names that
answers differently a moment later changes nothing.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.egress.addresses import OwnAddresses, judged, refused, system_lookup
from orchestrator.errors import NetworkError
from orchestrator.policy.network import Allowed, NetworkPolicy, Refusal, address_of

_CONNECT_TIMEOUT_S = 10.0
"""Of one address; a name may have several."""
_ADDRESSES_TRIED = 4
_RESOLVE_TIMEOUT_S = 10.0

Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Dialer:
    """Connects within one environment's rules. May be used by several threads."""

    policy: NetworkPolicy
    resolve: Resolve | None = None
    """Addresses of a name; None: as this machine resolves names."""
    own: OwnAddresses = field(default_factory=OwnAddresses)

    def judge(self, host: str, port: int) -> Allowed:
        """What may be dialled and what requests to it get. Raises `NetworkError`."""
        verdict = self.policy.judge(host, port)
        if isinstance(verdict, Refusal):
            raise refused(verdict)
        return verdict

    def headers(self, host: str, port: int) -> Mapping[str, str]:
        """What all requests to it get alike. Secret. Raises `NetworkError`."""
        given = self.judge(host, port).judge_all()
        if isinstance(given, Refusal):
            raise refused(given)
        return given

    def dial(self, host: str, port: int, *, is_read: bool = False) -> socket.socket:
        """A connection, which its holder closes. `is_read`: who dials judges each request that goes over it.

        Raises:
            NetworkError: `network_refused`: policy does not allow the host, or any one of its addresses,
                or only some requests;
                `network_failed`: nobody answers there.
        """
        allowed = self.judge(host, port)
        if allowed.is_narrow and not is_read:
            reason = f"{allowed.host} has rules with 'methods' or 'paths', which cannot be judged on this connection"
            raise NetworkError(reason, code="network_refused")
        addresses = self._addresses(allowed)
        reason = "no address"
        for address in addresses[:_ADDRESSES_TRIED]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(_CONNECT_TIMEOUT_S)
                connection.connect((address, allowed.port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
                continue
            except BaseException:
                connection.close()
                raise
            return connection
        raise NetworkError(f"{allowed.host}:{allowed.port} cannot be reached: {reason}")

    def _addresses(self, allowed: Allowed) -> list[str]:
        is_address = address_of(allowed.host) is not None
        addresses = [allowed.host] if is_address else (self.resolve or _resolve)(allowed.host, allowed.port)
        return judged(self.policy, self.own, allowed, addresses)


def _resolve(host: str, port: int) -> list[str]:
    """In a thread of its own: the system's resolver has no time limit, and cannot be broken off."""
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(system_lookup(host, port))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="resolve").start()
    try:
        answer = answers.get(timeout=_RESOLVE_TIMEOUT_S)
    except queue.Empty:
        raise NetworkError(f"the address of {host} was not found in time") from None
    if isinstance(answer, OSError):
        raise NetworkError(f"{host} has no address: {answer.strerror or answer}") from answer
    return answer
