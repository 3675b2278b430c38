"""The client programs of `tests/e2e/clients`: started all at once, each ended once, and what their stories saw.

A module of tests names its program in `PROGRAM` or its programs in `PROGRAMS`. The first test of a session that wants
to see something starts the programs of all modules that were collected: they mostly wait, so together they take little
longer than the longest.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.e2e.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
LATEST = ROOT / ".venv-clients" / "bin"
"""Where the clients are that resolve beside each other, and Node.js."""
OLDER = ROOT / ".venv-clients-2x" / "bin"
JAVASCRIPT = ROOT / "tests" / "e2e" / "clients" / "js"
TIMEOUT_S = 100.0
"""For a program to its end, while all others run."""

Saw = Callable[[str], Any]
"""What a story saw, by its name."""


@dataclass(frozen=True)
class ClientProgram:
    """A command that prints `{story: {"saw": …} or {"failed": why}}` of the server at CORRAL_URL."""

    command: tuple[str, ...]
    needs: Path
    """Is there if the client is installed."""
    variables: tuple[tuple[str, str], ...] = ()
    """Beside CORRAL_URL."""

    def start(self, url: str, **variables: str) -> subprocess.Popen[str]:
        """Runs it against the server at `url`."""
        assert self.needs.exists(), f"{self.needs} is not installed; run scripts/clients.sh"
        return subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={
                "CORRAL_URL": url,
                "PATH": "/usr/bin:/bin",
                "PYTHONDONTWRITEBYTECODE": "1",
                **dict(self.variables),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def python_program(name: str, *arguments: str, where: Path = LATEST, **variables: str) -> ClientProgram:
    """`tests/e2e/clients/NAME.py`, run by the Python of the environment `where`."""
    command = (str(where / "python"), "-m", f"tests.e2e.clients.{name}", *arguments)
    return ClientProgram(command, where / "python", tuple(variables.items()))


def javascript_program(name: str, package: str) -> ClientProgram:
    """`tests/e2e/clients/js/NAME.mjs`, a client of `package`."""
    command = (str(LATEST / "node"), str(JAVASCRIPT / f"{name}.mjs"))
    return ClientProgram(command, JAVASCRIPT / "node_modules" / package / "package.json")


def end(program: subprocess.Popen[str]) -> dict[str, Any]:
    """What a started program told."""
    try:
        written, complaints = program.communicate(timeout=TIMEOUT_S)
    finally:
        program.kill()
    assert program.returncode == 0, complaints
    told: dict[str, Any] = json.loads(written)
    return told


@dataclass
class _Session:
    running: dict[ClientProgram, subprocess.Popen[str]] = field(default_factory=dict)
    told: dict[ClientProgram, dict[str, Any]] = field(default_factory=dict)
    broken: dict[ClientProgram, str] = field(default_factory=dict)

    def of(self, program: ClientProgram) -> dict[str, Any]:
        if program in self.running:
            try:
                self.told[program] = end(self.running.pop(program))
            except Exception as error:
                self.broken[program] = str(error)
        assert program not in self.broken, self.broken[program]
        return self.told[program]

    def close(self) -> None:
        for left in self.running.values():
            left.kill()
            left.communicate()


_SESSION = pytest.StashKey[_Session]()


def saw_by(request: pytest.FixtureRequest, server: ServerProcess, program: ClientProgram) -> Saw:
    """Tells what the stories of a program saw; a story that failed fails the test that asks for it."""
    session = request.session
    if _SESSION not in session.config.stash:
        started = session.config.stash[_SESSION] = _Session()
        session.addfinalizer(started.close)
        modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
        for each in {each for module in modules for each in _programs_of(module)}:
            started.running[each] = each.start(server.url)
    programs_told = session.config.stash[_SESSION]

    def saw(story: str) -> Any:
        told = programs_told.of(program)[story]
        assert "failed" not in told, told["failed"]
        return told["saw"]

    return saw


def _programs_of(module: ModuleType) -> list[ClientProgram]:
    named = (*getattr(module, "PROGRAMS", ()), getattr(module, "PROGRAM", None))
    return [each for each in named if isinstance(each, ClientProgram)]  # other modules use the names for other things
