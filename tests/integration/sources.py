"""What the tests of fetchers share: a fetcher that may reach loopback, and a look at what it delivers."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import SourceFailed
from orchestrator.policy.network import HostList, Refusal
from orchestrator.policy.secrets import CredentialSecret
from orchestrator.sources import Fetcher, SourceSettings
from orchestrator.wire.environments import parse_environment

LOOPBACK = HostList.parse(["127.0.0.1"])
TARGET = "workspace/in"
PROJECT = "project"


@dataclass(frozen=True)
class Delivered:
    files: dict[str, bytes | None]
    """Names below the target and contents; None for folders."""
    links: dict[str, str]
    modes: dict[str, int]


class Credentials:
    """Those of the project `PROJECT`."""

    def __init__(self, **known: CredentialSecret) -> None:
        self.known = known

    async def find(self, project_id: str, ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        assert project_id == PROJECT
        return {each: self.known.get(each, Refusal(f"credential {each!r} is revoked")) for each in ids}


@asynccontextmanager
async def opened_fetcher(
    folder: Path, credentials: Credentials | None = None, **settings: Any
) -> AsyncGenerator[Fetcher, None]:
    """At the end nothing is left in its folder."""
    place = folder / "fetching"
    given = SourceSettings(**{"exceptions": LOOPBACK, **settings})
    fetcher = Fetcher(place, SystemClock(), given, credentials.find if credentials is not None else None)
    await fetcher.open()
    try:
        yield fetcher
    finally:
        await fetcher.aclose()
    assert not place.exists() or not list(place.iterdir())


async def deliver(fetcher: Fetcher, *sources: dict[str, Any], network: Any = None) -> Delivered:
    """Fetches sources whose target is `workspace/in` unless they say otherwise."""
    listed = [{"target": TARGET, **source} for source in sources]
    spec = parse_environment({"type": "remote", "sources": listed, "network": network})
    assert spec is not None
    async with fetcher.fetched(spec, PROJECT) as delivery:
        files: dict[str, bytes | None] = {}
        modes = {}
        with tarfile.open(delivery.tar) as tar:
            for member in tar:
                content = tar.extractfile(member)
                name = member.name.removeprefix(f"{TARGET}/")
                files[name] = content.read() if content is not None else None
                modes[name] = member.mode
        links = {link.place.removeprefix(f"/{TARGET}/"): link.target for link in delivery.links}
    return Delivered(files, links, modes)


async def refused(fetcher: Fetcher, *sources: dict[str, Any], told: str, network: Any = None) -> str:
    """The message."""
    with pytest.raises(SourceFailed, match=told) as caught:
        await deliver(fetcher, *sources, network=network)
    return caught.value.message
