"""Which public keys an SSH server may have: pinned, never learned. Pure but for one file."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.errors import SourceFailed

_KEY_CHARS = 8192


def known_keys(host: str, port: int, given: Iterable[str], known_hosts: Path | None) -> tuple[str, ...]:
    """Keys, as `ssh-ed25519 AAAA…`, of which the server must have one: those that are given, else those of the file.

    Raises:
        SourceFailed: nobody knows it.
    """
    keys = tuple(key for key in map(_plain, given) if key)
    if not keys and known_hosts is not None:
        keys = tuple(_of_file(host, port, known_hosts))
    if not keys:
        raise SourceFailed(f"the host key of {host} is not known; give it as 'host_key', or in the settings")
    return keys


def as_known_hosts(host: str, port: int, keys: Sequence[str]) -> str:
    """The text of a file for `ssh`."""
    return "".join(f"{_entry(host, port)} {key}\n" for key in keys)


def _plain(line: str) -> str:
    parts = line.split()
    return " ".join(parts[:2]) if len(parts) >= 2 and len(parts[1]) <= _KEY_CHARS else ""


def _entry(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def _of_file(host: str, port: int, file: Path) -> Iterable[str]:
    """Lines with patterns and marks (`@revoked`) are passed over: then the server is unknown."""
    wanted = _entry(host, port)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise SourceFailed(f"the operator's file of known hosts cannot be read: {error.strerror}") from error
    for line in lines:
        names, _, key = line.strip().partition(" ")
        if names and names[0] not in "#@" and any(_is(name, wanted) for name in names.split(",")):
            yield _plain(key)


def _is(name: str, wanted: str) -> bool:
    if not name.startswith("|1|"):
        return name == wanted
    try:
        salt, digest = (base64.b64decode(part) for part in name[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, wanted.encode(), hashlib.sha1), digest)
