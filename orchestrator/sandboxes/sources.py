"""Putting an environment's data sources into its sandbox. Which targets are allowed is policy's to say."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator import ids
from orchestrator.errors import SandboxStartFailed
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.wire.environments import EnvironmentSpec, InlineSource, Source


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


async def put_sources(sandbox: Sandbox, spec: EnvironmentSpec) -> None:
    """Puts the inline sources of an environment in place. May be repeated.

    Raises `SandboxStartFailed` if one cannot be written.
    """
    sources = [source for source in spec.sources if isinstance(source, InlineSource)]
    if not sources:
        return
    # Another id each time: a guest forgets a call for good once its outcome has been taken.
    call_id = f"sources-{ids.new_sandbox_id()[:12]}"
    outcome = await sandbox.put(call_id, "/", inline_archive(sources))
    sandbox.acknowledge(call_id)
    if not outcome.is_ok:
        reason = outcome.error.message if outcome.error else outcome.verdict.value
        raise SandboxStartFailed(f"a source could not be put in place: {reason}", stage="sources")
