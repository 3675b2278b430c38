"""Uploads that come in several requests: which there are, how far each has come, and the end of those that nobody goes
on with. They last as long as the server; what they have written waits in the sandbox, beside its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field

import structlog

from orchestrator.clock import Clock
from orchestrator.errors import CorralError, InvalidRequest, LimitExceeded, NotFound
from orchestrator.sandboxes import files
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.files import Entry, Target

log = structlog.get_logger(__name__)

_PER_PROJECT = 200
_ABANDONED_S = 3600.0
"""So long nobody has sent a piece of it."""
_SWEEP_INTERVAL_S = 60.0


@dataclass(eq=False, slots=True)
class Upload:
    """One upload. `received_bytes` is what is safe inside; a sender goes on from there."""

    id: str
    project_id: str
    environment_id: str
    target: Target
    total_bytes: int | None
    """As announced; None: it ends when the sender says so."""
    used: float
    """When it was last asked for, by the monotonic clock."""
    name: str = ""
    """Its file's, inside."""
    received_bytes: int = 0
    written: list[Entry] | None = None
    """What it has made, once it has ended."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Uploads:
    """All uploads of a server. `aclose` at its end."""

    def __init__(self, environments: Environments, clock: Clock) -> None:
        self._environments = environments
        self._clock = clock
        self._uploads: dict[str, Upload] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Forgets all uploads. What they have written inside is removed when something is next uploaded beside it."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None

    async def begin(
        self, project_id: str, environment_id: str, target: Target, total_bytes: int | None = None
    ) -> Upload:
        """A new upload; one of nothing has ended on return.

        Raises:
            InvalidRequest, Conflict, PermissionDenied: the target cannot be written, or is there already.
            LimitExceeded: the project has begun too many.
        """
        if sum(each.project_id == project_id for each in self._uploads.values()) >= _PER_PROJECT:
            raise LimitExceeded(f"{_PER_PROJECT} uploads are under way; end or cancel some.")
        upload = Upload(secrets.token_hex(24), project_id, environment_id, target, total_bytes, self._clock.monotonic())
        with self._environments.hold(environment_id):
            sandbox = await self._environments.sandbox(environment_id)
            upload.name = await files.begin_upload(sandbox, target)
        self._uploads[upload.id] = upload
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="uploads")
        if total_bytes == 0:
            await self.finish(upload)
        return upload

    def find(self, project_id: str | None, upload_id: str) -> Upload:
        """Raises `NotFound` if the project, or with None any, has no such upload, or it was given up."""
        upload = self._uploads.get(upload_id)
        if upload is None or project_id not in (None, upload.project_id):
            raise NotFound("No such upload, or it was given up.")
        upload.used = self._clock.monotonic()
        return upload

    async def add(self, upload: Upload, offset: int, content: AsyncIterable[bytes]) -> None:
        """A piece that begins at `offset`; one that was sent before is written again. What had come when it was cut
        off counts.

        Raises:
            InvalidRequest: it would leave a gap, or is more than was announced.
            NotFound: what was sent before is gone. Conflict: the disk is full.
        """
        async with self._used(upload):
            if upload.written is not None:
                async for _ in content:  # its last piece comes again, since the answer was lost
                    pass
                return
            if offset > upload.received_bytes:
                raise InvalidRequest(f"Invalid offset {offset}: only {upload.received_bytes} bytes have come.")
            sandbox = await self._environments.sandbox(upload.environment_id)
            about = files.shown(upload.target.path)
            limited = _limited(content, None if upload.total_bytes is None else upload.total_bytes - offset)
            upload.received_bytes = await files.add_to_upload(sandbox, upload.name, offset, limited, about=about)

    async def finish(self, upload: Upload) -> list[Entry]:
        """Puts it in its place; what it has made. May be repeated.

        Raises:
            InvalidRequest: not all has come, or an archive cannot be unpacked. Conflict: something is there already.
        """
        async with self._used(upload):
            if upload.written is None:
                if upload.total_bytes is not None and upload.received_bytes != upload.total_bytes:
                    raise InvalidRequest(
                        f"The upload cannot end: {upload.received_bytes} of {upload.total_bytes} bytes have come."
                    )
                sandbox = await self._environments.sandbox(upload.environment_id)
                upload.written = await files.end_upload(sandbox, upload.name, upload.target)
            return upload.written

    def forget(self, upload: Upload) -> None:
        """Nobody will ask for it again: it has ended in the request that began it."""
        self._uploads.pop(upload.id, None)

    async def cancel(self, upload: Upload) -> None:
        """Gives it up and removes what has come of it, if its sandbox runs."""
        self.forget(upload)
        if upload.written is not None:
            return
        with contextlib.suppress(CorralError):
            async with upload.lock:
                sandbox = await self._environments.running(upload.environment_id)
                if sandbox is not None:
                    await files.drop_upload(sandbox, upload.name)

    @contextlib.asynccontextmanager
    async def _used(self, upload: Upload) -> AsyncGenerator[None, None]:
        async with upload.lock:
            with self._environments.hold(upload.environment_id):
                try:
                    yield
                finally:
                    upload.used = self._clock.monotonic()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            await self.drop_abandoned()

    async def drop_abandoned(self) -> None:
        """Gives up those that nobody has asked for within an hour."""
        oldest = self._clock.monotonic() - _ABANDONED_S
        for upload in [each for each in self._uploads.values() if each.used < oldest and not each.lock.locked()]:
            log.info("upload_abandoned", environment_id=upload.environment_id, received_bytes=upload.received_bytes)
            await self.cancel(upload)


async def _limited(content: AsyncIterable[bytes], room_bytes: int | None) -> AsyncGenerator[bytes, None]:
    async for piece in content:
        if room_bytes is not None:
            room_bytes -= len(piece)
            if room_bytes < 0:
                raise InvalidRequest("The upload is longer than was announced.")
        yield piece
