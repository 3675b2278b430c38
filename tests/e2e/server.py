"""A real server as a child process: started, stopped, killed and started again on the same data folder and port.

Touches the data folder, the container engine and loopback. `close` leaves no environment, container or process behind,
and says so if it had to clean up after the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker

from orchestrator.config import Settings
from tests.e2e.caller import Caller

_ROOT = Path(__file__).parents[2]
_CORRAL = [sys.executable, "-m", "orchestrator"]
"""The command of this checkout, whatever is installed. Run it in `_ROOT`."""
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 15.0
_INSTANCE_LABEL = "corral.instance"


class LeftBehindError(AssertionError):
    """The server broke on the way, or left something that should be gone."""


class ServerProcess:
    """One server with its own data folder. `settings` are those of `Settings`, upper case, without the prefix."""

    def __init__(self, engine: Settings, folder: Path, **settings: str) -> None:
        self.data_dir = folder / "data"
        self.port = 0
        self.keys: list[str | None] = [None]
        """The API keys under which `close` looks for environments."""
        self._log = folder / "server.log"
        self._engine_url = engine.engine_url
        """Where its containers are looked for, whatever engine it was given."""
        self._settings = {"ENGINE_URL": engine.engine_url, "IMAGE": engine.image, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the server and of the command line beside it: nothing of the person who runs the tests."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        kept["CORRAL_CONFIG"] = os.devnull
        own = {f"CORRAL_{name}": value for name, value in self._settings.items()}
        return {**kept, "CORRAL_DATA_DIR": str(self.data_dir), "CORRAL_LOG_FORMAT": "json", **own}

    def set(self, name: str, value: str) -> None:
        """Changes a setting for the next start."""
        self._settings[name] = value

    def start(self) -> None:
        """Starts it and returns when it listens."""
        seen = len(self.log())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_CORRAL, "serve", "--port", str(self.port)],
                cwd=_ROOT,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not (listening := [line for line in self.log()[seen:] if line.get("event") == "server_listening"]):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LeftBehindError(f"the server does not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.02)
        self.port = int(listening[0]["url"].rpartition(":")[2])

    def stop(self) -> int:
        """Ends it as an operator would; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGKILL)

    def caller(self, key: str | None = None) -> Caller:
        """A client of this server. Close it."""
        return Caller(self.url, key)

    def cli(
        self, *arguments: str, timeout_s: float = 30.0, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a `corral` command beside it to its end, with `variables` besides its own."""
        return subprocess.run(
            [*_CORRAL, *arguments],
            cwd=_ROOT,
            env={**self.variables, "CORRAL_URL": self.url, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start_cli(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a `corral` command beside it; its standard output is a pipe of lines."""
        return subprocess.Popen(
            [*_CORRAL, *arguments],
            cwd=_ROOT,
            env={**self.variables, "CORRAL_URL": self.url, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self) -> list[dict[str, Any]]:
        """The lines it has logged; what is not JSON has the key `raw`."""
        if not self._log.exists():
            return []
        return [_line(line) for line in self._log.read_text("utf-8", "replace").splitlines()]

    def containers(self) -> list[Any]:
        """Its containers on the engine, running or not."""
        client = docker.DockerClient(base_url=self._engine_url)
        try:
            label = {"label": f"{_INSTANCE_LABEL}={self.instance}"}
            return list(client.containers.list(all=True, filters=label, ignore_removed=True))
        finally:
            client.close()

    def container(self, environment_id: str) -> Any:
        """The container of one environment, with an open client."""
        client = docker.DockerClient(base_url=self._engine_url)
        (found,) = client.containers.list(all=True, filters={"name": environment_id})
        return found

    def mounts(self) -> list[str]:
        """What is mounted below its data folder, last first."""
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        return [line.split()[1] for line in reversed(lines) if f" {self.data_dir}/" in line]

    def unmount(self) -> None:
        """Unmounts all that, as the end of the machine does."""
        deadline = time.monotonic() + 10
        while left := self.mounts():
            # The kernel lets go of a disk's file a little after the disk was unmounted.
            assert time.monotonic() < deadline, left
            subprocess.run(["umount", left[0]], check=False, stderr=subprocess.DEVNULL)
            time.sleep(0.05)

    @property
    def instance(self) -> str:
        """Its identity, the label on all that it owns."""
        return (self.data_dir / "instance").read_text("ascii").strip()

    def close(self) -> None:
        """Deletes its environments and stops it. Raises `LeftBehindError` if that did not leave everything clean."""
        faults = []
        if self._process is None or self._process.poll() is not None:
            self.start()
        for key in self.keys:
            with self.caller(key) as caller:
                caller.delete_environments()
        if (code := self.stop()) != 0:
            faults.append(f"exit code {code}")
        if (self.data_dir / "instance").exists():
            for container in self.containers():
                faults.append(f"container {container.name} ({container.status}) is left")
                container.remove(force=True)
        faults += [f"mount {at} is left" for at in self.mounts()]
        faults += [f"logged: {line}" for line in self.log() if line.get("level") in ("error", "critical", "raw")]
        if faults:
            raise LeftBehindError("\n".join(faults))

    def remove_templates(self) -> None:
        """Which it leaves to the next server. Call it last."""
        client = docker.DockerClient(base_url=self._engine_url)
        try:
            for image in client.images.list(filters={"label": f"corral.snapshot={self.instance}"}):
                client.images.remove(image.id, force=True)
        finally:
            client.close()

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LeftBehindError(f"the server is still up {_STOP_TIMEOUT_S:.0f} s after {number.name}") from None


def _line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"level": "raw", "raw": text}
