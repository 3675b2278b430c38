"""One lane: a data folder, a server that is killed and started again, its clients, and a look at everything between.

A violation leaves data folder and log where they are.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.app import open_store
from orchestrator.clock import SystemClock
from orchestrator.config import Settings
from tests.crash import ground, ledger
from tests.crash.ground import DockerGround, Ground, LocalGround
from tests.crash.ledger import LEDGER_FILE, Going, Json, Ledger, Violation
from tests.crash.load import AGENT, INTERACTIONS, TEMPLATE, TEMPLATE_AGENT, Client, Load
from tests.crash.plan import Death, Plan
from tests.crash.server import Marks
from tests.e2e.programs import run_bash, run_python, script
from tests.fakes.consistency import assert_store_consistent

T = TypeVar("T")

_ROOT = Path(__file__).parents[2]
_SLOTS = 8
_POOL_SIZE = 2
_REST_EVERY = 50
_TOLD_EVERY = 25
_REST_LIMIT_S = 45.0
_SETTLE_LIMIT_S = 30.0
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 5.0
_DISTURBED_EVERY = 12
_WHOLE_EVERY = 20
_MEASURED_EVERY = 8
_MEASURED_LIFE_S = 3.5
"""So long a server lives at least whose recovery is measured: nobody dies before he has recovered."""
_FAR_FROM_THE_ENGINE = ("start.attached",)
"""Beside the engine sandboxes are reached directly."""
_PASSED = re.compile(r"moments\.passed(?:\(|, )\"([a-z_.]+)\"")
_clock = SystemClock()


@dataclass(slots=True)
class Start:
    """One start of a server."""

    at: float
    """Seconds since 1970."""
    listening_s: float = 0.0
    is_measured: bool = False
    footprint: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What a lane has done so far."""

    kills: Counter[str] = field(default_factory=Counter)
    harms: Counter[str] = field(default_factory=Counter)
    """What was done to sandboxes past the server."""
    starts: list[Start] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    goings: list[Going] = field(default_factory=list)


class Lane:
    """`run` until as many deaths as asked; raises `Violation`."""

    def __init__(self, number: int, folder: Path, seed: int, driver: str) -> None:
        self.number = number
        self.folder = folder
        self.ledger = Ledger()
        self.tally = Tally()
        self.plan = Plan(seed, reachable(driver))
        self.marks_passed: dict[str, int] = {}
        self._random = random.Random(seed)
        self._driver = driver
        self._data_dir = folder / "data"
        self._log = folder / "server.log"
        self._sandboxes = folder / "s"
        self._port = _free_port()
        self._client = Client(f"http://127.0.0.1:{self._port}")
        self.load = Load(self._client, self.ledger, seed, number, has_client_functions="run.waiting" in placed())
        self._process: asyncio.subprocess.Process | None = None
        self._read_bytes = 0
        self._judged: set[str] = set()
        self._interactions: list[Json] = []

    async def run(self, kills: int) -> None:
        """Kills a server so many times, then ends the last one as an operator would."""
        self._prepare()
        marks = Marks(self.folder / "marks")
        load = asyncio.create_task(self.load.run(_SLOTS), name=f"load-{self.number}")
        try:
            while self.tally.kills.total() < kills:
                await self._live_and_die(self.plan.next(), marks, load)
                self._tell(kills)
                if self.tally.kills.total() % _REST_EVERY == 0:
                    await self._look_at_everything(load)
            await self._look_at_everything(load, is_last=True)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await self._client.http.aclose()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            self.marks_passed = marks.passed
            marks.close()

    def _tell(self, kills: int) -> None:
        """Says from time to time how far it is."""
        done = self.tally.kills.total()
        if done % _TOLD_EVERY == 0 or done == kills:
            known, found = self.ledger.events, len(self.plan.hits)
            print(f"lane {self.number}: {done} of {kills} deaths, at {found} moments; {known} events", flush=True)

    def clear(self) -> None:
        """Leaves nothing on the machine but the folder."""
        if self._data_dir.exists():
            self._ground.clear()

    # deaths

    async def _live_and_die(self, death: Death, marks: Marks, load: asyncio.Task[None]) -> None:
        is_measured = len(self.tally.starts) % _MEASURED_EVERY == 0
        begins_armed = death.moment and not is_measured
        self.load.wish = death.story
        start = await self._start(f"{death.moment}:{death.passing}" if begins_armed else ":0")
        if start is not None:
            start.is_measured = is_measured
            if len(self.tally.starts) % _DISTURBED_EVERY == 0:
                await self._disturb()
            await self._wait(max(death.life_s, _MEASURED_LIFE_S) if is_measured else death.life_s, load)
        if self._is_alive and is_measured and self._process is not None:
            self.tally.starts[-1].footprint = ground.footprint(self._process.pid)
        if self._is_alive and self.plan.ends_orderly(death):
            await self._stop(is_impatient=death.is_impatient)
        elif self._is_alive:
            self._kill()
        assert self._process is not None
        self._client.is_up.clear()
        code = await self._process.wait()
        self._read_log()
        # Before anybody recovers from it; what the next one makes of it is compared with this.
        await self._off_loop(self._look_at_remains)
        came = marks.take_death()
        if came:
            self.plan.came(came)
        elif begins_armed:
            self.plan.missed(death.moment)
        if not came and code not in (0, -signal.SIGKILL):
            raise Violation("a server dies only when it is killed", f"exit code {code}")
        self.tally.kills["at a moment" if came else "by SIGTERM" if code == 0 else "at any time"] += 1

    def _look_at_remains(self) -> None:
        """Looks at the logs as the dead have left them."""
        if (remains := ledger.copy_remains(self._data_dir, self.folder / "remains")) is not None:
            self.ledger.look(remains, is_whole=len(self.tally.starts) % _WHOLE_EVERY == 0)

    async def _disturb(self) -> None:
        """Harms a sandbox, or stops the server in its tracks for a moment."""
        if self._random.random() < 0.2 and self._is_alive and self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1)
            self._process.send_signal(signal.SIGCONT)
            self.tally.harms["server stopped for 1 s"] += 1
        elif harm := await self._off_loop(self._ground.disturb, self._random):
            self.tally.harms[harm] += 1

    async def _start(self, die_at: str) -> Start | None:
        """Starts it; None if it died before it listened."""
        start = Start(_clock.now().timestamp())
        begun = time.monotonic()
        self.tally.starts.append(start)
        command = [sys.executable, "-m", "tests.crash.server", str(self.folder / "marks"), "--die-at", die_at]
        if self._driver == "local":
            command += ["--sandboxes", str(self._sandboxes)]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=_ROOT, env=self._variables(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        while not await _answers(self._port):
            if self._process.returncode is not None:
                return None
            if time.monotonic() - begun > _START_LIMIT_S:
                raise Violation("a server starts again", f"it does not listen after {_START_LIMIT_S:.0f} s")
            await asyncio.sleep(0.01)
        start.listening_s = time.monotonic() - begun
        self._client.is_up.set()
        return start

    async def _wait(self, life_s: float, load: asyncio.Task[None]) -> None:
        """Until its time is over or it has died. Raises what the load raised."""
        assert self._process is not None
        dying = asyncio.create_task(self._process.wait())
        await asyncio.wait([dying, load], timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if load.done():
            _raise_first(load)

    async def _stop(self, *, is_impatient: bool = False) -> None:
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), 0.3 if is_impatient else _STOP_LIMIT_S + 0.5)
        except TimeoutError:
            if not is_impatient:
                raise Violation("SIGTERM ends it within 5 s", "it is still there") from None
            self._kill()
            return
        if self._process.returncode == 0:
            self.tally.stops_s.append(time.monotonic() - begun)

    def _kill(self) -> None:
        assert self._process is not None
        try:
            self._process.kill()
        except ProcessLookupError:
            pass  # it was faster

    @property
    def _is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    # everything

    async def _look_at_everything(self, load: asyncio.Task[None], *, is_last: bool = False) -> None:
        """Leaves a server alone until all is quiet, then holds everything against everything."""
        if await self._start(":0") is None:
            raise Violation("a server starts again", "it ended before it listened")
        self.load.wish = ""
        resting = asyncio.create_task(self.load.pause(_REST_LIMIT_S))
        await asyncio.wait([resting, load], return_when=asyncio.FIRST_COMPLETED)
        if load.done():
            resting.cancel()
            _raise_first(load)
        await resting
        await self._settle("every run ends", lambda: ledger.interactions(self._database, "in_progress"))
        await self._settle("no process outlives its run", self._strays)
        await self._settle("nothing is left that no row knows", lambda: self._orphans(_POOL_SIZE))
        await self._judge()
        self.tally.goings = await self._off_loop(ledger.goings, self._database)
        if is_last:
            await self._end()
        else:
            self._client.is_up.clear()
            self._kill()
            assert self._process is not None
            await self._process.wait()
            self._read_log()
            self.load.go_on()

    async def _judge(self) -> None:
        await self._off_loop(lambda: self.ledger.look(self._database, is_whole=True))
        ids = await self._off_loop(ledger.interactions, self._database)
        present = await self._off_loop(ledger.environments, self._database)
        self.ledger.judge_promises(ids, set(present))
        self.ledger.origins |= await self._off_loop(ledger.origins, self._database)
        fresh = [await self._client.read(each) for each in sorted(ids - self._judged)]
        self.ledger.judge_interactions(fresh)
        self._judged |= ids
        self._interactions += [_brief(each) for each in fresh]
        files = {each: await self._ledger_of(each) for each in sorted(present)}
        self.ledger.outcomes.clear()
        self.ledger.judge_calls(self._interactions, files)

    async def _ledger_of(self, environment_id: str) -> str:
        """What is in its ledger file. That it can be asked for, by shell and by cell, is looked at by the way."""
        program = script(run_bash(f"cat {LEDGER_FILE} 2>/dev/null || true"), run_python("print(6 * 7)"))
        asked = {"agent": AGENT, "input": program, "environment": environment_id}
        answer = await self._client.ask("POST", INTERACTIONS, json=asked)
        made = answer.json() if answer.status_code == 200 else {}
        results = [step["result"] for step in made.get("steps", []) if step["type"] == "code_execution_result"]
        if made.get("status") != "completed" or results[1:] != ["42\n"]:
            raise Violation("every environment can be used", f"{environment_id}: {answer.status_code} {answer.text}")
        self._judged.add(made["id"])
        self.ledger.checks["every environment can be used"] += 1
        return str(results[0])

    async def _end(self) -> None:
        """The end of the lane: after an orderly stop nothing waits any more, and the store is consistent."""
        self._client.is_up.clear()
        await self._stop()
        self._read_log()
        await self._settle("nothing is left that no row knows", lambda: self._orphans(0))
        async with open_store(Settings(data_dir=self._data_dir)) as store:
            try:
                await assert_store_consistent(store)
            except AssertionError as error:
                raise Violation("the store is consistent", str(error)) from error
        self.ledger.checks["the store is consistent"] += 1

    async def _settle(self, invariant: str, remaining: Callable[[], set[str]]) -> None:
        """Waits until nothing remains."""
        give_up_at = time.monotonic() + _SETTLE_LIMIT_S
        while left := await self._off_loop(remaining):
            if time.monotonic() > give_up_at:
                raise Violation(invariant, f"after {_SETTLE_LIMIT_S:.0f} s: {sorted(left)}")
            await asyncio.sleep(0.1)
        self.ledger.checks[invariant] += 1

    def _strays(self) -> set[str]:
        own = f"tok-{self.number:02x}"
        return {f"{token} ({what})" for token, what in ground.running_calls().items() if token.startswith(own)}

    def _orphans(self, waiting: int) -> set[str]:
        """What no row explains, `waiting` sandboxes aside; also what a row has and the machine has not."""
        rows = ledger.environments(self._database)
        known = {sandbox_id for sandbox_id in rows.values() if sandbox_id}
        there = self._ground.sandboxes()
        unowned = there - known
        found = {f"sandbox {each} is nobody's" for each in unowned} if len(unowned) != waiting else set()
        if len(unowned) < waiting:
            found.add(f"{len(unowned)} of {waiting} sandboxes wait")
        found |= {f"sandbox {each} is missing" for each in known - there}
        found |= {f"mount {each} is nobody's" for each in self._ground.mounts() - there}
        # A template that nobody names any more is kept for who comes next.
        copies = {name for name in self._ground.snapshots() if not name.startswith("template-")}
        found |= {f"snapshot {each} is nobody's" for each in copies - ledger.snapshots(self._database)}
        return found

    def _read_log(self) -> None:
        """A server complains of nothing."""
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            content = log.read()
        self._read_bytes += len(content)
        whole = content[: content.rfind(b"\n") + 1]  # the death may have cut the last line off
        for line in whole.decode("utf-8", "replace").splitlines():
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError, TypeError):
                raise Violation("a server complains of nothing", f"{line}\n…") from None
            if level in ("error", "critical"):
                raise Violation("a server complains of nothing", line)
        self.ledger.checks["a server complains of nothing"] += 1

    # what it stands on

    @property
    def _database(self) -> Path:
        return self._data_dir / "corral.db"

    def _prepare(self) -> None:
        agents = self.folder / "agents" / TEMPLATE_AGENT
        agents.mkdir(parents=True)
        (agents / "agent.yaml").write_text(TEMPLATE)
        self._sandboxes.mkdir()

    @functools.cached_property
    def _ground(self) -> Ground:
        """Known once a server has given itself a name."""
        if self._driver == "local":
            return LocalGround(self._sandboxes)
        instance = (self._data_dir / "instance").read_text("ascii").strip()
        return DockerGround(Settings.load(), self._data_dir, instance)

    def _variables(self) -> dict[str, str]:
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "DOCKER_HOST") if name in os.environ
        }
        settings: dict[str, Any] = {
            "CONFIG": os.devnull,
            "DATA_DIR": self._data_dir,
            "PORT": self._port,
            "LOG_FORMAT": "json",
            "AGENTS_DIR": self.folder / "agents",
            "MAX_CONCURRENT_RUNS": 16,
            "POOL__SIZE": _POOL_SIZE,
            "POOL__MAX_SIZE": _POOL_SIZE,
            "DISK_POOL_BYTES": 8 << 30,
        }
        if "lifecycle" in Settings.model_fields:
            settings |= {
                "LIFECYCLE__PAUSE_AFTER_S": 1.5,
                "LIFECYCLE__STOP_AFTER_S": 4,
                "LIFECYCLE__SWEEP_INTERVAL_S": 1,
            }
        return kept | {f"CORRAL_{name}": str(value) for name, value in settings.items()}

    async def _off_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(work, *arguments)


def placed() -> dict[str, list[str]]:
    """The moments that this version passes, with the files that pass them."""
    found: dict[str, list[str]] = {}
    for file in sorted((_ROOT / "orchestrator").glob("**/*.py")):
        for name in _PASSED.findall(file.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(str(file.relative_to(_ROOT)))
    return found


def reachable(driver: str) -> list[str]:
    """The moments that a server with this driver can come to."""
    only_docker = ("orchestrator/sandboxes/docker", "orchestrator/sandboxes/disks.py")
    return [
        name
        for name, files in placed().items()
        if name not in _FAR_FROM_THE_ENGINE
        and (driver == "docker" or not all(each.startswith(only_docker) for each in files))
    ]


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _brief(interaction: Json) -> Json:
    """What later looks need of it."""
    steps = [step for step in interaction["steps"] if step["type"].startswith("code_execution")]
    return {"environment_id": interaction.get("environment_id"), "steps": steps}


def _raise_first(load: asyncio.Task[None]) -> None:
    try:
        load.result()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    raise AssertionError("the load ended by itself")


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
