"""Files over HTTP into and out of one environment of a server: a plain socket, since the client must not be what is
measured, and the memory that the server takes for it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.server import HOST, BenchServer, Exchange, running_server

_READ_BYTES = 1 << 20
_PATH = "workspace/large.bin"
_SILENCE_S = 60.0


class HttpFiles:
    """One environment whose sandbox runs."""

    def __init__(self, server: BenchServer, environment_id: str) -> None:
        self._server = server
        self._at = f"/v1beta/environments/{environment_id}/files/{_PATH}"

    def put(self, source: Path) -> float:
        """Uploads a file; how long that took, in seconds."""
        size = source.stat().st_size
        started = time.perf_counter()
        with (
            socket.create_connection((HOST, self._server.port), timeout=_SILENCE_S) as connection,
            source.open("rb") as file,
        ):
            connection.sendall(_head("PUT", f"/upload{self._at}?overwrite=true", size))
            connection.sendfile(file)
            answer = connection.recv(_READ_BYTES)
        took_s = time.perf_counter() - started
        _check(answer)
        return took_s

    def get(self, target: Path) -> float:
        """Downloads it again; how long that took."""
        buffer = memoryview(bytearray(_READ_BYTES))
        started = time.perf_counter()
        with (
            socket.create_connection((HOST, self._server.port), timeout=_SILENCE_S) as connection,
            target.open("wb") as file,
        ):
            connection.sendall(_head("GET", f"{self._at}?alt=media", 0))
            begun = b""
            while b"\r\n\r\n" not in begun:
                begun += connection.recv(_READ_BYTES)
            _check(begun)
            file.write(begun.partition(b"\r\n\r\n")[2])
            while count := connection.recv_into(buffer):
                file.write(buffer[:count])
        return time.perf_counter() - started

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Afterwards the list holds what the server took at most besides what it had before, in MiB."""
        taken: list[float] = []
        Path(f"/proc/{self._server.pid}/clear_refs").write_text(
            "5", encoding="ascii"
        )  # the high-water mark begins anew
        before = self._status_kib("VmRSS:")
        yield taken
        taken.append((self._status_kib("VmHWM:") - before) / 1024)

    def _status_kib(self, field: str) -> int:
        lines = Path(f"/proc/{self._server.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def http_files(plan: Plan) -> Iterator[HttpFiles]:
    """A server of its own with one environment."""
    with running_server(plan) as server:
        made = Exchange(server.port, "POST", "/v1beta/interactions", _FIRST).read_all()
        yield HttpFiles(server, json.loads(made)["environment_id"])


_FIRST = {"agent": "general", "input": "```bash\ntrue\n```", "environment": "remote"}


def _head(method: str, path: str, size: int) -> bytes:
    return (f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n").encode()


def _check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server refused: {answer[:500]!r}")
