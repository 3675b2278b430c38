"""Sending a small body to an address of an environment, such as a hook's, under the environment's rules. Owns threads.

Imports `dialer`, `http` and `policy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.dialer import Dialer
from orchestrator.egress.http import HttpClient, cut, tls_context
from orchestrator.egress.injection import FindIn, armed, echoes_of
from orchestrator.errors import NetworkError
from orchestrator.policy.network import HostList, NetworkPolicy
from orchestrator.policy.urls import Url, UrlProblem
from orchestrator.wire.network import Network

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Posted:
    """What a server answered."""

    status: int
    body: bytes


class Poster:
    """Posts for all environments of this server."""

    def __init__(
        self,
        exceptions: HostList,
        ca_file: Path | None = None,
        *,
        denied: HostList | None = None,
        own: OwnAddresses | None = None,
        find: FindIn | None = None,
    ) -> None:
        """`ca_file`: who else is trusted to sign certificates; without `find` no credential can be had. The rest is the
        operator's, as for sources.
        """
        self._find = find
        self._exceptions = exceptions
        self._denied = denied if denied is not None else HostList()
        self._own = own if own is not None else OwnAddresses()
        self._ca_file = ca_file
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="posting")
        self._letters: set[_Letter] = set()

    async def aclose(self) -> None:
        for letter in self._letters:
            letter.cut()
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def post(
        self,
        network: Network | None,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
        project_id: str = "",
    ) -> Posted:
        """Sends `body` once and returns what came back, whatever its status. Redirects are not followed. Rules may name
        credentials of the project.

        Cancelled, the connection is cut; the server may have got it.

        Raises:
            NetworkError: `network_refused`: the rules of `network` or of this server do not allow it, or `url` is no
                address; `network_failed`: no answer within `timeout_s`, or one of more than `limit_bytes`.
        """
        try:
            target = Url.parse(url, ("https", "http"))
        except UrlProblem as error:
            raise NetworkError(f"the address cannot be used: {error}", code="network_refused") from None
        policy = NetworkPolicy.of(network, self._exceptions, denied=self._denied)
        try:
            async with asyncio.timeout(timeout_s):
                policy = await armed(policy, project_id, self._find)
                posted = await self._sent(policy, target, headers, body, limit_bytes)
        except TimeoutError:
            raise NetworkError(f"{target.origin} does not answer within {timeout_s:g} s") from None
        # Its text is shown to a model, and some servers repeat what they were sent.
        return replace(posted, body=echoes_of(policy).redacted(posted.body))

    async def _sent(
        self, policy: NetworkPolicy, target: Url, headers: Mapping[str, str], body: bytes, limit_bytes: int
    ) -> Posted:
        letter = _Letter(Dialer(policy, own=self._own), self._ca_file)
        self._letters.add(letter)
        task = asyncio.wrap_future(self._threads.submit(letter.send, target, headers, body, limit_bytes))
        try:
            return await asyncio.shield(task)
        finally:
            letter.cut()
            self._letters.discard(letter)
            if not task.done():
                task.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody is left to be told


class _Letter:
    """One that is under way in a thread."""

    def __init__(self, dialer: Dialer, ca_file: Path | None) -> None:
        self._dialer = dialer
        self._ca_file = ca_file
        self._connection: socket.socket | None = None
        self._is_cut = False

    def cut(self) -> None:
        """From any thread; what the thread waits for ends."""
        self._is_cut = True
        if (connection := self._connection) is not None:
            cut(connection)

    def send(self, url: Url, headers: Mapping[str, str], body: bytes, limit_bytes: int) -> Posted:
        if self._is_cut:
            raise NetworkError("nobody waits for it any more")
        client = HttpClient(self._dialer, tls_context(self._ca_file), self._watch)
        with contextlib.closing(client), client.post(url, headers, body) as answer:
            return Posted(answer.status, answer.read_all(limit_bytes))

    @contextlib.contextmanager
    def _watch(self, connection: socket.socket) -> Generator[None, None, None]:
        outer, self._connection = self._connection, connection
        try:
            if self._is_cut:
                cut(connection)
            yield
        finally:
            self._connection = outer
