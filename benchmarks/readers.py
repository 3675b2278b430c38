"""Many readers of one run at once: how fast all of them have it, and what those take that do not read.

The run is a scripted model that waits until all have connected, then says its text in pieces. Baseline: the same bytes
from a bare uvicorn that stores nothing and sends them to everybody as soon as all have asked; what it queues for a
connection is limited as uvicorn and the kernel limit it. Memory is the server's: its process and its ends of the
connections (`memory_use`). What it took for the same run and one reader is not counted.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Row, Summary, Unit, p50_at_most, summarize
from benchmarks.memory_use import connection_bytes, resident_bytes
from benchmarks.plan import Plan
from benchmarks.server import HOST, BenchServer, Exchange, free_port, running_process, running_server

_READERS = 1000
_QUICK_READERS = 100
_ROUNDS = 3
_WARM_UPS = 3
"""What a process takes for a run it keeps for the next one, a part of it each time."""
_GOAL_MIB = 150.0

_FIRST, _DELTA, _LAST = b"interaction.created", b"event: step.delta", b"data: [DONE]\n\n"
_SPOKEN_EVENTS = 600
_SPOKEN: list[dict[str, Any]] = [{"text": "All work and no play" * _SPOKEN_EVENTS, "chunk": 20}]
_PRINT = {"language": "bash", "code": "head -c 100000 /dev/zero | tr '\\0' x"}
_LONG: list[dict[str, Any]] = [
    {"calls": [{"tool": "code_execution", "arguments": _PRINT}]},
    {"text": "{{last}}" * 40, "chunk": 2000},
]
"""Four million bytes of text; what asks for them is short."""
_SILENCE_S = 60.0
_READ_BYTES = 256 * 1024
_SMALL_BUFFER_BYTES = 4096
"""The kernel's room at the end of a reader that stalls: what is measured is the server's."""
_SETTLED_BYTES = 256 * 1024
_SETTLE_S = 20.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Source:
    """A server that has something to stream."""

    port: int
    pid: int

    @property
    def bytes_taken(self) -> int:
        return resident_bytes(self.pid) + connection_bytes(self.port)


def run(plan: Plan) -> list[Row]:
    readers = _QUICK_READERS if plan.is_quick else _READERS
    with _many_files(2 * readers + 200), tempfile.TemporaryDirectory(prefix="readers-", dir=plan.output) as folder:
        return [_delivery(plan, Path(folder), readers), _stalled(plan, Path(folder), readers)]


def _delivery(plan: Plan, folder: Path, readers: int) -> Row:
    ours: list[float] = []
    bare: list[float] = []
    with running_server(plan) as server:
        frames = server.replay(_begun(server, _SPOKEN, 0)).read_all()
        with _bare_server(folder / "spoken.sse", frames) as plain:
            for _ in range(min(plan.rounds, _ROUNDS)):
                bare.append(_events_per_s(plain.port, f"/?readers={readers}", readers, is_held_back=False))
                interaction_id = _begun(server, _SPOKEN, readers)
                ours.append(_events_per_s(server.port, _stream_of(interaction_id), readers, is_held_back=True))
    return Row(
        f"events, {readers:,} readers, one run",
        Unit.PER_S,
        summarize(ours, Unit.PER_S),
        f"uvicorn, {readers:,} readers, no store",
        summarize(bare, Unit.PER_S),
    )


def _stalled(plan: Plan, folder: Path, readers: int) -> Row:
    with running_server(plan) as server:
        source = _Source(server.port, _listener(server.port))
        for _ in range(_WARM_UPS):
            frames = server.replay(_begun(server, _LONG, 0)).read_all()
        before_bytes = _settled(source)
        ours_bytes = _with_stalled(source, _stream_of(_begun(server, _LONG, readers)), readers, frames)
    with _bare_server(folder / "long.sse", frames) as plain:
        Exchange(plain.port, "GET", "/").read_all()
        bare_before_bytes = _settled(plain)
        bare_bytes = _with_stalled(plain, f"/?readers={readers + 1}", readers, frames)
    return Row(
        f"memory, {readers:,} stalled readers",
        Unit.MIB,
        Summary((ours_bytes - before_bytes) / _MIB, None, 1),
        "uvicorn, no send-buffer limit",
        Summary((bare_bytes - bare_before_bytes) / _MIB, None, 1),
        (p50_at_most(_GOAL_MIB * readers / _READERS),),
    )


def _begun(server: BenchServer, turns: list[dict[str, Any]], readers: int) -> str:
    """The id of a run whose last turn waits until so many readers are there."""
    wait_ms = 1000 + 4 * readers if readers else 0
    script = json.dumps({"turns": [*turns[:-1], {**turns[-1], "sleep_ms": wait_ms}]})
    # Only calls need a sandbox.
    environment = {"environment": "remote"} if len(turns) > 1 else {}
    request = {"agent": "general", "input": f"```script\n{script}\n```", "background": True, **environment}
    answer = json.loads(Exchange(server.port, "POST", "/v1beta/interactions", request).read_all())
    return str(answer["id"])


def _stream_of(interaction_id: str) -> str:
    return f"/v1beta/interactions/{interaction_id}?stream=true"


@contextmanager
def _bare_server(file: Path, frames: bytes) -> Iterator[_Source]:
    file.write_bytes(frames)
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.bare_stream", str(port), str(file)]
    with running_process(argv, port, file.with_suffix(".log")):
        yield _Source(port, _listener(port))


def _events_per_s(port: int, path: str, readers: int, *, is_held_back: bool) -> float:
    """From the first piece that anybody gets until everybody has the end: pieces that all got together, a second.

    `is_held_back`: the server says something, and the pieces come later.
    """
    with _connected(port, path, readers) as sockets:
        if is_held_back:
            _await_first(sockets)
        began, ended, events = _read_all(sockets)
    if events < _SPOKEN_EVENTS:
        raise RuntimeError(f"only {events} events came")
    return events * readers / (ended - began)


def _with_stalled(source: _Source, path: str, readers: int, frames: bytes) -> int:
    """Bytes that the source takes when so many readers do not read on, and one beside them has read everything."""
    with _connected(source.port, path, readers, _SMALL_BUFFER_BYTES):
        beside = Exchange(source.port, "GET", path)
        if len(beside.read_all()) < len(frames) // 2:
            raise RuntimeError("a reader that reads did not get everything")
        return _settled(source)


def _settled(source: _Source) -> int:
    """Bytes taken, once that does not grow any more."""
    deadline = time.monotonic() + _SETTLE_S
    last = source.bytes_taken
    while time.monotonic() < deadline:
        time.sleep(1)
        now = source.bytes_taken
        if abs(now - last) < _SETTLED_BYTES:
            return now
        last = now
    raise RuntimeError(f"what the server takes does not settle: {last} bytes")


@contextmanager
def _connected(port: int, path: str, count: int, buffer_bytes: int | None = None) -> Iterator[list[socket.socket]]:
    """So many connections on which `path` was asked for, and nothing read."""
    head = f"GET {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\nconnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            reader = stack.enter_context(socket.socket())
            if buffer_bytes is not None:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            reader.settimeout(_SILENCE_S)
            reader.connect((HOST, port))
            reader.sendall(head)
            sockets.append(reader)
        yield sockets


def _await_first(sockets: list[socket.socket]) -> None:
    """Returns when everybody has the first event. Raises `RuntimeError` if the text began before that."""
    for reader in sockets:
        content = b""
        while _FIRST not in content:
            if not (data := reader.recv(_READ_BYTES)):
                raise RuntimeError(f"the answer ended early: {content[-500:]!r}")
            content += data
        if _DELTA in content:
            raise RuntimeError("the run did not wait until all readers were there")


def _read_all(sockets: list[socket.socket]) -> tuple[float, float, int]:
    """When the first piece came, when the last reader had the end, and how many pieces one of them got."""
    began = 0.0
    events = 0
    tails = dict.fromkeys(sockets, b"")
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, each)
        while tails:
            ready = selector.select(_SILENCE_S)
            if not ready:
                raise RuntimeError(f"nothing came for {_SILENCE_S:g} s; {len(tails)} readers lack the end")
            for key, _ in ready:
                reader: socket.socket = key.data
                data = reader.recv(_READ_BYTES)
                content = tails[reader] + data
                if not began and _DELTA in content:
                    began = time.perf_counter()
                if reader is sockets[0]:
                    events += content.count(_DELTA)
                if _LAST in content:
                    del tails[reader]
                    selector.unregister(reader)
                elif not data:
                    raise RuntimeError(f"a stream ended without its end: {content[-500:]!r}")
                else:
                    tails[reader] = content[-len(_DELTA) + 1 :]
    return began, time.perf_counter(), events


def _listener(port: int) -> int:
    """The process of ours that was started to listen on `port`."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            if str(port).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return int(pid)
    raise RuntimeError(f"no process was started for port {port}")


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    """Room for so many open files, here and in what is started meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
