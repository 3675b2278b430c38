"""What a server has left on the machine: its sandboxes, snapshots, mounts, processes of calls."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError

from orchestrator.config import Settings
from orchestrator.sandboxes.docker.container import INSTANCE_LABEL, SANDBOX_LABEL
from orchestrator.sandboxes.driver import SandboxRef
from tests.crash.ledger import TOKEN
from tests.fakes.local_driver import LocalDriver

MARK = "CORRAL_CRASH_TOKEN"
"""The variable that every process of a call carries, so that whoever looks from outside finds it."""
_MARKED = re.compile(rf"{MARK}=({TOKEN.pattern})".encode())


class Ground(ABC):
    """Where one lane's sandboxes are."""

    @abstractmethod
    def sandboxes(self) -> set[str]:
        """Ids of all that carry the server's mark."""

    @abstractmethod
    def snapshots(self) -> set[str]:
        """Names of all that are kept."""

    def mounts(self) -> set[str]:
        """Ids of sandboxes whose files are mounted."""
        return set()

    @abstractmethod
    def disturb(self, chance: random.Random) -> str:
        """Does some harm to one of the sandboxes past the server, and says what; empty if there is none."""

    @abstractmethod
    def clear(self) -> None:
        """Removes everything, whoever should have done it."""


class LocalGround(Ground):
    """Sandboxes as folders and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sandboxes(self) -> set[str]:
        return {file.parent.name for file in self._root.glob("*/instance")}

    def snapshots(self) -> set[str]:
        return asyncio.run(LocalDriver(self._root).snapshots())

    def disturb(self, chance: random.Random) -> str:
        if not (there := sorted(self.sandboxes())):
            return ""
        ref = SandboxRef(one := chance.choice(there), str(self._root / one))
        asyncio.run(LocalDriver(self._root).stop(ref))
        return "sandbox killed"

    def clear(self) -> None:
        LocalDriver(self._root).kill_all()


class DockerGround(Ground):
    """Sandboxes as containers, their files on disks below the data folder."""

    def __init__(self, engine: Settings, data_dir: Path, instance: str) -> None:
        self._client = docker.DockerClient(base_url=engine.engine_url, timeout=30)
        self._data_dir = data_dir
        self._instance = instance

    def sandboxes(self) -> set[str]:
        filters = {"label": f"{INSTANCE_LABEL}={self._instance}"}
        found = {
            each["Labels"].get(SANDBOX_LABEL, "") for each in self._client.api.containers(all=True, filters=filters)
        }
        return found | self._files("sandboxes")

    def snapshots(self) -> set[str]:
        return self._files("snapshots")  # templates are among them

    def mounts(self) -> set[str]:
        below = f"{self._data_dir}/disks/mounts/"
        return {at.removeprefix(below) for at in self._mounted() if at.startswith(below)}

    def disturb(self, chance: random.Random) -> str:
        api = self._client.api
        there = self._containers()
        harms: dict[str, Callable[[str], None]] = {
            "sandbox killed": api.kill,
            "sandbox paused": api.pause,
            "guest killed": self._kill_guest,
            "container removed": lambda container: api.remove_container(container, force=True),
        }
        name = chance.choice(sorted(harms))
        wanted = "exited" if name == "container removed" else "running"
        if not (fitting := sorted(each["Id"] for each in there if each["State"] == wanted)):
            return ""
        try:
            harms[name](chance.choice(fitting))
        except APIError:
            return ""  # the server was faster
        return name

    def clear(self) -> None:
        for each in self._containers():
            self._client.api.remove_container(each["Id"], force=True, v=True)
        for at in reversed(self._mounted()):
            subprocess.run(["umount", "--lazy", at], check=False, stderr=subprocess.DEVNULL)
        self._client.close()

    def _containers(self) -> list[dict[str, Any]]:
        filters = {"label": f"{INSTANCE_LABEL}={self._instance}"}
        return list(self._client.api.containers(all=True, filters=filters))

    def _kill_guest(self, container: str) -> None:
        """The init of the container stays for as long as it takes it to notice."""
        for row in self._client.api.top(container, ps_args="-eo pid,args")["Processes"]:
            if "/opt/corral" in row[1] and "init" not in row[1].split()[0]:
                os.kill(int(row[0]), signal.SIGKILL)
                return

    def _files(self, kind: str) -> set[str]:
        return {file.stem for file in (self._data_dir / "disks" / "files" / kind).glob("[!.]*.img")}

    def _mounted(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        return [line.split()[1] for line in lines if f" {self._data_dir}/" in line]


def running_calls() -> dict[str, str]:
    """Tokens of the calls whose processes run, in any sandbox of this machine, each with a command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = _MARKED.search((entry / "environ").read_bytes())
                if marked:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[marked[1].decode()] = command
            except OSError:
                continue
    return found


def footprint(pid: int) -> dict[str, int]:
    """What a process holds: open files, threads, memory."""
    place = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return {
        "open_files": sum(1 for _ in (place / "fd").iterdir()),
        "threads": int(fields["Threads"]),
        "memory_kib": int(fields["VmRSS"].split()[0]),
    }
