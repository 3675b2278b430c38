"""A hostile agent and its neighbour, driven over REST: programs of `inside/` run in a sandbox, what they report comes
back, the neighbour's calls and the server's health are timed meanwhile.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.caller import Caller, Json
from tests.e2e.programs import bash, only_result, python, results, script, text_of

_INSIDE = Path(__file__).parent / "inside"
_ROOT = Path(__file__).parents[2]
_FOLDER = "/home/agent/attack"
_TYPED = {"exited", "done", "refused", "timeout", "cancelled", "oom", "pids", "killed", "disk_full", "output_limit"}


def program_sources() -> list[Json]:
    """The programs as inline sources of an environment."""
    return [
        {"type": "inline", "target": f"{_FOLDER}/{file.relative_to(_ROOT)}".lstrip("/"), "content": file.read_text()}
        for file in sorted(_INSIDE.glob("*.py"))
    ]


@dataclass(frozen=True, slots=True)
class Said:
    """One line of a program in the sandbox: what it tried and what came of it."""

    tried: str
    got: str


class Attacker:
    """One environment, and programs in it."""

    def __init__(self, caller: Caller, environment_id: str) -> None:
        self.caller = caller
        self.environment_id = environment_id

    def command(self, program: str, *arguments: object) -> str:
        """The shell command that runs a program of `inside/`."""
        return f"cd {_FOLDER} && python3 -m tests.attack.inside.{program} {' '.join(map(str, arguments))}"

    def run(self, program: str, *arguments: object) -> list[Said]:
        """What a program of `inside/` says. It must say something."""
        return self._said(program, self.bash(f"{self.command(program, *arguments)} 2>&1"))

    def _said(self, program: str, shown: str) -> list[Said]:
        said = [Said(**json.loads(line)) for line in shown.splitlines() if line.startswith('{"tried"')]
        rest = [line for line in shown.splitlines() if not line.startswith(('{"tried"', "[disk full", "[network: "))]
        assert said, f"{program} says nothing: {shown}"
        assert not rest, f"{program} breaks off: {shown[-2000:]}"
        return said

    def talk(self, *conversations: Json) -> dict[str, str]:
        """What the way out answers to each, by what was tried; see `inside/conversations.py`."""
        wanted = base64.b64encode(json.dumps(conversations).encode()).decode()
        shown = self.bash(f"printf %s {wanted} | ({self.command('conversations')}) 2>&1")
        said = {each.tried: each.got for each in self._said("conversations", shown)}
        assert len(said) == len(conversations), "two attempts have one name, or some are missing"
        return said

    def bash(self, code: str) -> str:
        """What a shell command prints."""
        return only_result(self.caller.create(bash(code), self.environment_id))

    def python(self, code: str) -> str:
        """What a cell prints."""
        return only_result(self.caller.create(python(code), self.environment_id))

    def play(self, *turns: dict[str, Any]) -> list[str]:
        """The results of several calls."""
        return [text_of(step) for step in results(self.caller.create(script(*turns), self.environment_id))]

    def start(self, code: str) -> str:
        """Starts a shell command in the background; the interaction's id."""
        return self.caller.start(bash(code), self.environment_id)

    def ended(self, code: str, *, timeout_s: float = 60.0) -> tuple[str, str]:
        """Runs a shell command to its end: verdict, and what the model reads."""
        running = self.start(code)
        ended = self.caller.wait(running, timeout_s=timeout_s)
        return self.verdict(running), only_result(ended)

    def verdict(self, interaction_id: str) -> str:
        """How the last call of an interaction ended. It has a type; a cancelled interaction notes no other."""
        ends = [each["body"] for each in self.caller.journal(interaction_id) if each["kind"] == "tool.ended"]
        verdict = str(ends[-1]["verdict"]) if ends else self.caller.read(interaction_id)["status"]
        assert verdict in _TYPED or verdict == "lost", verdict
        return verdict

    def cancel(self, interaction_id: str) -> tuple[float, str]:
        """Cancels what runs: seconds until it has ended, and its verdict."""
        before = time.monotonic()
        self.caller.cancel(interaction_id)
        self.caller.wait(interaction_id, timeout_s=30)
        return time.monotonic() - before, self.verdict(interaction_id)

    def leave(self) -> None:
        """Deletes the environment."""
        self.caller.delete_environment(self.environment_id)


@dataclass
class Times:
    """Seconds of each request of a watch."""

    calls: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def p95(values: list[float]) -> float:
    """The 95th percentile; of few values the largest but one in twenty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


class Neighbour:
    """Another agent on the same server, that only wants to work."""

    def __init__(self, caller: Caller, environment_id: str) -> None:
        self._caller = caller
        self.environment_id = environment_id
        self.quiet_p95 = p95([self._call(caller) for _ in range(30)][5:])

    def _call(self, caller: Caller) -> float:
        """One small command: its time in the sandbox, by the server's journal."""
        made = caller.create(bash("/bin/echo beside | cat"), self.environment_id)
        assert only_result(made) == "beside\n", made
        ends = [each["body"] for each in caller.journal(made["id"]) if each["kind"] == "tool.ended"]
        return float(ends[-1]["duration_ms"]) / 1000

    @contextmanager
    def watching(self, pid: int | None = None) -> Iterator[Times]:
        """Times its calls and the server's health, and samples the memory of process `pid`, while the block runs."""
        times, over = Times(), threading.Event()
        url = str(self._caller.http.base_url)

        def call() -> None:
            with Caller(url) as own:
                while not over.is_set():
                    try:
                        times.calls.append(self._call(own))
                    except AssertionError as error:
                        times.faults.append(str(error)[:300])
                    over.wait(0.02)

        def ask() -> None:
            with Caller(url) as own:
                while not over.is_set():
                    before = time.monotonic()
                    if own.http.get("/healthz").status_code != 200:
                        times.faults.append("health")
                    times.health.append(time.monotonic() - before)
                    if pid is not None:
                        times.memory_bytes.append(resident_bytes(pid))
                    over.wait(0.03)

        threads = [threading.Thread(target=each) for each in (call, ask)]
        for thread in threads:
            thread.start()
        try:
            yield times
        finally:
            over.set()
            for thread in threads:
                thread.join()


def resident_bytes(pid: int) -> int:
    """The memory of a process that is its own alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
