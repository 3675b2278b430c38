"""The driver itself: lifecycle calls, streams to guests, the engine's events.

The SDK is synchronous: its calls run in a small thread pool of the driver's own. Streams do not: each is a socket that
asyncio reads. Beside the engine it is the guest's own (`direct.py`). Elsewhere, a new sandbox's first stream is the
standard input and output of its main process, attached before it starts, and every later one an exec of the bridge.
Labels on a container are its instance and sandbox; labels cannot change later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.errors
import requests.exceptions

from orchestrator import moments
from orchestrator.errors import CorralError, EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed
from orchestrator.sandboxes import guest_bundle, seccomp
from orchestrator.sandboxes.disks import Disks
from orchestrator.sandboxes.docker import direct, engine, events, images
from orchestrator.sandboxes.docker.attached import AttachedProtocol, own_socket, whole_socket
from orchestrator.sandboxes.docker.container import (
    BRIDGE_COMMAND,
    INSTANCE_LABEL,
    SANDBOX_LABEL,
    container_config,
)
from orchestrator.sandboxes.docker.dialing import Dialer, Tls, dialer_of
from orchestrator.sandboxes.docker.storage import DiskStorage, Image, LayerStorage, Storage, image_gone
from orchestrator.sandboxes.driver import (
    DriverInfo,
    Found,
    GuestStream,
    SandboxDriver,
    SandboxRef,
    SandboxSpec,
    SandboxState,
    SandboxStatus,
)

T = TypeVar("T")

_ENGINE_THREADS = 8
"""The engine is at its best with 4 to 8 calls at a time (design 6)."""
_STORAGE_THREADS = 4
_OPEN_TIMEOUT_S = 10
_ENGINE_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 3
_APPEARS_WITHIN_S = 5.0
_APPEARS_INTERVAL_S = 0.05
_STATES = {each.value: each for each in (SandboxState.CREATED, SandboxState.RUNNING, SandboxState.PAUSED)}


class DockerDriver(SandboxDriver):
    """Sandboxes as containers of one Docker engine."""

    def __init__(
        self,
        engine_url: str,
        instance: str,
        disks: Disks | None = None,
        *,
        is_direct: bool | None = None,
        tls: Tls | None = None,
        folder: Path | None = None,
    ) -> None:
        """With `disks` each sandbox has one of its own; without, its files are in the container's writable layer.

        `is_direct`: whether guests are reached past the engine where that can be; by default if it is on this machine.
        `tls`: for an engine at a `tcp://` address.
        `folder`: for what an engine on this machine reads from a file; Podman is refused without it.
        """
        self._engine_url = engine_url
        self._instance = instance
        self._threads = ThreadPoolExecutor(_ENGINE_THREADS, thread_name_prefix="engine")
        self._storage_threads = ThreadPoolExecutor(_STORAGE_THREADS, thread_name_prefix="storage")
        self._check_thread = ThreadPoolExecutor(1, thread_name_prefix="engine-check")
        self._tls = tls
        self._folder = folder
        self._podman_profile = ""
        """The path of the seccomp profile, if the engine is Podman."""
        self._dialer: Dialer | None = None
        """To an engine that is far away; None beside it."""
        self._opening = asyncio.Lock()
        self._is_closed = False
        self._client: docker.DockerClient | None = None
        self._wants_direct = is_direct
        self._is_direct = False
        """Decided when the engine answers: before that nobody knows where it is."""
        self._default_runtime = ""
        self._opened_at: str | None = None
        """By the engine's clock."""
        self._guest_digest = guest_bundle.digest()
        self._storage: Storage = (
            LayerStorage(lambda: self._engine.api, instance)
            if disks is None
            else DiskStorage(disks, self._read_image, self._image)
        )
        self._first_streams: dict[str, socket.socket] = {}
        """By token, from `create` to `connect`. Without its entry a sandbox is reached by a bridge, 35 ms later."""

    async def open(self) -> DriverInfo:
        async with self._opening:
            return await self._open()

    async def _open(self) -> DriverInfo:
        def connect() -> docker.DockerClient:
            self._dialer = self._dialer or dialer_of(self._engine_url, self._tls)
            client = engine.connect(self._engine_url, _OPEN_TIMEOUT_S, _ENGINE_THREADS * 2, self._dialer)
            images.remove_readers(client.api, self._instance)
            client.api.timeout = _ENGINE_TIMEOUT_S
            return client

        client: Any = self._client or await self._run(connect)
        try:
            found = await self._run(lambda: engine.look_at(client))
            if self._wants_direct is None:
                self._is_direct = await self._run(lambda: direct.is_possible(self._engine_url))
            else:
                self._is_direct = self._wants_direct
            if found.is_podman:
                self._podman_profile = await self._run(self._write_seccomp_profile)
            await self._keep(self._prepare_storage, client)
            self._default_runtime, self._opened_at = found.default_runtime, found.clock
            # Not before: what the storage tidies up, nobody may be making.
            self._client = client
        except SandboxStartFailed as error:
            raise EngineUnavailable(error.message) from error
        finally:
            if self._client is not client:
                client.close()
        links = "direct" if self._is_direct else "through the engine"
        return DriverInfo(
            found.name,
            found.runtimes,
            can_pause=found.can_freeze,
            is_remote=not self._engine_url.startswith("unix://"),
            details=found.details | {"files": self._storage.name, "links": links},
        )

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for token in list(self._first_streams):
            self._drop_first_stream(token)
        client, self._client = self._client, None
        loop = asyncio.get_running_loop()
        if client is not None:
            await loop.run_in_executor(self._threads, client.close)
        await loop.run_in_executor(self._storage_threads, self._storage.close)
        if self._dialer is not None:
            await loop.run_in_executor(self._check_thread, self._dialer.close)
        self._threads.shutdown(wait=False)
        self._check_thread.shutdown(wait=False)
        self._storage_threads.shutdown(wait=False)

    async def has_image(self, image: str) -> bool:
        try:
            await self._run(lambda: self._engine.api.inspect_image(image))
        except ImageMissing:
            return False
        return True

    async def has_current_guest(self, image: str) -> bool:
        """Whether the image carries this version's guest; else each start copies it in. Raises `ImageMissing`."""
        return (await self._run(lambda: self._image(image))).carries_guest

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        existing, image, needs_files = await self._run(lambda: self._look_for(spec))
        # A disk takes a fraction of the time that the engine takes for the container.
        files = asyncio.ensure_future(self._keep(self._prepare_files, spec, image))
        try:
            try:
                token = existing or await self._create_whole(spec, image, files, needs_files=needs_files)
            except engine.NameTaken:
                token = existing = await self._appearing(spec.sandbox_id)
            ref = SandboxRef(spec.sandbox_id, token)
            if existing is None:
                moments.passed("start.created")
                yield ref
            await asyncio.shield(files)
            lacks_guest = self._storage.puts_guest and not image.carries_guest
            if lacks_guest and (existing is None or (await self._known(ref)).state is SandboxState.CREATED):
                await self._run(lambda: self._put_guest(ref.token), stage="create")
            # Who made one that was there may have attached to it: that stream is spent, and the only one of its kind.
            if existing is None and not self._is_reached_directly(spec.runtime):
                attaching = self._run(lambda: self._attach(ref.token), stage="create")
                self._first_streams[ref.token] = await whole_socket(attaching)
                moments.passed("start.attached")
            await self._run(lambda: self._engine.api.start(ref.token), stage="start")
            moments.passed("start.running")
            yield ref
        finally:
            await _settled(files)

    async def rename(self, ref: SandboxRef, name: str) -> None:
        await self._run(lambda: self._engine.api.rename(ref.token, f"corral-{name}"))

    async def start(self, ref: SandboxRef) -> None:
        self._drop_first_stream(ref.token)
        await self._known(ref)
        await self._keep(self._storage.mount, ref.sandbox_id)
        await self._run(lambda: self._engine.api.start(ref.token), stage="start")

    async def stop(self, ref: SandboxRef) -> None:
        self._drop_first_stream(ref.token)
        await self._thaw(ref)
        with contextlib.suppress(SandboxGone):
            await self._run(lambda: self._engine.api.stop(ref.token, timeout=_STOP_TIMEOUT_S))
        await self._keep(self._storage.unmount, ref.sandbox_id)
        moments.passed("disk.unmounted")

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        try:
            found = (await self._run(lambda: self._engine.api.inspect_container(ref.token)))["State"]
        except SandboxGone:
            has_files = await self._keep(self._storage.has_files, ref.sandbox_id, False)
            return SandboxStatus(SandboxState.ABSENT, has_files=has_files)
        except CorralError as error:
            return SandboxStatus(SandboxState.UNKNOWN, error.message)
        state, reason = _state(found["Status"]), ""
        if state is SandboxState.EXITED:
            is_oom = found.get("OOMKilled")
            reason = "out of memory" if is_oom else found.get("Error") or f"exit code {found.get('ExitCode')}"
        return SandboxStatus(state, reason, await self._keep(self._storage.has_files, ref.sandbox_id, True))

    async def pause(self, ref: SandboxRef) -> None:
        if (await self._known(ref)).state is not SandboxState.PAUSED:
            await self._run(lambda: self._engine.api.pause(ref.token))

    async def resume(self, ref: SandboxRef) -> None:
        if (await self._known(ref)).state is SandboxState.PAUSED:
            await self._run(lambda: self._engine.api.unpause(ref.token))

    async def snapshot(self, ref: SandboxRef, name: str) -> None:
        await self._known(ref)
        await self._keep(self._storage.snapshot, ref, name, stage="snapshot")

    async def drop_snapshot(self, name: str) -> None:
        await self._keep(self._storage.drop_snapshot, name)

    async def snapshots(self) -> set[str]:
        return await self._keep(self._storage.snapshots)

    async def written_bytes(self, ref: SandboxRef) -> int | None:
        if self._storage.has_hard_limit:
            return None
        found = await self._run(lambda: self._engine.api.containers(all=True, size=True, filters={"id": ref.token}))
        return int(found[0].get("SizeRw") or 0) if found else None

    async def destroy(self, ref: SandboxRef) -> None:
        if ref.token:
            self._drop_first_stream(ref.token)
            await self._thaw(ref)
            await self._remove(ref.token)
        await self._keep(self._storage.remove, ref.sandbox_id)
        moments.passed("disk.removed")

    async def owned(self) -> AsyncIterator[Found]:
        # Files first: a sandbox that is being made has a container later, not earlier.
        disks = await self._keep(self._storage.sandbox_ids)
        filters = {"label": f"{INSTANCE_LABEL}={self._instance}"}
        containers = await self._run(lambda: self._engine.api.containers(all=True, filters=filters))
        refs = {SandboxRef(each["Labels"].get(SANDBOX_LABEL, ""), each["Id"]): each["State"] for each in containers}
        for ref, state in refs.items():
            yield Found(ref, _state(state), not self._storage.has_hard_limit or ref.sandbox_id in disks)
        for sandbox_id in disks - {ref.sandbox_id for ref in refs}:
            yield Found(SandboxRef(sandbox_id, ""), SandboxState.ABSENT, has_files=True)

    async def connect(self, ref: SandboxRef) -> GuestStream:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        protocol: asyncio.StreamReaderProtocol = AttachedProtocol(reader)
        raw = self._first_streams.pop(ref.token, None)
        if raw is None and self._is_direct:
            raw = await whole_socket(self._run(lambda: self._direct_link(ref.token)))
            protocol = asyncio.StreamReaderProtocol(reader) if raw is not None else protocol
        if raw is None:
            raw = await whole_socket(self._run(lambda: self._bridge(ref.token)))
        transport, _ = await loop.create_connection(lambda: protocol, sock=raw)
        return GuestStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def exits(self) -> AsyncIterator[str]:
        # From when the engine was asked who is there: in between somebody may have ended.
        since = self._opened_at
        stream = await self._run(lambda: events.open_stream(self._engine.api, self._instance, since))
        async with contextlib.aclosing(events.ends(stream, self._check)) as ends:
            async for sandbox_id in ends:
                yield sandbox_id

    async def _check(self) -> None:
        """A connection to a far engine may be over without a word."""
        if self._dialer is not None:
            await asyncio.get_running_loop().run_in_executor(self._check_thread, self._dialer.check)

    @property
    def _engine(self) -> docker.DockerClient:
        if self._client is None:
            raise EngineUnavailable(f"the container engine at {self._engine_url} does not answer")
        return self._client

    async def _run(self, call: Callable[[], T], stage: str | None = None) -> T:
        def translated() -> T:
            with engine.translated(self._engine_url, stage):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._threads, translated)

    async def _thaw(self, ref: SandboxRef) -> None:
        """gVisor does not end what is paused; the engine then believes for good that the sandbox is still there."""
        if (await self.inspect(ref)).state is SandboxState.PAUSED:
            await self._run(lambda: self._engine.api.unpause(ref.token))

    async def _known(self, ref: SandboxRef) -> SandboxStatus:
        status = await self.inspect(ref)
        if status.state is SandboxState.UNKNOWN:
            raise EngineUnavailable(status.reason)
        if status.state is SandboxState.ABSENT:
            raise SandboxGone("the sandbox is not on the engine")
        return status

    async def _keep(self, call: Callable[..., T], *arguments: Any, stage: str = "disk") -> T:
        """Calls the storage."""

        def translated() -> T:
            with engine.translated(self._engine_url, stage):
                try:
                    return call(*arguments)
                except (docker.errors.DockerException, requests.exceptions.RequestException):
                    raise
                except OSError as error:
                    raise SandboxStartFailed(f"the sandbox's disk: {error}", stage=stage) from error

        return await asyncio.get_running_loop().run_in_executor(self._storage_threads, translated)

    async def _create_whole(
        self, spec: SandboxSpec, image: Image, files: asyncio.Future[bool], *, needs_files: bool
    ) -> str:
        """The engine goes on with a create that we no longer wait for; then nobody would know the container."""

        async def create() -> str:
            if needs_files:
                await asyncio.shield(files)
            return await self._run(lambda: self._create(spec, image), stage="create")

        creating = asyncio.ensure_future(create())
        try:
            return await asyncio.shield(creating)
        except BaseException:
            error = await _settled(creating)
            # Without an answer there may be a container on that disk, now or in a moment.
            is_known = not isinstance(error, EngineUnavailable | engine.NameTaken)
            are_new = await _settled(files) is None and files.result()
            if error is None:
                await self._remove(creating.result())
            if is_known and are_new:
                await self._keep(self._storage.remove, spec.sandbox_id)
            raise

    async def _appearing(self, sandbox_id: str) -> str:
        """The container of a creation that the engine is about to finish, for a server that has ended."""
        give_up_at = time.monotonic() + _APPEARS_WITHIN_S
        while (token := await self._run(lambda: self._find(sandbox_id))) is None:
            if time.monotonic() > give_up_at:
                raise SandboxStartFailed("another container has the sandbox's name", stage="create")
            await asyncio.sleep(_APPEARS_INTERVAL_S)
        return token

    async def _remove(self, token: str) -> None:
        with contextlib.suppress(SandboxGone):
            await self._run(lambda: self._engine.api.remove_container(token, v=True, force=True))

    def _write_seccomp_profile(self) -> str:
        """Podman takes what is given for the path of a file, on its machine."""
        if self._folder is None or not self._engine_url.startswith("unix://"):
            raise EngineUnavailable("Podman is served only on this machine: it reads the seccomp profile from a file")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        profile = self._folder / "seccomp.json"
        profile.write_text(seccomp.profile(), encoding="utf-8")
        return str(profile)

    def _prepare_storage(self, client: docker.DockerClient) -> None:
        if self._storage.open():
            filters = {"label": f"{INSTANCE_LABEL}={self._instance}"}
            containers = client.api.containers(all=True, filters=filters)
            self._storage.tidy(
                running={
                    each["Labels"].get(SANDBOX_LABEL, "")
                    for each in containers
                    if _state(each["State"]) in (SandboxState.RUNNING, SandboxState.PAUSED)
                },
                bound={mount.get("Source", "") for each in containers for mount in each.get("Mounts") or ()},
                images=set(client.api.images(quiet=True)),
            )

    def _look_for(self, spec: SandboxSpec) -> tuple[str | None, Image, bool]:
        """The sandbox's container, its image, and whether it can be made before its files are."""
        needs_files, name = self._storage.needs_files(spec), self._storage.image_of(spec)
        try:
            image = self._image(name)
        except docker.errors.ImageNotFound as error:
            if needs_files and name != spec.image:
                raise image_gone(name) from error
            raise
        return self._find(spec.sandbox_id), image, needs_files

    def _find(self, sandbox_id: str) -> str | None:
        labels = [f"{INSTANCE_LABEL}={self._instance}", f"{SANDBOX_LABEL}={sandbox_id}"]
        found = self._engine.api.containers(all=True, filters={"label": labels})
        return str(found[0]["Id"]) if found else None

    def _image(self, name: str) -> Image:
        return images.look_at(self._engine.api, name, self._guest_digest)

    def _prepare_files(self, spec: SandboxSpec, image: Image) -> bool:
        """Whether they are new."""
        are_new = not self._storage.has_files(spec.sandbox_id, False)
        self._storage.make(spec, image)
        moments.passed("disk.copied")
        try:
            self._storage.mount(spec.sandbox_id, is_setup=spec.is_setup)
        except BaseException:
            if are_new:
                self._storage.remove(spec.sandbox_id)
            raise
        moments.passed("disk.mounted")
        return are_new

    def _create(self, spec: SandboxSpec, image: Image) -> str:
        placement = self._storage.placement(spec, image)
        config = container_config(
            spec,
            self._instance,
            placement,
            self._engine.api.create_host_config,
            volumes=image.volumes,
            is_linked=not self._is_reached_directly(spec.runtime),
            podman_profile=self._podman_profile,
        )
        created = self._engine.api.create_container(**config)
        return str(created["Id"])

    def _put_guest(self, token: str) -> None:
        self._engine.api.put_archive(token, "/opt", guest_bundle.archive())

    def _attach(self, token: str) -> socket.socket:
        """The first stream of a container that was created and not started."""
        return own_socket(self._engine.api.attach_socket(token, params={"stdin": 1, "stdout": 1, "stream": 1}))

    def _read_image(self, image_id: str, path: str) -> Iterator[bytes] | None:
        return images.read_folder(self._engine.api, self._instance, image_id, path)

    def _is_reached_directly(self, runtime: str) -> bool:
        return self._is_direct and direct.shares_kernel(runtime or self._default_runtime)

    def _direct_link(self, token: str) -> socket.socket | None:
        """None where a bridge must do."""
        found = self._engine.api.inspect_container(token)
        state = found["State"]
        if not self._is_reached_directly(found["HostConfig"].get("Runtime") or ""):
            return None
        if not state["Running"] or state["Paused"]:
            raise SandboxGone(f"the sandbox is {state['Status']}")
        try:
            return direct.connect(state["Pid"], found["Id"])
        except PermissionError:
            return None

    def _bridge(self, token: str) -> socket.socket:
        api = self._engine.api
        created = api.exec_create(token, BRIDGE_COMMAND, stdin=True, stdout=True, stderr=True, tty=False, user="0:0")
        return own_socket(api.exec_start(created["Id"], socket=True, tty=False))

    def _drop_first_stream(self, token: str) -> None:
        stream = self._first_streams.pop(token, None)
        if stream is not None:
            stream.close()


def _state(status: str) -> SandboxState:
    """In the engine's word for it. Whatever is neither new, running nor paused has ended, or is about to go."""
    return _STATES.get(status, SandboxState.EXITED)


async def _settled(task: asyncio.Future[Any]) -> BaseException | None:
    """How it ended, when it is over: a thread cannot be cancelled, nobody may remove what it is still making."""
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()
