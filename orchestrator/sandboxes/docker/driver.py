"""The driver itself: lifecycle calls, first streams, bridges, the engine's events.

The SDK is synchronous: its calls run in a small thread pool of the driver's own. Streams do not: what is attached is a
socket that asyncio reads. A new sandbox's first stream is the standard input and output of its main process, attached
before it starts; every later one is an exec of the bridge. Labels on a container are its instance and sandbox; labels
cannot change later.
"""

from __future__ import annotations

import asyncio
import io
import socket
import tarfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import docker
import docker.errors
import requests.exceptions

from orchestrator.errors import CorralError, EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed
from orchestrator.sandboxes import guest_bundle
from orchestrator.sandboxes.docker.attached import AttachedProtocol, own_socket
from orchestrator.sandboxes.docker.container import (
    BRIDGE_COMMAND,
    GUEST_LABEL,
    INSTANCE_LABEL,
    SANDBOX_LABEL,
    container_config,
)
from orchestrator.sandboxes.driver import (
    DriverInfo,
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
_ENGINE_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 3


class DockerDriver(SandboxDriver):
    """Sandboxes as containers of one Docker engine."""

    def __init__(self, engine_url: str, instance: str) -> None:
        self._engine_url = engine_url
        self._instance = instance
        self._threads = ThreadPoolExecutor(_ENGINE_THREADS, thread_name_prefix="engine")
        self._client: docker.DockerClient | None = None
        self._guest_digest = guest_bundle.digest()
        self._first_streams: dict[str, socket.socket] = {}
        """By token, from `create` to `connect`. Without its entry a sandbox is reached by a bridge, 35 ms later."""

    async def open(self) -> DriverInfo:
        def connect() -> DriverInfo:
            if self._client is None:
                self._client = docker.DockerClient(
                    base_url=self._engine_url,
                    version="auto",
                    timeout=_ENGINE_TIMEOUT_S,
                    max_pool_size=_ENGINE_THREADS * 2,
                )
            version, info = self._client.version(), self._client.info()
            components = version.get("Components") or []
            details = {each["Name"]: each["Version"] for each in components}
            details |= {
                # Distributions put the revision of their package here; their version alone says too little.
                f"{each['Name']}.revision": str((each.get("Details") or {}).get("GitCommit", ""))
                for each in components
            }
            details |= {"cgroup": str(info.get("CgroupVersion", "1")), "storage": str(info.get("Driver", ""))}
            name = (version.get("Platform") or {}).get("Name") or "Docker Engine"
            return DriverInfo(f"{name} {version['Version']}", tuple(sorted(info.get("Runtimes") or {})), details)

        return await self._run(connect)

    async def aclose(self) -> None:
        for token in list(self._first_streams):
            self._drop_first_stream(token)
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, client.close)
        self._threads.shutdown(wait=False)

    async def has_image(self, image: str) -> bool:
        try:
            await self._run(lambda: self._engine.api.inspect_image(image))
        except ImageMissing:
            return False
        return True

    async def has_current_guest(self, image: str) -> bool:
        """Whether the image carries this version's guest; else each start copies it in. Raises `ImageMissing`."""
        return await self._run(lambda: self._carries_guest(image))

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        existing = await self._run(lambda: self._find(spec.sandbox_id))
        if existing is None:
            carries_guest = await self._run(lambda: self._carries_guest(spec.image))
            ref = SandboxRef(spec.sandbox_id, await self._create_whole(spec))
            token = ref.token
            yield ref
            if not carries_guest:
                await self._run(lambda: self._put_guest(token), stage="create")
            self._first_streams[token] = await self._run(lambda: self._attach(token), stage="create")
        else:
            ref = SandboxRef(spec.sandbox_id, existing)
        await self._run(lambda: self._engine.api.start(ref.token), stage="start")
        yield ref

    async def rename(self, ref: SandboxRef, name: str) -> None:
        await self._run(lambda: self._engine.api.rename(ref.token, f"corral-{name}"))

    async def start(self, ref: SandboxRef) -> None:
        self._drop_first_stream(ref.token)
        await self._run(lambda: self._engine.api.start(ref.token), stage="start")

    async def stop(self, ref: SandboxRef) -> None:
        try:
            await self._run(lambda: self._engine.api.stop(ref.token, timeout=_STOP_TIMEOUT_S))
        except SandboxGone:
            return

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        try:
            state = (await self._run(lambda: self._engine.api.inspect_container(ref.token)))["State"]
        except SandboxGone:
            return SandboxStatus(SandboxState.ABSENT)
        except CorralError as error:
            return SandboxStatus(SandboxState.UNKNOWN, error.message)
        if state.get("Paused"):
            return SandboxStatus(SandboxState.PAUSED)
        if state.get("Running"):
            return SandboxStatus(SandboxState.RUNNING)
        if state.get("Status") == "created":
            return SandboxStatus(SandboxState.CREATED)
        reason = (
            "out of memory" if state.get("OOMKilled") else state.get("Error") or f"exit code {state.get('ExitCode')}"
        )
        return SandboxStatus(SandboxState.EXITED, reason)

    async def pause(self, ref: SandboxRef) -> None:
        if (await self._known(ref)).state is not SandboxState.PAUSED:
            await self._run(lambda: self._engine.api.pause(ref.token))

    async def resume(self, ref: SandboxRef) -> None:
        if (await self._known(ref)).state is SandboxState.PAUSED:
            await self._run(lambda: self._engine.api.unpause(ref.token))

    async def destroy(self, ref: SandboxRef) -> None:
        self._drop_first_stream(ref.token)
        try:
            await self._run(lambda: self._engine.api.remove_container(ref.token, v=True, force=True))
        except SandboxGone:
            return

    async def owned(self) -> AsyncIterator[SandboxRef]:
        filters = {"label": f"{INSTANCE_LABEL}={self._instance}"}
        for container in await self._run(lambda: self._engine.api.containers(all=True, filters=filters)):
            yield SandboxRef(container["Labels"].get(SANDBOX_LABEL, ""), container["Id"])

    async def connect(self, ref: SandboxRef) -> GuestStream:
        raw = self._first_streams.pop(ref.token, None) or await self._run(lambda: self._bridge(ref.token))
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        protocol = AttachedProtocol(reader)
        transport, _ = await loop.create_connection(lambda: protocol, sock=raw)
        return GuestStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def exits(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        seen: asyncio.Queue[str | None] = asyncio.Queue()
        filters = {"type": "container", "event": "die", "label": f"{INSTANCE_LABEL}={self._instance}"}
        stream = await self._run(lambda: self._engine.api.events(filters=filters, decode=True))

        def pump() -> None:
            try:
                for event in stream:
                    attributes = (event.get("Actor") or {}).get("Attributes") or {}
                    loop.call_soon_threadsafe(seen.put_nowait, str(attributes.get(SANDBOX_LABEL, "")))
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
                pass  # the engine went away, or we closed the stream
            finally:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(seen.put_nowait, None)

        # A thread of its own, daemon: it may wait for days, and a shutdown must not wait for it.
        threading.Thread(target=pump, name="engine-events", daemon=True).start()
        try:
            while (sandbox_id := await seen.get()) is not None:
                yield sandbox_id
        finally:
            stream.close()
        raise EngineUnavailable("the engine's event stream ended")

    @property
    def _engine(self) -> docker.DockerClient:
        if self._client is None:
            raise EngineUnavailable(f"the container engine at {self._engine_url} does not answer")
        return self._client

    async def _run(self, call: Callable[[], T], stage: str | None = None) -> T:
        def translated() -> T:
            with _translated(self._engine_url, stage):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._threads, translated)

    async def _known(self, ref: SandboxRef) -> SandboxStatus:
        status = await self.inspect(ref)
        if status.state is SandboxState.UNKNOWN:
            raise EngineUnavailable(status.reason)
        if status.state is SandboxState.ABSENT:
            raise SandboxGone("the sandbox is not on the engine")
        return status

    async def _create_whole(self, spec: SandboxSpec) -> str:
        """The engine goes on with a create that we no longer wait for; then nobody would know the container."""
        creating = asyncio.ensure_future(self._run(lambda: self._create(spec), stage="create"))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait([creating])
            if creating.exception() is None:
                await self.destroy(SandboxRef(spec.sandbox_id, creating.result()))
            raise

    def _find(self, sandbox_id: str) -> str | None:
        labels = [f"{INSTANCE_LABEL}={self._instance}", f"{SANDBOX_LABEL}={sandbox_id}"]
        found = self._engine.api.containers(all=True, filters={"label": labels})
        return str(found[0]["Id"]) if found else None

    def _carries_guest(self, image: str) -> bool:
        labels = self._engine.api.inspect_image(image)["Config"].get("Labels") or {}
        return labels.get(GUEST_LABEL) == self._guest_digest

    def _create(self, spec: SandboxSpec) -> str:
        config = container_config(spec, self._instance, self._engine.api.create_host_config)
        created = self._engine.api.create_container(**config)
        return str(created["Id"])

    def _put_guest(self, token: str) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in guest_bundle.files().items():
                member = tarfile.TarInfo(f"corral/guest/{name}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        self._engine.api.put_archive(token, "/opt", archive.getvalue())

    def _attach(self, token: str) -> socket.socket:
        """Of a container that was created and not started."""
        return own_socket(self._engine.api.attach_socket(token, params={"stdin": 1, "stdout": 1, "stream": 1}))

    def _bridge(self, token: str) -> socket.socket:
        api = self._engine.api
        created = api.exec_create(token, BRIDGE_COMMAND, stdin=True, stdout=True, stderr=True, tty=False, user="0:0")
        return own_socket(api.exec_start(created["Id"], socket=True, tty=False))

    def _drop_first_stream(self, token: str) -> None:
        stream = self._first_streams.pop(token, None)
        if stream is not None:
            stream.close()


@contextmanager
def _translated(engine_url: str, stage: str | None) -> Iterator[None]:
    """Turns what the SDK and its HTTP library raise into our errors."""
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise ImageMissing(_reason(error)) from error
    except docker.errors.NotFound as error:
        if stage == "create" and "image" in _reason(error).lower():
            raise ImageMissing(_reason(error)) from error
        raise SandboxGone(f"the sandbox is not on the engine: {_reason(error)}") from error
    except docker.errors.APIError as error:
        if stage is not None:
            raise SandboxStartFailed(f"the engine refused ({stage}): {_reason(error)}", stage=stage) from error
        if error.status_code == 409:
            raise SandboxGone(_reason(error)) from error
        raise EngineUnavailable(f"the engine failed: {_reason(error)}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineUnavailable(f"the container engine at {engine_url} does not answer: {error}") from error


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)
