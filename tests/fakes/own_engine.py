"""A Docker engine of a test's own, beside the one of the tests: it may be killed, stopped and started again. Its
containerd is a service of its own, as on an installed system, and lives on.

Touches its own folders, processes and containers only. Needs root and `dockerd`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0


def is_possible() -> bool:
    """Whether this machine can run another engine."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None and shutil.which("containerd") is not None


class OwnEngine:
    """`dockerd` with data, containers and a socket below one folder, and no network at all."""

    def __init__(self, folder: Path, *, keeps_containers: bool = False) -> None:
        """`keeps_containers`: they outlive it (live-restore)."""
        self._folder = folder
        self._containerd_socket = folder / "containerd.sock"
        self._log = folder / "engine.log"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._arguments = [
            f"--host=unix://{folder}/engine.sock",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/run",
            f"--pidfile={folder}/dockerd.pid",
            f"--containerd={self._containerd_socket}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            *(["--live-restore"] if keeps_containers else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder}/engine.sock"

    def start(self) -> None:
        """Returns when it answers."""
        if self._containerd is None:
            own = [f"--root={self._folder}/containerd", f"--state={self._folder}/containers"]
            self._containerd = self._spawn("containerd", f"--address={self._containerd_socket}", *own)
            self._await(self._containerd, self._containerd_socket.exists)
        self._process = self._spawn("dockerd", *self._arguments)
        self._await(self._process, self._answers)

    def end(self, number: signal.Signals) -> None:
        """Ends it by a signal; after SIGKILL its containers know nothing of it yet."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(_STOP_TIMEOUT_S)
        self._process = None
        # A killed one leaves these behind, as the end of a machine does.
        (self._folder / "dockerd.pid").unlink(missing_ok=True)

    def take_image(self, engine_url: str, image: str) -> None:
        """Copies an image from another engine."""
        theirs, ours = docker.DockerClient(base_url=engine_url), docker.DockerClient(base_url=self.url, timeout=120)
        try:
            ours.images.load(theirs.images.get(image).save(named=image))
        finally:
            theirs.close()
            ours.close()

    def close(self) -> None:
        """Leaves nothing behind: no container, no process, no mount."""
        if self._process is None:
            self.start()
        client = docker.DockerClient(base_url=self.url)
        try:
            for container in client.containers.list(all=True):
                container.remove(force=True)
        finally:
            client.close()
        self.end(signal.SIGTERM)
        if self._containerd is not None:
            self._containerd.terminate()
            self._containerd.wait(_STOP_TIMEOUT_S)
            self._containerd = None
        for line in reversed(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()):
            if f" {self._folder}/" in line:
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(2)
            try:
                asking.connect(f"{self._folder}/engine.sock")
                asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in asking.recv(64)
            except OSError:
                return False

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _await(self, process: subprocess.Popen[bytes], is_there: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while not is_there():
            if process.poll() is not None or time.monotonic() > give_up_at:
                process.kill()
                process.wait()
                raise AssertionError(f"it does not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)


@contextmanager
def own_engine(folder: Path, *, keeps_containers: bool = False) -> Iterator[OwnEngine]:
    """A running one, which is gone afterwards."""
    engine = OwnEngine(folder, keeps_containers=keeps_containers)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
