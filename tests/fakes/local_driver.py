"""`LocalDriver`: sandboxes without an engine, and drivers with one named fault each.

A sandbox is a folder with a workspace, and the real guest as a plain process of whoever runs the tests. It isolates
nothing: tests run only their own commands in it. Blocking work happens in threads, as in any driver. Pausing stops all
of a sandbox's processes; a snapshot is a copy of its folders.

Like any driver it remembers nothing: another object on the same folder finds the same sandboxes. `kill_all` ends every
process that was ever started in them. `prune` takes a sandbox away and leaves its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed
from orchestrator.guest import bridge
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

IMAGE = "local"
_REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM = Path(__file__).with_name("local_guest.py")
_MARK = "CORRAL_LOCAL_SANDBOX"
_WATCH_INTERVAL_S = 0.02
_UNIX_PATH_LIMIT = 107
_PARTS = ("workspace", "home")
"""What of a sandbox's folder lasts, and a snapshot holds."""
_EMBODIED = "embodied"
"""The file that says that there is more of a sandbox than its files."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Guests that are children of this process and must be reaped by it; others are reaped by init."""


class LocalDriver(SandboxDriver):
    """Sandboxes as folders below `root`, which must have a short path: a Unix socket's is limited."""

    start_timeout_s = 10.0
    """How long the guest waits for a process to start; a constant of its own elsewhere."""

    def __init__(self, root: Path, instance: str = "local") -> None:
        self._root = root
        self._instance = instance

    async def open(self) -> DriverInfo:
        return DriverInfo("plain processes", can_pause=True)

    async def aclose(self) -> None:
        pass

    async def has_image(self, image: str) -> bool:
        return image == IMAGE

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        if not await self.has_image(spec.image):
            raise ImageMissing(f"no image {spec.image!r}")
        ref = SandboxRef(spec.sandbox_id, str(self._root / spec.sandbox_id))
        snapshot = self._snapshot(spec.snapshot) if spec.snapshot else None
        await asyncio.to_thread(_make_folder, Path(ref.token), self._instance, snapshot)
        yield ref
        await asyncio.to_thread(_start_guest, Path(ref.token), self.start_timeout_s)
        yield ref

    async def start(self, ref: SandboxRef) -> None:
        if (await self.inspect(ref)).state is SandboxState.ABSENT:
            raise SandboxGone(f"{ref.token} is not there")
        await asyncio.to_thread(_start_guest, Path(ref.token), self.start_timeout_s)

    async def stop(self, ref: SandboxRef) -> None:
        await asyncio.to_thread(_kill, Path(ref.token))

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        return await asyncio.to_thread(_status, self._root / ref.sandbox_id)

    async def pause(self, ref: SandboxRef) -> None:
        await self._signal(ref, signal.SIGSTOP)

    async def resume(self, ref: SandboxRef) -> None:
        await self._signal(ref, signal.SIGCONT)

    async def snapshot(self, ref: SandboxRef, name: str) -> None:
        state = (await self.inspect(ref)).state
        if state is SandboxState.ABSENT:
            raise SandboxGone(f"{ref.token} is not there")
        if state is SandboxState.RUNNING:
            await self.pause(ref)
        try:
            await asyncio.to_thread(_copy, Path(ref.token), self._snapshot(name))
        finally:
            if state is SandboxState.RUNNING:
                await self.resume(ref)

    async def drop_snapshot(self, name: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._snapshot(name), ignore_errors=True)

    async def snapshots(self) -> set[str]:
        return {each.name for each in await asyncio.to_thread(lambda: list(self._snapshot("").glob("[!.]*")))}

    async def destroy(self, ref: SandboxRef) -> None:
        await asyncio.to_thread(_destroy, self._root / ref.sandbox_id)

    async def owned(self) -> AsyncIterator[Found]:
        for folder in await asyncio.to_thread(self._folders):
            status = await asyncio.to_thread(_status, folder)
            token = "" if status.state is SandboxState.ABSENT else str(folder)
            yield Found(SandboxRef(folder.name, token), status.state, status.has_files)

    async def prune(self, ref: SandboxRef) -> None:
        """As somebody does who removes stopped containers: there is nothing left of it but its files."""
        await asyncio.to_thread(_prune, self._root / ref.sandbox_id)

    async def connect(self, ref: SandboxRef) -> GuestStream:
        if (await self.inspect(ref)).state is not SandboxState.RUNNING:
            raise SandboxGone(f"{ref.token} does not run")
        starting = asyncio.get_running_loop().run_in_executor(None, start_bridge, Path(ref.token))
        try:
            ours = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda started: started.result().close())  # nobody else would know it
            raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return GuestStream(reader, writer)

    async def exits(self) -> AsyncIterator[str]:
        running, reported = await asyncio.to_thread(self._lives)
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            before, (running, ended) = running, await asyncio.to_thread(self._lives)
            news = (ended | (before - running)) - reported
            reported |= news
            for name, _ in sorted(news):
                yield name

    def kill_all(self) -> None:
        """Ends all processes of all sandboxes below the root, whoever started them. For the end of a test; blocks.

        Fails if a guest broke: whatever is done to it, it must not.
        """
        for folder in self._root.iterdir() if self._root.exists() else ():
            _kill(folder)
        for log in self._root.glob("*/guest.log"):
            assert "Traceback" not in log.read_text(), log.read_text()

    async def _signal(self, ref: SandboxRef, number: signal.Signals) -> None:
        if (await self.inspect(ref)).state is SandboxState.ABSENT:
            raise SandboxGone(f"{ref.token} is not there")
        await asyncio.to_thread(_signal_all, Path(ref.token), number)

    def _snapshot(self, name: str) -> Path:
        return self._root / ".snapshots" / self._instance / name

    def _folders(self) -> list[Path]:
        found = self._root.glob("*/instance")
        return sorted(file.parent for file in found if file.read_text() == self._instance)

    def _lives(self) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Sandbox id and process of those that run, and of those whose process has ended."""
        lives: tuple[set[tuple[str, int]], set[tuple[str, int]]] = (set(), set())
        for folder in self._folders():
            pid = _pid(folder)
            if pid is not None:
                lives[0 if _is_alive(pid) else 1].add((folder.name, pid))
        return lives


class Hangs(LocalDriver):
    """Guests that are stopped by a signal seem to run."""

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        status = await super().inspect(ref)
        return replace(status, state=SandboxState.RUNNING) if status.state is SandboxState.PAUSED else status


class SlowToStart(LocalDriver):
    """Every start takes `delay_s` longer."""

    delay_s = 0.5

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        async with contextlib.aclosing(super().create(spec)) as stages:
            async for ref in stages:
                yield ref
                await asyncio.sleep(self.delay_s)


class FailsDuringCreate(LocalDriver):
    """`create` fails at `stage`, `times` times: `image`, `create` (nothing is made yet) or `start` (the folder is)."""

    def __init__(self, root: Path, stage: str, times: int = 1_000_000) -> None:
        super().__init__(root)
        self.stage = stage
        self.times = times

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        self.times -= 1
        if self.times >= 0 and self.stage == "image":
            raise ImageMissing(f"no image {spec.image!r}")
        if self.times >= 0 and self.stage == "create":
            raise SandboxStartFailed("no room for a folder", stage="create")
        async with contextlib.aclosing(super().create(spec)) as stages:
            async for ref in stages:
                yield ref
                if self.times >= 0:
                    raise SandboxStartFailed("the process does not start", stage="start")


class TrustsNobody(LocalDriver):
    """Guests cannot write down whom programs are to trust: something is in the way."""

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        async with contextlib.aclosing(super().create(spec)) as stages:
            async for ref in stages:
                (Path(ref.token) / "trust").touch()
                yield ref


class LosesSandbox(LocalDriver):
    """Sandboxes vanish with their files as soon as somebody connects for the second time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._connected: set[str] = set()

    async def connect(self, ref: SandboxRef) -> GuestStream:
        if ref.sandbox_id in self._connected:
            await self.destroy(ref)
        self._connected.add(ref.sandbox_id)
        return await super().connect(ref)


class EngineAway(LocalDriver):
    """As long as `is_away`, the platform does not answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_away = True

    def _ask(self) -> None:
        if self.is_away:
            raise EngineUnavailable("the platform is away")

    async def open(self) -> DriverInfo:
        self._ask()
        return await super().open()

    async def has_image(self, image: str) -> bool:
        self._ask()
        return await super().has_image(image)

    async def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        self._ask()
        async with contextlib.aclosing(super().create(spec)) as stages:
            async for ref in stages:
                yield ref

    async def start(self, ref: SandboxRef) -> None:
        self._ask()
        await super().start(ref)

    async def stop(self, ref: SandboxRef) -> None:
        self._ask()
        await super().stop(ref)

    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        if self.is_away:
            return SandboxStatus(SandboxState.UNKNOWN, "the platform is away")
        return await super().inspect(ref)

    async def pause(self, ref: SandboxRef) -> None:
        self._ask()
        await super().pause(ref)

    async def resume(self, ref: SandboxRef) -> None:
        self._ask()
        await super().resume(ref)

    async def snapshot(self, ref: SandboxRef, name: str) -> None:
        self._ask()
        await super().snapshot(ref, name)

    async def drop_snapshot(self, name: str) -> None:
        self._ask()
        await super().drop_snapshot(name)

    async def snapshots(self) -> set[str]:
        self._ask()
        return await super().snapshots()

    async def destroy(self, ref: SandboxRef) -> None:
        self._ask()
        await super().destroy(ref)

    async def owned(self) -> AsyncIterator[Found]:
        self._ask()
        async for found in super().owned():
            yield found

    async def connect(self, ref: SandboxRef) -> GuestStream:
        self._ask()
        return await super().connect(ref)

    async def exits(self) -> AsyncIterator[str]:
        self._ask()
        async for sandbox_id in super().exits():
            self._ask()
            yield sandbox_id


class CutsLink(LocalDriver):
    """`cut` breaks every connection to a guest; the sandboxes run on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, ref: SandboxRef) -> GuestStream:
        stream = await super().connect(ref)
        self._writers.append(stream.writer)
        return stream

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


class NeverAnswersHello(LocalDriver):
    """The stream to the guest opens, and nothing ever comes out of it."""

    async def connect(self, ref: SandboxRef) -> GuestStream:
        ours, theirs = socket.socketpair()
        self._silent = [*getattr(self, "_silent", []), theirs]
        reader, writer = await asyncio.open_connection(sock=ours)
        return GuestStream(reader, writer)

    async def aclose(self) -> None:
        for silent in getattr(self, "_silent", []):
            silent.close()
        await super().aclose()


# processes and folders; everything below blocks


def _make_folder(folder: Path, instance: str, snapshot: Path | None) -> None:
    assert len(str(folder / "s")) <= _UNIX_PATH_LIMIT, f"{folder} is too long for a Unix socket's path"
    if not (folder / "instance").exists():
        if snapshot is not None:
            if not snapshot.exists():
                raise SandboxStartFailed(f"there is no snapshot {snapshot.name!r}", stage="disk")
            _copy(snapshot, folder)
        for part in _PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
        # Whole or not at all: with half a mark it would be nobody's, and stay for ever.
        mark = folder / "instance.new"
        mark.write_text(instance)
        mark.replace(folder / "instance")
    (folder / _EMBODIED).touch()


def _copy(source: Path, target: Path) -> None:
    """Copies what lasts of a sandbox, all of it or nothing; a target that is there is kept."""
    if target.exists():
        return
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # a crash left it
    unfinished.mkdir(parents=True)
    subprocess.run(["cp", "-a", *(source / part for part in _PARTS), unfinished], check=True)
    unfinished.rename(target)


def _start_guest(folder: Path, start_timeout_s: float) -> None:
    if _state(folder) in (SandboxState.RUNNING, SandboxState.PAUSED):
        return
    arguments = {
        "--socket": folder / "s",
        "--cwd": folder / "workspace",
        "--home": folder / "home",
        "--drop": "no",
        "--trust": folder / "trust",
    }
    command = [sys.executable, "-I", "-S", _PROGRAM, _REPOSITORY, folder, str(start_timeout_s)]
    command += [part for pair in arguments.items() for part in pair]
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", _MARK: str(folder)}
    with (folder / "guest.log").open("ab") as log:
        child = subprocess.Popen(
            command,  # type: ignore[arg-type]
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _children[child.pid] = child
    (folder / "pid").write_text(str(child.pid))


def start_bridge(folder: Path) -> socket.socket:
    """A stream to the guest in a folder, as bare as `connect` has it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-I", "-S", bridge.__file__, str(folder / "s")]
    child = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    _children[child.pid] = child
    theirs.close()
    return ours


def _status(folder: Path) -> SandboxStatus:
    state = _state(folder)
    reason = "the guest ended" if state is SandboxState.EXITED else ""
    return SandboxStatus(state, reason, has_files=(folder / "instance").exists())


def _state(folder: Path) -> SandboxState:
    if not (folder / _EMBODIED).exists():
        return SandboxState.ABSENT
    pid = _pid(folder)
    if pid is None:
        return SandboxState.CREATED
    if not _is_alive(pid):
        return SandboxState.EXITED
    return SandboxState.PAUSED if _state_of(pid) == b"T" else SandboxState.RUNNING


def _pid(folder: Path) -> int | None:
    try:
        return int((folder / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    for child in list(_children.values()):
        if child.poll() is not None:
            _children.pop(child.pid, None)
    return _state_of(pid) not in (b"", b"Z", b"X")


def _state_of(pid: int) -> bytes:
    """The kernel's letter for what a process does; empty if it is gone."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return b""
    return content[content.rfind(b")") + 2 :].split()[0]


def _signal_all(folder: Path, number: signal.Signals) -> None:
    """Stops or continues every process of a sandbox, until none is otherwise."""
    is_stopping = number is signal.SIGSTOP
    deadline = time.monotonic() + 10
    while others := [pid for pid in _of_sandbox(folder) if (_state_of(pid) == b"T") is not is_stopping]:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        assert time.monotonic() < deadline, f"processes {others} do not obey {number.name}"
        time.sleep(0.002)


def _destroy(folder: Path) -> None:
    _kill(folder)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _prune(folder: Path) -> None:
    (folder / _EMBODIED).unlink(missing_ok=True)
    _kill(folder)
    (folder / "pid").unlink(missing_ok=True)


def _kill(folder: Path) -> None:
    """Kills everything that carries the sandbox's mark in its environment, until nothing does."""
    deadline = time.monotonic() + 10
    guest = _pid(folder)
    # A process that is ending has no environment any more, and is there nevertheless.
    while (found := _of_sandbox(folder)) or (guest is not None and _is_alive(guest)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, f"processes {found} do not end"
        time.sleep(0.002)


def _of_sandbox(folder: Path) -> list[int]:
    return list(_marked(f"{_MARK}={folder}".encode()))


def _marked(mark: bytes) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark in variables.split(b"\0") and _is_alive(int(entry.name)):
                yield int(entry.name)
