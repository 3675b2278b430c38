"""Templates: snapshots that hold an agent's base sources and what its setup made, of which new sandboxes are forks.

Named after what is in them, built by whoever needs one first and once for all who do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from orchestrator import ids, moments
from orchestrator.errors import SandboxError, SandboxStartFailed
from orchestrator.sandboxes.driver import Profile, SandboxDriver, SandboxRef
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict
from orchestrator.sandboxes.sources import SourcePort, put_sources
from orchestrator.sandboxes.specs import is_preserved, parse_spec, sandbox_spec
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from orchestrator.store.port import Store
from orchestrator.wire.environments import EnvironmentSpec

log = structlog.get_logger(__name__)

_SETUP_TIMEOUT_S = 600.0
_SETUP_OUTPUT_BYTES = 4096
"""Of a command that failed, its last words and its first."""
_GIVE_AWAY = r"""[ -z "$CORRAL_AGENT" ] || exec python3 -I -S - <<'PROGRAM'
import os
owner = [int(each) for each in os.environ["CORRAL_AGENT"].split(":")]
for top in (b"/workspace", b"/home/agent", b"/.agents"):
    for folder, folders, files in os.walk(top):
        for path in (os.path.join(folder, name) for name in folders + files):
            if os.lstat(path).st_uid == 0:
                os.chown(path, *owner, follow_symlinks=False)
PROGRAM
"""
"""What root has made where the agent works is the agent's; elsewhere it can be read and run."""


class Templates:
    """Those that this server has built."""

    def __init__(
        self,
        store: Store,
        driver: SandboxDriver,
        queue: WorkQueue,
        connect: Callable[[SandboxRef], Awaitable[Sandbox]],
        sources: SourcePort | None,
        *,
        let_out: Callable[[Sandbox, str, EnvironmentSpec, str], Awaitable[None]],
        watch: Callable[[Sandbox, int], None],
    ) -> None:
        """`connect` opens the link to a new sandbox, `sources` fetches what goes into it, `let_out` gives its setup a
        way out. `watch` is told of each and of what it may write, for where nothing else holds that.
        """
        self.snapshots: set[str] = set()
        """Names of those that exist or are being built."""
        self.sandbox_ids: set[str] = set()
        """The sandboxes that they are being built in."""
        self._store = store
        self._driver = driver
        self._queue = queue
        self._connect = connect
        self._sources = sources
        self._let_out = let_out
        self._watch = watch
        self._built: set[str] = set()

    async def ready(self, name: str, profile: Profile, project_id: str) -> str:
        """The name of the snapshot, which is there from now on. Raises as a start does. It is built with the project's
        credentials, if it needs some: then no other project has one of that name.
        """
        if name not in self._built and not is_preserved(name):
            await self._queue.do(("template", name), lambda: self._build(name, profile, project_id))
        return name

    async def _build(self, name: str, profile: Profile, project_id: str) -> None:
        ref = SandboxRef(ids.new_sandbox_id(), "")
        self.sandbox_ids.add(ref.sandbox_id)
        self.snapshots.add(name)
        try:
            # One of an earlier server may be of another image under the same name.
            await self._driver.drop_snapshot(name)
            if (base := await self._store.template(name)) is None:
                raise SandboxStartFailed("its template is not in the store", stage="sources")
            spec = parse_spec(base)
            label = f"template-{ref.sandbox_id[:12]}"
            wanted = sandbox_spec(ref.sandbox_id, profile, label, "", is_setup=bool(spec.setup))
            async with self._queue.turn(Urgency.AWAITED), contextlib.aclosing(self._driver.create(wanted)) as stages:
                async for stage in stages:
                    ref = stage
                sandbox = await self._connect(ref)
            try:
                await self._fill(sandbox, name, spec, project_id, profile.resources.disk_bytes)
                await self._driver.snapshot(sandbox.ref, name)
                moments.passed("template.kept")
            finally:
                await sandbox.aclose()
            self._built.add(name)
            log.info("template_built", name=name)
        finally:
            if name not in self._built:
                self.snapshots.discard(name)
            if ref.token:
                with contextlib.suppress(SandboxError):
                    await asyncio.shield(self._driver.destroy(ref))
            self.sandbox_ids.discard(ref.sandbox_id)

    async def _fill(
        self, sandbox: Sandbox, name: str, spec: EnvironmentSpec, project_id: str, limit_bytes: int
    ) -> None:
        self._watch(sandbox, limit_bytes)
        await self._let_out(sandbox, name, spec, project_id)
        await put_sources(sandbox, spec, project_id, self._sources)
        for number, command in enumerate(spec.setup or (), 1):
            await _set_up(sandbox, f"command {number} of its setup", command)
        if spec.setup:
            await _set_up(sandbox, "giving the agent what its setup made", _GIVE_AWAY)
            written_bytes = await self._driver.written_bytes(sandbox.ref)
            if written_bytes is not None and written_bytes > limit_bytes:
                raise SandboxStartFailed("its setup has written more than its disk may hold", stage="setup")
        moments.passed("template.furnished")


async def _set_up(sandbox: Sandbox, what: str, command: str) -> None:
    """Runs one command as calls of agents are run, within the sandbox's limits; as root, who is none outside."""
    call_id = ids.new_sandbox_id()
    outcome = await sandbox.bash(call_id, command, timeout_s=_SETUP_TIMEOUT_S, output_limit_bytes=_SETUP_OUTPUT_BYTES)
    sandbox.acknowledge(call_id)
    if outcome.is_ok:
        return
    how = f"exit code {outcome.exit_code}" if outcome.verdict is Verdict.EXITED else outcome.verdict.value
    said = (outcome.head + outcome.tail).decode("utf-8", "replace").strip()
    raise SandboxStartFailed(f"{what} failed ({how}): {said}", stage="setup")
