"""What an operator gives for sources, by name: whose key to use, whose host to trust. Imports nothing of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SshProfile:
    """How to log in at one SSH server, for files and for repositories."""

    host: str
    user: str
    port: int = 22
    key_file: Path | None = None
    password: str | None = field(default=None, repr=False)
    """For files only: git asks nobody."""
    host_keys: tuple[str, ...] = ()
    """`ssh-ed25519 AAAA…`; none: those of `known_hosts_file`."""


@dataclass(frozen=True, slots=True)
class S3Profile:
    """Keys for buckets."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    """None: Amazon's."""
    region: str | None = None
    buckets: tuple[str, ...] = ()
    """The keys are used for no others; none listed: for all."""
