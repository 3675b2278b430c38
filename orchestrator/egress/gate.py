"""The gate of one environment: who of its sandbox's programs gets out, how much at once, and what is told of it.

Imports what stands beside it in `egress`, and `policy`. A gate outlives links and sandboxes of its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from orchestrator.egress import hello
from orchestrator.egress.connector import Connector
from orchestrator.egress.crossing import Client, Crossing, Kind, Outside, patient, relay
from orchestrator.egress.injection import Injection
from orchestrator.egress.new_names import NewNames
from orchestrator.egress.parked import ParkedLines
from orchestrator.errors import CorralError, NetworkError
from orchestrator.policy.network import Allowed, HostProblem, NetworkPolicy, Refusal, address_of, parse_host

_UNREACHED_KEPT = 16
_REASON_CHARS = 400
_NEW_NAMES_PER_S = 1.0
_RESOLVING_AT_ONCE = 4
"""Of one environment: the resolver's places are everybody's."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Of each environment."""

    connections: int = 100
    """At once; more are turned away."""
    limit_bytes: int = 0
    """Both ways together, in its whole life; 0: no limit."""
    header_timeout_s: float = 30.0
    """From the first byte of a request to the last of its head, and to the first."""
    idle_timeout_s: float = 900.0
    """So long nothing may go either way."""
    new_names: int = 100
    """Hosts that were not asked for before, at once; one more each second."""
    redact_bodies: bool = False
    """Whether what was put into a request is looked for in the body of its answer, too."""


class Denied(NetworkError):
    """Refused, by rules or limits. The message is for the program that asked, and for the model behind it."""

    code = "network_refused"


class Interceptor(Protocol):
    """Opens TLS, so that requests can be judged and given headers one by one."""

    @property
    def authority_pem(self) -> str:
        """Whom programs must trust for that."""

    async def serve(self, gate: Gate, client: Client, crossing: Crossing, allowed: Allowed) -> None:
        """Carries on a tunnel to `allowed` whose client was told that it is open, to its end. Raises `NetworkError`."""


Report = Callable[[Crossing, float], None]
"""Told of each crossing when it is over, and how many seconds it took."""


class Gate:
    """Of one environment. connections come to it by an `Entry`; `change` the rules at any time."""

    def __init__(
        self,
        policy: NetworkPolicy,
        connector: Connector,
        limits: GateLimits,
        report: Report,
        interceptor: Interceptor | None = None,
        injection: Injection | None = None,
        interactions: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`interactions`: ids of those that run in the environment at the moment."""
        self.policy = policy
        self._interactions = interactions
        self.injection = injection or Injection()
        self.limits = limits
        self.interceptor = interceptor
        self.used_bytes = 0
        """Both ways, in the environment's whole life."""
        self.unreached_count = 0
        """So many did not come about since the gate was made: denied, or nobody answered."""
        self.unreached: deque[str] = deque(maxlen=_UNREACHED_KEPT)
        """Which the last ones were, and why."""
        self._connector = connector
        self._report = report
        self._names = NewNames(limits.new_names, _NEW_NAMES_PER_S)
        self._resolving = asyncio.Semaphore(_RESOLVING_AT_ONCE)
        self.connections = 0
        """Of programs, at this moment."""
        self._crossings: set[Crossing] = set()
        self.parked = ParkedLines()
        """Connections that requests may use which come next."""

    @property
    def has_room(self) -> bool:
        """Whether one more connection of a program would be admitted."""
        return self.connections < self.limits.connections

    @contextlib.contextmanager
    def admitted(self) -> Iterator[bool]:
        """Counts one connection of a program for as long as the block lasts; False: there are too many."""
        if not self.has_room:
            yield False
            return
        self.connections += 1
        try:
            yield True
        finally:
            self.connections -= 1

    @property
    def authority_pem(self) -> str:
        """Whom the sandbox's programs must trust, since what they send has to be read; empty: nobody."""
        reads = bool(self.injection.variables) or any(rule.adds or rule.is_narrow for rule in self.policy.rules or ())
        return self.interceptor.authority_pem if reads and self.interceptor is not None else ""

    def change(self, policy: NetworkPolicy, injection: Injection | None = None) -> None:
        """From now on other rules hold, and other variables; what they do not allow is cut."""
        self.policy = policy
        self.injection = injection or self.injection
        self.parked.clear()
        for crossing in list(self._crossings):
            reason = self._objection(crossing)
            if reason and crossing.cut is not None:
                crossing.end("cut", reason)
                crossing.cut()

    def judge(self, host: str, port: int) -> Allowed:
        """What may be dialled. Raises `Denied`."""
        verdict = self.policy.judge(host, port)
        if isinstance(verdict, Refusal):
            raise denied(verdict)
        return verdict

    @contextlib.contextmanager
    def crossing(self, kind: Kind, host: str, port: int, client: Client) -> Iterator[Crossing]:
        """One crossing, told of when the block ends, however it does."""
        loop = asyncio.get_running_loop()
        made = Crossing(kind, host, port, started_s=loop.time(), cut=client.close)
        made.interactions = tuple(self._interactions())
        self._crossings.add(made)
        try:
            yield made
        except Denied as error:
            made.end("denied", error.message)
            raise
        except (CorralError, OSError) as error:
            made.end("failed", error.message if isinstance(error, CorralError) else str(error))
            raise
        except asyncio.CancelledError:
            made.end("cut", "the server let go of the sandbox")
            raise
        finally:
            self._crossings.discard(made)
            self._tell(made, loop.time() - made.started_s)

    def _tell(self, crossing: Crossing, duration_s: float) -> None:
        if crossing.is_read and crossing.verdict == "allowed":
            return  # its requests are told of
        if crossing.verdict == "denied" or (crossing.verdict == "failed" and not crossing.address):
            self.unreached_count += 1
            reason = f"{crossing.verdict} {crossing.host}:{crossing.port}: {crossing.reason}"
            self.unreached.append(reason[:_REASON_CHARS])
        self._report(crossing, duration_s)

    @contextlib.asynccontextmanager
    async def connected(self, crossing: Crossing, allowed: Allowed, client: Client) -> AsyncGenerator[Outside, None]:
        """A connection to whom `allowed` is, as long as the block lasts. Raises `Denied`, `NetworkError`."""
        outside = await self.connect(crossing, allowed)
        try:
            self.hold(crossing, outside, client)
            yield outside
            async with patient(self.limits.idle_timeout_s):
                await outside.finish()
        finally:
            outside.close()

    async def connect(self, crossing: Crossing, allowed: Allowed, tls: ssl.SSLContext | None = None) -> Outside:
        """The same for who closes it alone, and says who `hold`s it. With `tls` it is TLS to a proven host."""
        self._check_budget()
        self._check_name(allowed)
        crossing.rule = allowed.pattern
        policy = self.policy
        async with self._resolving:
            try:
                reader, writer, address = await self._connector.connect(policy, allowed, tls)
            except NetworkError as error:
                if error.code == "network_refused":
                    raise Denied(error.message) from error
                raise
        return Outside(reader, writer, address)

    def hold(self, crossing: Crossing, outside: Outside, client: Client) -> None:
        """From here on a change of the rules can end the crossing. Raises `Denied` if one came meanwhile."""

        def cut() -> None:
            outside.close()
            client.close()

        crossing.address = outside.address
        crossing.cut = cut
        if crossing.verdict == "cut":
            raise NetworkError(crossing.reason)
        if reason := self._objection(crossing):
            raise Denied(reason)

    async def tunnel(self, crossing: Crossing, allowed: Allowed, client: Client, outside: Outside) -> None:
        """Carries bytes that nobody reads, to the end of both directions."""
        read = self.guarded(allowed, client)
        await relay(client, outside, self.counter(crossing), self.limits.idle_timeout_s, read)

    def counter(self, crossing: Crossing) -> Callable[[int, int], None]:
        """What is to be told of the bytes that go either way. It raises `Denied` when they are too many."""

        def count(out_bytes: int, in_bytes: int) -> None:
            crossing.sent_bytes += out_bytes
            crossing.received_bytes += in_bytes
            self.used_bytes += out_bytes + in_bytes
            self._check_budget()

        return count

    async def needs_reading(self, allowed: Allowed) -> Interceptor | None:
        """Who is to serve a tunnel, since its requests are to be judged or given something; None: it passes unread.

        Raises:
            Denied: it must be read, and cannot be.
        """
        if not await self.injection.reads(allowed):
            return None
        if self.interceptor is None:
            raise Denied(f"requests to {allowed.host} must be read, and nothing here can open TLS")
        return self.interceptor

    def check_clear(self, crossing: Crossing, allowed: Allowed) -> None:
        """A secret goes over a connection that anybody may read only where the operator knows the way. Raises
        `Denied`.
        """
        address = address_of(crossing.address)
        if address is None or not self.policy.exceptions.holds(allowed.host, address, allowed.port):
            raise Denied(f"credentials are not sent over plain http:// to {allowed.host}; use https://")

    def guarded(self, allowed: Allowed, client: Client) -> Callable[[], Awaitable[bytes]]:
        """Reads, but gives nothing of a TLS connection before the name that it asks for is judged. It raises
        `Denied`.
        """
        is_judged = False

        async def read() -> bytes:
            nonlocal is_judged
            if is_judged:
                return await client.read()
            data = b""
            while piece := await client.read():
                data += piece
                try:
                    name = hello.server_name(data)
                except hello.IncompleteError:
                    if len(data) < hello.LIMIT_BYTES:
                        continue
                    raise Denied("its first TLS message is too long") from None
                except ValueError:
                    raise Denied("its first TLS message cannot be read") from None
                if name is not None:
                    await self._check_asked(allowed, name)
                break
            is_judged = True
            return data

        return read

    async def _check_asked(self, allowed: Allowed, text: str) -> None:
        """The name that TLS asks for is the one that was let through: else any site of a shared server could be had.
        Who connects to an address may ask for what could be had by name, unread.
        """
        try:
            name = parse_host(text)
        except HostProblem:
            raise Denied("it asks for a name in TLS that is none") from None
        if name == allowed.host:
            return  # also where it is an address, which some programs ask for as if it were a name
        if address_of(allowed.host) is not None:
            if await self.injection.reads(self.judge(name, allowed.port)):
                raise Denied(f"requests to {name} must be read: connect to it by its name")
        else:
            raise Denied(f"it was opened to {allowed.host}, and asks for {name} in TLS")

    def _check_name(self, allowed: Allowed) -> None:
        """Names carry data, too (attack case N3)."""
        is_name = address_of(allowed.host) is None
        if is_name and not self._names.admits(allowed.host, asyncio.get_running_loop().time()):
            raise Denied(f"the environment asks for too many new hosts in a short time; ask for {allowed.host} later")

    def _check_budget(self) -> None:
        limit_bytes = self.limits.limit_bytes
        if limit_bytes and self.used_bytes >= limit_bytes:
            raise Denied(f"the environment has used up its {limit_bytes} bytes of traffic")

    def _objection(self, crossing: Crossing) -> str:
        """Why a crossing that was allowed is not any more; empty: it is."""
        allowed = self.policy.judge(crossing.host, crossing.port)
        if isinstance(allowed, Refusal):
            return allowed.reason
        if (address := address_of(crossing.address)) is not None and (
            refusal := self.policy.judge_address(allowed.host, address, allowed.port)
        ):
            return refusal.reason
        if crossing.kind in ("connect", "socks"):
            if allowed.needs_reading and not crossing.is_read:
                return f"the rule for {allowed.host} needs connections to be read"
        elif isinstance(fitting := allowed.fitting(crossing.method, crossing.path), Refusal):
            return fitting.reason
        return ""


def denied(refusal: Refusal) -> Denied:
    """What a program reads that is refused: why, and which rule to ask for."""
    reason = refusal.reason
    if refusal.wanted:
        reason += f'; ask for {{"domain": "{refusal.wanted}"}}'
    return Denied(reason)
