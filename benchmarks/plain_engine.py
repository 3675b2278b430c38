"""Baselines: containers without Corral, by the `docker` command where there is one, else by the SDK."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import docker

from orchestrator.config import Settings

_LABEL = "corral-bench.plain"
_NETWORK = "none"
"""As our sandboxes have it: the engine's default costs some 20 ms more, and not every engine has one that works."""
_IDLE = ("sleep", "infinity")
_COMMAND_TIMEOUT_S = 60


class NotAvailableError(RuntimeError):
    """A baseline that this machine does not have."""


class PlainEngine:
    """The engine of `settings`, without anything of ours. `close` it."""

    def __init__(self, settings: Settings) -> None:
        self.image = settings.image
        self._client = docker.DockerClient(base_url=settings.engine_url, timeout=_COMMAND_TIMEOUT_S)
        program = shutil.which("docker")
        self._command = [program, "--host", settings.engine_url] if program else None

    def close(self) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """How the baselines call the engine: `docker` or `docker SDK`."""
        return "docker" if self._command else "docker SDK"

    @property
    def version(self) -> str:
        return str(self._client.version()["Version"])

    @property
    def api(self) -> Any:
        """The SDK's low-level client."""
        return self._client.api

    def run(self, *argv: str) -> float:
        """`docker run --rm --network none IMAGE argv`, in milliseconds."""
        started = time.perf_counter()
        if self._command:
            self._call("run", "--rm", "--network", _NETWORK, "--label", _LABEL, self.image, *argv)
        else:
            self._client.containers.run(self.image, list(argv), remove=True, network_mode=_NETWORK, labels=[_LABEL])
        return (time.perf_counter() - started) * 1e3

    def start_many(self, count: int, *, at_once: int) -> float:
        """Starts so many containers that do nothing, in seconds; they are removed before it returns."""

        def start(_number: int) -> str:
            if self._command:
                return self._call("run", "--detach", "--network", _NETWORK, "--label", _LABEL, self.image, *_IDLE)
            return str(self._start_idle().id)

        with ThreadPoolExecutor(at_once) as threads:
            started = time.perf_counter()
            containers = list(threads.map(start, range(count)))
            took_s = time.perf_counter() - started
            list(threads.map(lambda each: self.api.remove_container(each, force=True), containers))
        return took_s

    def execute(self, container_id: str, *argv: str) -> float:
        """`docker exec CONTAINER argv`, in milliseconds."""
        started = time.perf_counter()
        if self._command:
            self._call("exec", container_id, *argv)
        else:
            exit_code, output = self._client.containers.get(container_id).exec_run(list(argv))
            if exit_code != 0:
                raise RuntimeError(f"exec of {argv} failed: {output!r}")
        return (time.perf_counter() - started) * 1e3

    def copy(self, source: str, target: str) -> tuple[float, float]:
        """`docker cp`: seconds, and the MiB of memory that the command itself took. One side is `container:path`."""
        if self._command is None:
            raise NotAvailableError("there is no docker command")
        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            process = subprocess.Popen([*self._command, "cp", source, target], stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            took_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"docker cp failed: exit code {process.returncode}")
        return took_s, usage.ru_maxrss / 1024

    def commit_and_run(self, container_id: str) -> float:
        """`docker commit` of a container and `docker run --detach` of the image, in milliseconds; both are removed."""
        started = time.perf_counter()
        image = self._client.containers.get(container_id).commit().id
        container = self._client.containers.run(image, list(_IDLE), detach=True, network_mode=_NETWORK, labels=[_LABEL])
        took_ms = (time.perf_counter() - started) * 1e3
        container.remove(force=True)
        self._client.images.remove(image)
        return took_ms

    def timed(self, *arguments: str) -> float:
        """Milliseconds of any other `docker` command."""
        if self._command is None:
            raise NotAvailableError("there is no docker command")
        started = time.perf_counter()
        self._call(*arguments)
        return (time.perf_counter() - started) * 1e3

    def processes(self, container_id: str) -> list[int]:
        """All processes of a container."""
        return [int(row[0]) for row in self.api.top(container_id, ps_args="-eo pid")["Processes"]]

    @contextmanager
    def idle_containers(self, count: int) -> Iterator[Sequence[str]]:
        """Ids of containers that do nothing; removed at the end."""
        containers: list[Any] = []
        try:
            for _ in range(count):
                containers.append(self._start_idle())
            yield [each.id for each in containers]
        finally:
            for each in containers:
                each.remove(force=True)

    def _start_idle(self) -> Any:
        return self._client.containers.run(self.image, list(_IDLE), detach=True, network_mode=_NETWORK, labels=[_LABEL])

    def _call(self, *arguments: str) -> str:
        """What it says."""
        assert self._command is not None
        argv = [*self._command, *arguments]
        done = subprocess.run(argv, check=True, capture_output=True, timeout=_COMMAND_TIMEOUT_S, text=True)
        return done.stdout.strip()
