"""Putting an environment's data sources into its sandbox. Which targets are allowed is policy's to say, how they are
fetched is behind `SourcePort`: all of them are here before the first byte goes in.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PurePosixPath
from typing import Protocol

from orchestrator import ids
from orchestrator.errors import SourceFailed
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.sources.delivery import Delivery, Link
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.sources import InlineSource, Source

_PIECE_BYTES = 1 << 20
_LINK_TIMEOUT_S = 120.0
_LINK_OUTPUT_BYTES = 4096
_LINKS = """
import json, os, sys
for place, target in json.load(sys.stdin):
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.islink(place):
            os.unlink(place)
        os.symlink(target, place)
    except OSError as error:
        sys.exit("%s: %s" % (place, error.strerror))
"""
"""Said again it makes the same links; what is no link stays, and stops it."""


class SourcePort(Protocol):
    """Who fetches: `orchestrator.sources.Fetcher`, or a test's own."""

    def fetched(self, spec: EnvironmentSpec, project_id: str) -> AbstractAsyncContextManager[Delivery]:
        """Everything that `spec` asks for, there for as long as the block lasts. Its rules may name credentials of the
        project. May be repeated.

        Raises `SourceFailed`: one could not be had, and nothing is delivered.
        """


def inline_archive(sources: Sequence[InlineSource]) -> bytes:
    """A tar of the sources, member names relative to `/`."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for source in sources:
            content = source.data
            member = tarfile.TarInfo(source.path.lstrip("/"))
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def may_reach(source: Source, places: Sequence[str]) -> bool:
    """Whether a source can put something at or below one of `places`. Of folders nobody knows what is in them."""
    return not isinstance(source, InlineSource) or any(PurePosixPath(source.path).is_relative_to(at) for at in places)


async def put_sources(sandbox: Sandbox, spec: EnvironmentSpec, project_id: str, port: SourcePort | None) -> None:
    """Puts the sources of an environment in place. May be repeated. Without a port only inline ones can be had.

    Raises `SourceFailed` if one cannot be had or be written; then the sandbox is not to be used.
    """
    inline = [source for source in spec.sources if isinstance(source, InlineSource)]
    if len(inline) == len(spec.sources):
        if inline:
            await _put(sandbox, inline_archive(inline))
        return
    if port is None:
        raise SourceFailed("this server fetches no sources")
    async with port.fetched(spec, project_id) as delivery:
        await _put(sandbox, _pieces(delivery.tar))
        if delivery.links:
            await _link(sandbox, delivery.links)


async def _put(sandbox: Sandbox, tar: bytes | AsyncGenerator[bytes, None]) -> None:
    call_id = _call_id()
    _settle(sandbox, call_id, await sandbox.put(call_id, "/", tar))


async def _link(sandbox: Sandbox, links: Sequence[Link]) -> None:
    """As a command, with the rights of one: a tar of the guest's has no links."""
    call_id = _call_id()
    listed = json.dumps([(link.place, link.target) for link in links]).encode()
    argv = ["python3", "-I", "-c", _LINKS]
    outcome = await sandbox.execute(
        call_id, argv, listed, timeout_s=_LINK_TIMEOUT_S, output_limit_bytes=_LINK_OUTPUT_BYTES
    )
    _settle(sandbox, call_id, outcome)


def _call_id() -> str:
    """Another one each time: a guest forgets a call for good once its outcome has been taken."""
    return f"sources-{ids.new_sandbox_id()[:12]}"


def _settle(sandbox: Sandbox, call_id: str, outcome: CallOutcome) -> None:
    sandbox.acknowledge(call_id)
    if outcome.is_ok:
        return
    said = (outcome.head + outcome.tail).decode("utf-8", "replace").strip()
    reason = outcome.error.message if outcome.error else said or outcome.verdict.value
    raise SourceFailed(f"a source could not be put in place: {reason}")


async def _pieces(path: Path) -> AsyncGenerator[bytes, None]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece
