"""What credentials put into the requests of one environment, and what must not come back. Imports `policy`.

Secrets are looked up for each request: one may have been renewed or revoked a moment ago.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.egress.echoes import Echoes, spelled
from orchestrator.policy.injection import Swaps
from orchestrator.policy.network import Allowed, NetworkPolicy, Refusal, fits, granted
from orchestrator.policy.rules import Rule
from orchestrator.policy.secrets import CredentialSecret, HeaderSecret, VariableSecret

_TLS_PORT = 443

FindIn = Callable[[str, Collection[str]], Awaitable[Mapping[str, CredentialSecret | Refusal]]]
"""What a project's credentials stand for now, by id, or why they cannot be had."""
Find = Callable[[Collection[str]], Awaitable[Mapping[str, CredentialSecret | Refusal]]]
"""The same of one project."""


async def armed(policy: NetworkPolicy, project_id: str, find: FindIn | None) -> NetworkPolicy:
    """Rules with what their credentials stand for now, for who asks within minutes. Secret.

    A token that ends within the time is not renewed; a credential that cannot be had refuses its own requests only.
    """
    wanted = policy.credentials
    found = await find(project_id, wanted) if find is not None and wanted else {}
    return policy.with_secrets({each: _header(found[each], each) for each in wanted if each in found})


def echoes_of(policy: NetworkPolicy) -> Echoes:
    """What nobody may be told of what servers answer under rules that are `armed`."""
    secret = [rule.headers for rule in policy.rules or () if rule.is_secret]
    return Echoes.of({}, (form for headers in secret for value in headers.values() for form in spelled(value)))


async def _nobody(ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
    return {each: Refusal(f"credential {each!r} cannot be had") for each in ids}


@dataclass(slots=True)
class Insertion:
    """Of one request."""

    headers: Mapping[str, str] = field(repr=False)
    """What it gets, whatever it has. Secret."""
    swaps: Swaps
    """What is swapped in it. `used` tells afterwards."""
    credentials: tuple[str, ...]
    """Ids of those that `headers` are of."""

    @property
    def ids(self) -> tuple[str, ...]:
        """All credentials that are in the request."""
        return tuple(dict.fromkeys((*self.credentials, *self.swaps.used)))

    @property
    def echoes(self) -> Echoes:
        """What an answer must not repeat, once the request is written."""
        return Echoes.of(self.headers, self.swaps.written)


@dataclass(frozen=True, slots=True)
class Injection:
    """Of one environment."""

    variables: frozenset[str] = frozenset()
    """Ids of the credentials that its variables hold placeholders of."""
    find: Find = field(default=_nobody, repr=False, compare=False)

    async def reads(self, allowed: Allowed) -> bool:
        """Whether requests to it must be read, since something may be put into them or is refused in them.

        Where there are placeholders, whatever speaks TLS at the usual port is read, so that one that goes astray is
        told of. Elsewhere only what goes to those who may get a value.
        """
        if allowed.needs_reading:
            return True
        if not self.variables:
            return False
        if allowed.port == _TLS_PORT:
            return True
        found = await self.find(self.variables)
        return any(
            fits(pattern, allowed.host)
            for secret in found.values()
            if isinstance(secret, VariableSecret)
            for pattern in secret.trusted_domains
        )

    async def prepared(self, host: str, rules: Iterable[Rule]) -> Insertion | Refusal:
        """For a request that `rules` let through to `host`."""
        through = tuple(rules)
        named = tuple(dict.fromkeys(rule.credential for rule in through if rule.credential))
        wanted = {*named, *self.variables}
        found = await self.find(wanted) if wanted else {}
        headers = granted(through, {each: _header(found.get(each), each) for each in named})
        if isinstance(headers, Refusal):
            return headers
        held = {each: _variable(found.get(each), each) for each in self.variables}
        return Insertion(headers, Swaps(host, held), named)


def _header(secret: CredentialSecret | Refusal | None, credential_id: str) -> HeaderSecret | Refusal:
    if isinstance(secret, HeaderSecret | Refusal):
        return secret
    return Refusal(f"credential {credential_id!r} is not one that is sent in a header")


def _variable(secret: CredentialSecret | Refusal | None, credential_id: str) -> VariableSecret | Refusal:
    if isinstance(secret, VariableSecret | Refusal):
        return secret
    return Refusal(f"credential {credential_id!r} is not of the type 'environment_variable'")
