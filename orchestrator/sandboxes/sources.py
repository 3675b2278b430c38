"""Putting an environment's data sources into its sandbox. Which targets are allowed is policy's to say."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

from orchestrator.errors import SandboxStartFailed
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.wire.environments import InlineSource


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


async def put_sources(sandbox: Sandbox, call_id: str, sources: Sequence[InlineSource]) -> None:
    """Puts inline sources in place. May be repeated. Raises `SandboxStartFailed` if one cannot be written."""
    if not sources:
        return
    outcome = await sandbox.put(call_id, "/", inline_archive(sources))
    sandbox.acknowledge(call_id)
    if not outcome.is_ok:
        reason = outcome.error.message if outcome.error else outcome.verdict.value
        raise SandboxStartFailed(f"a source could not be put in place: {reason}", stage="sources")
