"""A Corral server of our own as a separate process, and bare HTTP exchanges with it or any other.

The client is a plain socket that looks for marks in what arrives: it must not be what is measured.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plan import Plan
from benchmarks.sandbox import remove_all, unmount_below

HOST = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_READ_BYTES = 256 * 1024
_SILENCE_S = 60.0


class Exchange:
    """One request and its answer, as it arrives."""

    def __init__(self, port: int, method: str, path: str, document: Any = None) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.content = bytearray()
        """All that has arrived, head and transfer coding included."""
        self._socket = socket.create_connection((HOST, port), timeout=_SILENCE_S)
        self._socket.sendall(head.encode() + body)

    def read_until(self, mark: bytes) -> None:
        """Returns as soon as `mark` has arrived. Raises `RuntimeError` if the answer ends without it."""
        looked_at = 0
        while self.content.find(mark, looked_at) < 0:
            looked_at = max(0, len(self.content) - len(mark))
            if not self._receive():
                raise RuntimeError(f"the answer ended without {mark!r}: {bytes(self.content[-500:])!r}")

    def read_all(self) -> bytes:
        """The whole answer's body. Raises `RuntimeError` if it is not a success."""
        while self._receive():
            pass
        self._socket.close()
        head, _, body = bytes(self.content).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server refused: {bytes(self.content[:500])!r}")
        return b"".join(_chunks(body)) if b"\r\ntransfer-encoding: chunked" in head.lower() else body

    def _receive(self) -> bool:
        data = self._socket.recv(_READ_BYTES)
        self.content += data
        return bool(data)


def _chunks(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        begin = body.index(b"\r\n", start) + 2
        end = begin + int(body[start : begin - 2], 16)
        yield body[begin:end]
        start = end + 2


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A server that runs."""

    port: int
    instance: str
    """The label on its containers."""
    pid: int

    def launch(self, text: str, environment: str | None = None) -> Exchange:
        """POSTs an interaction as a stream."""
        request = {"agent": "general", "input": text, "stream": True}
        if environment is not None:
            request["environment"] = environment
        return Exchange(self.port, "POST", "/v1beta/interactions", request)

    def replay(self, interaction_id: str) -> Exchange:
        """The stored stream of an interaction."""
        return Exchange(self.port, "GET", f"/v1beta/interactions/{interaction_id}?stream=true")

    def delete_environment(self, environment_id: str) -> None:
        Exchange(self.port, "DELETE", f"/v1beta/environments/{environment_id}").read_all()


@contextmanager
def running_server(plan: Plan, *, pool_size: int = 0) -> Iterator[BenchServer]:
    """Starts `corral serve` with the scripted model, a data folder and an identity of its own; leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="server-", dir=plan.output) as folder:
        instance = f"bench-{secrets.token_hex(6)}"
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
        environment |= {
            "CORRAL_DATA_DIR": folder,
            "CORRAL_INSTANCE": instance,
            "CORRAL_ENGINE_URL": plan.settings.engine_url,
            "CORRAL_IMAGE": plan.settings.image,
            "CORRAL_MODEL": "scripted",
            "CORRAL_POOL__SIZE": str(pool_size),
            "CORRAL_POOL__MAX_SIZE": str(pool_size),
        }
        argv = [sys.executable, "-m", "orchestrator", "serve", "--host", HOST, "--port", str(port)]
        try:
            with running_process(argv, port, Path(folder) / "server.log", environment) as pid:
                yield BenchServer(port, instance, pid)
        finally:
            remove_all(plan.settings, instance)
            unmount_below(Path(folder))


@contextmanager
def running_process(argv: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process that listens on `port`, from when it does until the block ends; its id. What it says goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        await_port(port, process, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the process listens. Raises `RuntimeError` with the end of its log if it does not."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not come up:\n{log.read_text(errors='replace')[-2000:]}")
