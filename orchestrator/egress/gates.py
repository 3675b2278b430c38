"""The gates of a server's environments. Imports what stands beside it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.audit import Audit
from orchestrator.egress.connector import Connector, Resolver
from orchestrator.egress.gate import Gate, GateLimits, Interceptor
from orchestrator.egress.injection import FindIn, Injection
from orchestrator.policy.network import HostList, NetworkPolicy
from orchestrator.wire.network import Network

PORT = 3128
"""Where programs find the way out, on the sandbox's loopback."""


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """What the operator says of all gates."""

    limits: GateLimits = GateLimits()  # noqa: RUF009 - frozen
    exceptions: HostList = HostList()  # noqa: RUF009 - frozen
    denied: HostList = HostList()  # noqa: RUF009 - frozen
    own: OwnAddresses = field(default_factory=OwnAddresses)
    port: int = PORT
    """0 takes a free one."""


class Gates:
    """One for each environment, kept from its first sandbox to its deletion: what it has used up is not forgotten."""

    def __init__(
        self,
        settings: EgressSettings,
        audit: Audit,
        resolver: Resolver | None = None,
        interceptor: Interceptor | None = None,
        find: FindIn | None = None,
    ) -> None:
        """Without `interceptor` nothing is read but plain HTTP; without `find` no credential can be had."""
        self.port = settings.port
        self._settings = settings
        self._audit = audit
        self._connector = Connector(resolver or Resolver(), settings.own)
        self._interceptor = interceptor
        self._find = find
        self._gates: dict[str, Gate] = {}
        self._interactions: defaultdict[str, list[str]] = defaultdict(list)

    def open(self) -> None:
        """Raises `ConfigError` if what protects this machine cannot be set up: then nobody is let out."""
        self._settings.own.check()
        self._audit.open()

    async def aclose(self) -> None:
        """Writes what was not written yet. Call it when all links are closed."""
        for gate in self._gates.values():
            gate.parked.clear()
        await self._audit.aclose()

    def gate(
        self,
        environment_id: str,
        network: Network | None,
        project_id: str = "",
        variables: Collection[str] = (),
        *,
        used_bytes: int = 0,
    ) -> Gate:
        """The environment's gate with these rules, which hold from now on, also for what is open.

        `variables`: ids of credentials that variables of the environment stand for. `used_bytes`: what it has used up
        before this server ran.
        """
        settings = self._settings
        policy = NetworkPolicy.of(network, settings.exceptions, denied=settings.denied)
        held = frozenset(variables)
        injection = Injection(held, partial(self._find, project_id)) if self._find is not None else Injection(held)
        gate = self._gates.get(environment_id)
        if gate is None:
            report = partial(self._audit.report, environment_id)
            gate = Gate(
                policy,
                self._connector,
                settings.limits,
                report,
                self._interceptor,
                injection,
                interactions=lambda: self._interactions.get(environment_id, ()),
            )
            gate.used_bytes = used_bytes
            self._gates[environment_id] = gate
        elif (gate.policy, gate.injection) != (policy, injection):
            gate.change(policy, injection)
        return gate

    @contextlib.contextmanager
    def during(self, environment_id: str, interaction_id: str) -> Iterator[None]:
        """What crosses while the block lasts is told of with this interaction, and with others that run as well."""
        running = self._interactions[environment_id]
        running.append(interaction_id)
        try:
            yield
        finally:
            running.remove(interaction_id)
            if not running:
                self._interactions.pop(environment_id, None)

    def living(self, environment_id: str) -> Gate | None:
        """The gate of an environment that has one."""
        return self._gates.get(environment_id)

    def forget(self, environment_id: str) -> None:
        """The environment is gone."""
        if (gate := self._gates.pop(environment_id, None)) is not None:
            gate.parked.clear()
        self._audit.forget(environment_id)
