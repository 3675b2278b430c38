"""What is to be sent in place of a credential's name. Pure; imports nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HeaderSecret:
    """A header that requests get. Of the types `bearer_token` and `oauth2`."""

    id: str
    name: str
    value: str = field(repr=False)
    """Prefix and token, as they are sent."""
    token: str = field(repr=False)
    """What must not be seen anywhere else."""


@dataclass(frozen=True, slots=True)
class VariableSecret:
    """A value that takes the place of its placeholder. Of the type `environment_variable`."""

    id: str
    value: str = field(repr=False)
    locations: frozenset[str]
    """Where in a request: `header`, `query`, `body`."""
    trusted_domains: tuple[str, ...]
    """Patterns of `parse_pattern`: toward whom. Empty: nobody."""


CredentialSecret = HeaderSecret | VariableSecret


def header_secret(credential_id: str, name: str, prefix: str, token: str) -> HeaderSecret:
    """With the space that stands between prefix and token."""
    return HeaderSecret(credential_id, name, f"{prefix} {token}" if prefix else token, token)
