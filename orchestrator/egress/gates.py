"""The gates of a server's environments. Imports what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.audit import Audit
from orchestrator.egress.connector import Connector, Resolver
from orchestrator.egress.gate import Gate, GateLimits, Interceptor
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
    ) -> None:
        self.port = settings.port
        self._settings = settings
        self._audit = audit
        self._connector = Connector(resolver or Resolver(), settings.own)
        self._interceptor = interceptor
        self._gates: dict[str, Gate] = {}

    def open(self) -> None:
        """Raises `ConfigError` if what protects this machine cannot be set up: then nobody is let out."""
        self._settings.own.check()
        self._audit.open()

    async def aclose(self) -> None:
        """Writes what was not written yet. Call it when all links are closed."""
        await self._audit.aclose()

    def gate(self, environment_id: str, network: Network | None) -> Gate:
        """The environment's gate with these rules, which hold from now on, also for what is open."""
        settings = self._settings
        policy = NetworkPolicy.of(network, settings.exceptions, denied=settings.denied)
        gate = self._gates.get(environment_id)
        if gate is None:
            report = partial(self._audit.report, environment_id)
            gate = Gate(policy, self._connector, settings.limits, report, self._interceptor)
            self._gates[environment_id] = gate
        elif gate.policy != policy:
            gate.change(policy)
        return gate

    def change(self, environment_id: str, network: Network | None) -> None:
        """Other rules for an environment that may have a gate."""
        if environment_id in self._gates:
            self.gate(environment_id, network)

    def forget(self, environment_id: str) -> None:
        """The environment is gone."""
        self._gates.pop(environment_id, None)
        self._audit.forget(environment_id)
