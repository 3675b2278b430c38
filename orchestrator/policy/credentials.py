"""What projects may keep as credentials, and where they may be named. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import InvalidRequest
from orchestrator.policy.network import HostProblem, may_be_set, parse_pattern
from orchestrator.policy.urls import Url, UrlProblem
from orchestrator.wire.base import quote
from orchestrator.wire.credentials import AnyCredential, BearerToken, EnvironmentVariable, OAuth2
from orchestrator.wire.environments import EnvVar
from orchestrator.wire.network import Network, NetworkRules

CREDENTIALS_LIMIT = 1000
"""Of one project."""


def check_credential(credential: AnyCredential) -> AnyCredential:
    """The credential with its domains in their one form. Raises `InvalidRequest`, naming the field."""
    match credential:
        case BearerToken():
            if not may_be_set(credential.header_name):
                raise InvalidRequest(
                    f"Invalid value at 'header_name': {quote(credential.header_name)} cannot be set on requests."
                )
        case OAuth2():
            token_url(credential)
        case EnvironmentVariable():
            domains = [_domain(text, index) for index, text in enumerate(credential.trusted_domains or ())]
            if domains:
                return credential.model_copy(update={"trusted_domains": domains})
    return credential


def token_url(credential: OAuth2) -> Url:
    """Where it is exchanged. Raises `InvalidRequest`."""
    try:
        return Url.parse(credential.token_url, ("https",))
    except UrlProblem as error:
        raise InvalidRequest(f"Invalid value at 'token_url': {error}.") from None


def _domain(text: str, index: int) -> str:
    at = f"trusted_domains[{index}]"
    try:
        pattern = parse_pattern(text)
    except HostProblem as error:
        raise InvalidRequest(f"Invalid value at '{at}': {quote(text)} is not a domain: {error}.") from None
    if pattern == "*":
        raise InvalidRequest(f"Invalid value at '{at}': '*' would send the value to anybody; name the domains.")
    return pattern


@dataclass(frozen=True, slots=True)
class Naming:
    """A field that names a credential."""

    at: str
    """Its path in the request."""
    credential_id: str
    is_variable: bool
    """Whether it is a variable, which takes a placeholder; else a rule of the network, which takes a header."""


def namings(network: Network | None, variables: Mapping[str, EnvVar], at: str = "") -> list[Naming]:
    """All fields of an environment, which is at `at` in the request, that name credentials."""
    lead = f"{at}." if at else ""
    rules = network.allowlist if isinstance(network, NetworkRules) else ()
    return [
        *(
            Naming(f"{lead}network.allowlist[{index}].credential", rule.credential, is_variable=False)
            for index, rule in enumerate(rules)
            if rule.credential is not None
        ),
        *(
            Naming(f"{lead}env.{name}.credential", variable.credential, is_variable=True)
            for name, variable in variables.items()
            if variable.credential is not None
        ),
    ]


def check_naming(naming: Naming, credential_type: str | None, status: str | None) -> None:
    """Whether a credential of this type and status can be named there; None: there is none of that id.

    Raises `InvalidRequest`, naming the field.
    """
    where = f"Invalid value at '{naming.at}'"
    if credential_type is None:
        raise InvalidRequest(f"{where}: Credential {naming.credential_id!r} not found.")
    if status == "revoked":
        raise InvalidRequest(f"{where}: Credential {naming.credential_id!r} is revoked.")
    if naming.is_variable is not (credential_type == "environment_variable"):
        fitting = "of the type 'environment_variable'" if naming.is_variable else "that is sent in a header"
        raise InvalidRequest(
            f"{where}: Credential {naming.credential_id!r} is of the type {credential_type!r}; expected one {fitting}."
        )
