"""Planted secrets, looked for wherever a server keeps or shows anything (N13): in files, over REST, on the engine,
inside sandboxes, in all forms that a secret may have there.

Touches the data folder, the engine, the API and `/proc`.
"""

from __future__ import annotations

import base64
import re
import secrets
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.caller import ENVIRONMENTS, INTERACTIONS, Caller
from tests.e2e.server import ServerProcess

_PIECE_BYTES = 1 << 20
_DISK_BYTES = 64 << 20
_PATHS = ("/v1beta/credentials", "/v1beta/agents", "/ops/ps", "/metrics", "/openapi.json", "/v1beta/models")


_MARK = "canary"
_BEGUN = re.compile(
    b"|".join(
        re.escape(form)
        for form in (
            _MARK.encode(),
            _MARK.encode().hex().encode(),
            _MARK.encode("utf-16-le"),
            _MARK.encode()[::-1],
            *(base64.b64encode(bytes(at) + _MARK.encode())[(0, 2, 3)[at] : 8] for at in range(3)),
        )
    )
)
"""How any of them begins: most of what is looked through has none, and is done with at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where was looked, and which canaries were there."""

    name: str
    looked_bytes: int
    found: tuple[str, ...]


@dataclass
class Canaries:
    """Secrets by what they are planted as, random, and never told to anybody else."""

    values: dict[str, str] = field(default_factory=dict)

    def planted(self, kind: str) -> str:
        """A secret of this kind."""
        return self.values.setdefault(kind, f"{_MARK}{secrets.token_hex(16)}")

    def within(self, data: bytes) -> tuple[str, ...]:
        """Kinds of those that bytes have in them, in any form."""
        if not _BEGUN.search(data):
            return ()
        return tuple(kind for kind, value in self.values.items() if any(form in data for form in _forms(value)))

    def everywhere(
        self, server: ServerProcess, environments: Iterable[str], interactions: Iterable[str]
    ) -> Iterator[Place]:
        """Each place of a server that runs, looked through."""
        yield self._place("the data folder, its database and recordings", _files(server.data_dir))
        yield self._place("a backup of the database", [_backup(server.data_dir / "corral.db")])
        yield self._place("the server's log", [repr(server.log()).encode()])
        for name in ("environ", "cmdline", "status"):
            yield self._place(f"the server's {name}", [Path(f"/proc/{server.pid}/{name}").read_bytes()])
        with server.caller() as caller:
            yield self._place("answers of the API", _answers(caller, environments, interactions))
        logs = (server.cli("logs", each).stdout.encode() for each in (*environments, *interactions))
        yield self._place("what corral logs shows", logs)
        yield self._place("other commands", (server.cli(*each).stdout.encode() for each in (("ps",), ("doctor",))))
        for container in server.containers():
            yield self._place("inspection of the container", [repr(container.attrs).encode()])
            is_kept = container.attrs["HostConfig"]["LogConfig"]["Type"] != "none"
            yield self._place("what the engine keeps of its output", [container.logs() if is_kept else b"nothing"])
            yield self._place("its image and layers", [repr(container.image.history()).encode()])
            layer = container.attrs["GraphDriver"]["Data"].get("UpperDir")
            yield self._place("its own layer", _files(Path(layer)) if layer else container.export())
            for what, command in (
                ("variables and arguments of its processes", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"),
                ("memory of its processes", _MEMORY),
                ("its mounted folders", "tar -c /workspace /home/agent /.agents /tmp /run /dev/shm"),
            ):
                found = container.exec_run(["sh", "-c", f"{command} 2>/dev/null"], user="root").output
                yield self._place(what, [found])

    def _place(self, name: str, pieces: Iterable[bytes]) -> Place:
        found: dict[str, None] = {}
        looked_bytes, tail = 0, b""
        for piece in pieces:
            looked_bytes += len(piece)
            found |= dict.fromkeys(self.within(tail + piece))
            tail = piece[-200:]
        return Place(name, looked_bytes, tuple(found))


_MEMORY = """python3 - <<'PYTHON'
import glob, os, sys
for maps in glob.glob("/proc/[0-9]*/maps"):
    if maps.split("/")[2] == str(os.getpid()):
        continue
    try:
        with open(maps) as lines, open(maps[:-4] + "mem", "rb", 0) as memory:
            for line in lines:
                place, rights = line.split()[:2]
                start, end = (int(each, 16) for each in place.split("-"))
                if rights.startswith("rw") and end - start < 1 << 26:
                    memory.seek(start)
                    sys.stdout.buffer.write(memory.read(end - start))
    except (OSError, ValueError):
        continue
PYTHON"""


def _forms(value: str) -> set[bytes]:
    plain = value.encode()
    # Of base64 those letters that do not depend on what stands before and after it.
    encoded = {base64.b64encode(bytes(at) + plain)[(0, 2, 3)[at] : -4] for at in range(3)}
    return {plain, plain.hex().encode(), value.encode("utf-16-le"), plain[::-1], *encoded}


def _files(folder: Path) -> Iterator[bytes]:
    """Everything in a folder but disks of sandboxes, which are looked at where they are mounted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < _DISK_BYTES:
            yield str(path).encode()
            with path.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece


def _backup(database: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        source, target = sqlite3.connect(f"file:{database}?mode=ro", uri=True), sqlite3.connect(copy)
        source.backup(target)
        for each in (source, target):
            each.close()
        return copy.read_bytes()


def _answers(caller: Caller, environments: Iterable[str], interactions: Iterable[str]) -> Iterator[bytes]:
    for path in _PATHS:
        yield caller.http.get(path).content
    for each in environments:
        yield caller.http.get(f"{ENVIRONMENTS}/{each}").content
        yield caller.http.get(f"/ops/logs/{each}").content
    for each in interactions:
        yield caller.http.get(f"{INTERACTIONS}/{each}").content
        yield caller.http.get(f"/ops/logs/{each}").content
        yield caller.replay(each)
    yield caller.http.get(ENVIRONMENTS).content
