"""The Docker driver: Docker Engine 20.10 or newer, and Podman's compatible socket. The only place that imports the SDK.

The SDK is synchronous: its calls run in a small thread pool of the driver's own. Streams do not: what is attached is a
socket that asyncio reads. A new sandbox's first stream is the standard input and output of its main process, attached
before it starts; every later one is an exec of the bridge. Labels on a container are its instance and sandbox; labels
cannot change later.
"""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import socket
import struct
import tarfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import docker
import docker.errors
import requests.exceptions
from docker.types import Ulimit

from orchestrator.errors import CorralError, EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed
from orchestrator.sandboxes import guest_bundle, seccomp
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

INSTANCE_LABEL = "corral.instance"
SANDBOX_LABEL = "corral.sandbox"
GUEST_LABEL = "corral.guest"
"""On an image: the digest of the guest it carries."""

_ENGINE_THREADS = 8
"""The engine is at its best with 4 to 8 calls at a time (design 6)."""
_ENGINE_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 3
_SHM_BYTES = 64 << 20
"""At most; together with /tmp a quarter of the memory (design 4.2)."""
_GUEST_FOLDER = "/opt/corral"
_GUEST_CAPABILITIES = ["SETUID", "SETGID", "KILL", "SETPCAP"]
# The image's PATH begins with folders that the agent can write to; what runs as root must not be found there.
_SYSTEM_PYTHON = "$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v python3)"
_GUEST_PROGRAM = f"import sys; sys.path[:0] = ['{_GUEST_FOLDER}']; from guest.main import main; main()"
GUEST_COMMAND = ["/bin/sh", "-c", f"exec {_SYSTEM_PYTHON} -I -S -c {shlex.quote(_GUEST_PROGRAM)} --linked yes"]
BRIDGE_COMMAND = [
    "/bin/sh",
    "-c",
    f"exec {_SYSTEM_PYTHON} -I -S {_GUEST_FOLDER}/guest/bridge.py /run/corral/guest.sock",
]


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
        protocol = _AttachedProtocol(reader)
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
        return _own(self._engine.api.attach_socket(token, params={"stdin": 1, "stdout": 1, "stream": 1}))

    def _bridge(self, token: str) -> socket.socket:
        api = self._engine.api
        created = api.exec_create(token, BRIDGE_COMMAND, stdin=True, stdout=True, stderr=True, tty=False, user="0:0")
        return _own(api.exec_start(created["Id"], socket=True, tty=False))

    def _drop_first_stream(self, token: str) -> None:
        stream = self._first_streams.pop(token, None)
        if stream is not None:
            stream.close()


def _own(attached: Any) -> socket.socket:
    """A descriptor of our own: the SDK's objects close theirs whenever they are collected."""
    own = socket.socket(fileno=os.dup(attached.fileno()))
    attached._response.close()
    attached.close()
    own.setblocking(False)
    return own


def container_config(spec: SandboxSpec, instance: str, host_config: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`: every protection of the design's section 7 that Docker sets."""
    resources = spec.resources
    shm_bytes = min(_SHM_BYTES, resources.memory_bytes // 8)
    tmp_bytes = resources.memory_bytes // 4 - shm_bytes
    return {
        "image": spec.image,
        "command": GUEST_COMMAND,
        "entrypoint": [],
        # Open for the first who attaches, closed with them: a stale server cannot speak to the guest again.
        "stdin_open": True,
        "name": f"corral-{spec.name}" if spec.name else None,
        "hostname": "sandbox",
        "user": "0:0",
        "working_dir": "/",
        "labels": {INSTANCE_LABEL: instance, SANDBOX_LABEL: spec.sandbox_id},
        "host_config": host_config(
            network_mode="none",
            init=True,
            cap_drop=["ALL"],
            cap_add=_GUEST_CAPABILITIES,
            security_opt=["no-new-privileges", f"seccomp={seccomp.profile()}"],
            mem_limit=resources.memory_bytes,
            memswap_limit=resources.memory_bytes,
            nano_cpus=int(resources.cpus * 1e9),
            pids_limit=resources.pids,
            runtime=spec.runtime or None,
            shm_size=shm_bytes,
            tmpfs={
                "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={tmp_bytes}",  # noqa: S108 - the sandbox's own
                "/run": "rw,noexec,nosuid,nodev,mode=755,size=1m",
            },
            ulimits=[
                Ulimit(name="nofile", soft=resources.open_files, hard=resources.open_files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            ipc_mode="private",
            log_config={"Type": "none"},
        ),
    }


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


class _AttachedProtocol(asyncio.StreamReaderProtocol):
    """Takes Docker's multiplexing (8 bytes of header per piece) off what an attached process writes; keeps its
    stdout.
    """

    _HEADER = struct.Struct(">BxxxI")
    _STDOUT = 1

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._reader = reader
        self._buffer = bytearray()
        self._channel = 0
        self._missing_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if self._missing_bytes == 0:
                if len(self._buffer) < self._HEADER.size:
                    return
                self._channel, self._missing_bytes = self._HEADER.unpack_from(self._buffer)
                del self._buffer[: self._HEADER.size]
            piece = bytes(self._buffer[: self._missing_bytes])
            del self._buffer[: len(piece)]
            self._missing_bytes -= len(piece)
            if piece and self._channel == self._STDOUT:
                self._reader.feed_data(piece)
