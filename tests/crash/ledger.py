"""What clients were told and what programs left behind, and whether it all agrees. The invariants are here.

Every tool call that a client asks for carries a token of its own and writes it into a file of its environment before
it does anything else; at its end it writes the token again, with `.end`. So the file counts executions, whatever the
server believes. The database is read beside the server, read-only, and never through it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = re.compile(r"tok-[0-9a-f]{16}")
LEDGER_FILE = ".ledger"
ENDED = frozenset({"completed", "failed", "cancelled", "incomplete", "requires_action"})

Json = dict[str, Any]


class Violation(AssertionError):
    """Something that must not happen has happened."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass(slots=True)
class Going:
    """When a run went on; seconds since 1970."""

    made: float
    begun: list[float] = field(default_factory=list)
    """When each holder of the run began with it."""
    ended: float = float("inf")


@dataclass(slots=True)
class _Log:
    """A log as far as it was seen: how long, and a digest of all of it."""

    length: int = 0
    digest: bytes = b""

    def add(self, seq: int, kind: str, body: bytes) -> None:
        self.digest = hashlib.sha256(b"%s %d %s %s" % (self.digest, seq, kind.encode(), bytes(body))).digest()
        self.length = seq


@dataclass(slots=True)
class Ledger:
    """Everything that was promised to the clients of one server."""

    checks: Counter[str] = field(default_factory=Counter)
    """How often each invariant was looked at."""
    accepted: set[str] = field(default_factory=set)
    """Interactions whose ids clients were given."""
    ended: dict[str, str] = field(default_factory=dict)
    """Statuses of ends that clients were told."""
    deleting: set[str] = field(default_factory=set)
    """Environments that somebody asked to delete."""
    deleted: set[str] = field(default_factory=set)
    """Of those, the ones that were said to be deleted."""
    origins: dict[str, str] = field(default_factory=dict)
    """Of which environment each was made, or empty; without an entry nobody was told."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What became of tool calls."""
    statuses: Counter[str] = field(default_factory=Counter)
    _logs: defaultdict[str, _Log] = field(default_factory=lambda: defaultdict(_Log))
    _judged: set[str] = field(default_factory=set)

    @property
    def events(self) -> int:
        """How many stored events are known, and must be found again."""
        return sum(log.length for log in self._logs.values())

    # what clients tell

    def told(self, interaction: Json) -> None:
        """A client was answered with an interaction."""
        interaction_id, status = str(interaction["id"]), str(interaction["status"])
        self.accepted.add(interaction_id)
        if status in ENDED:
            before = self.ended.setdefault(interaction_id, status)
            if before != status and before != "requires_action":
                raise Violation("an end stays as it was told", f"{interaction_id} was {before}, is {status}")

    def compare_stream(self, interaction_id: str, seen: bytes, whole: bytes) -> None:
        """What a reader put together over all its connections, with a replay."""
        self.checks["what a reader saw is in the log"] += 1
        if not whole.startswith(seen):
            at = next(
                (at for at, (one, other) in enumerate(zip(seen, whole, strict=False)) if one != other), len(whole)
            )
            around = slice(max(0, at - 80), at + 80)
            raise Violation(
                "what a reader saw is in the log",
                f"{interaction_id} differs at byte {at}: {seen[around]!r} and {whole[around]!r}",
            )

    # what is stored

    def look(self, database: Path, *, is_whole: bool = False) -> None:
        """Compares the logs with what was seen of them before: nothing is gone; `is_whole`: nothing is changed."""
        with closing(_open(database)) as connection:
            heads = connection.execute("SELECT log_id, MAX(seq), COUNT(*) FROM events GROUP BY log_id").fetchall()
            self._look_for_losses({log_id: last for log_id, last, _ in heads})
            for log_id, last, count in heads:
                if last != count:
                    raise Violation("logs have no gaps", f"{log_id} has {count} events, the last is number {last}")
                log = self._logs[log_id]
                if is_whole:
                    self._reread(connection, log_id, log)
                if last > log.length:
                    for event in _events(connection, log_id, after=log.length):
                        log.add(*event)
        self.checks["no stored event is lost"] += 1

    def _look_for_losses(self, lengths: Mapping[str, int]) -> None:
        for log_id, log in list(self._logs.items()):
            length = lengths.get(log_id, 0)
            if not length and log_id in self.deleting:
                del self._logs[log_id]
            elif length < log.length:
                raise Violation("no stored event is lost", f"{log_id} had {log.length} events, now {length}")

    def _reread(self, connection: sqlite3.Connection, log_id: str, known: _Log) -> None:
        again = _Log()
        for seq, kind, body in _events(connection, log_id, after=0):
            if again.length == known.length:
                break
            again.add(seq, kind, body)
        self.checks["no stored event is changed"] += again.length
        if again.digest != known.digest:
            raise Violation("no stored event is changed", f"log {log_id} reads differently now")

    def judge_interactions(self, interactions: Iterable[Json]) -> None:
        """Of all that have ended: each call has its result, and what was promised about the end holds."""
        for each in interactions:
            self.told(each)
            self._judged.add(each["id"])
            self.statuses[each["status"]] += 1
            self.checks["every interaction ends, every call has one result"] += 1
            self._judge_status(each)

    def _judge_status(self, interaction: Json) -> None:
        interaction_id, status = interaction["id"], interaction["status"]
        if status not in ENDED:
            raise Violation("every interaction ends", f"{interaction_id} is {status}")
        if status in ("failed", "incomplete") and interaction.get("environment_id") not in self.deleting:
            raise Violation("a crash fails no run", f"{interaction_id}: {interaction.get('errors')}")
        calls = [step["id"] for step in interaction["steps"] if step["type"].endswith("_call")]
        answers = Counter(step["call_id"] for step in interaction["steps"] if step["type"].endswith("_result"))
        open_calls = [call for call in calls if answers[call] != 1]
        if status == "requires_action":
            last = interaction["steps"][-1]
            if last["type"] != "function_call" or open_calls != [last["id"]]:
                raise Violation(
                    "every interaction ends", f"{interaction_id} waits for more than its client: {open_calls}"
                )
        elif open_calls:
            raise Violation("every call has one result", f"{interaction_id}: {open_calls}")

    def judge_calls(self, interactions: Iterable[Json], files: Mapping[str, str]) -> None:
        """Compares the results of calls with what their programs wrote into the ledger files of environments."""
        wanted: dict[str, dict[str, bool]] = defaultdict(dict)
        """By environment: the token of each call, and whether its result says that it came to its end."""
        for interaction in interactions:
            for token, text in _calls(interaction):
                wanted[str(interaction.get("environment_id"))][token] = text.rstrip().endswith(f"done {token}")
                self.outcomes[_outcome(token, text)] += 1
        for environment_id, content in files.items():
            # Besides them there may be a remark for the model that the sandbox was started again.
            lines = Counter(line for line in content.split() if TOKEN.match(line))
            known: set[str] = set()
            ancestor: str | None = environment_id
            while ancestor:
                known |= set(wanted[ancestor])
                ancestor = self.origins.get(ancestor)
            for line, times in lines.items():
                # None: somewhere up the line nobody was told of whom it is a fork.
                if ancestor is not None and line.removesuffix(".end") not in known:
                    raise Violation("environments are apart", f"{environment_id} has {line}, which is of another one")
                if times > 1:
                    raise Violation("no call is executed twice", f"{line} stands {times} times in {environment_id}")
            for token, is_done in wanted[environment_id].items():
                self.checks["no call is executed twice"] += 1
                if is_done and not (lines[token] == 1 and lines[f"{token}.end"] == 1):
                    raise Violation(
                        "a result tells what happened",
                        f"{token} is done by its result; its file has {lines[token]} and {lines[f'{token}.end']}",
                    )

    def judge_promises(self, interaction_ids: set[str], environment_ids: set[str]) -> None:
        """What clients were given is there, what was deleted is not."""
        self.checks["what was accepted is there"] += len(self.accepted)
        if lost := self.accepted - interaction_ids:
            raise Violation("what was accepted is there", f"interactions {sorted(lost)} are gone")
        if left := self.deleted & environment_ids:
            raise Violation("what was deleted stays deleted", f"environments {sorted(left)} are there again")


def environments(database: Path) -> dict[str, str | None]:
    """Ids of all environments with their sandboxes, none of which is being deleted for good."""
    with closing(_open(database)) as connection:
        return dict(connection.execute("SELECT id, sandbox_id FROM environments").fetchall())


def interactions(database: Path, status: str | None = None) -> set[str]:
    """Ids of all interactions, or of those with a status."""
    with closing(_open(database)) as connection:
        rows = connection.execute("SELECT id FROM interactions WHERE ? IS NULL OR status = ?", (status, status))
        return {interaction_id for (interaction_id,) in rows}


def snapshots(database: Path) -> set[str]:
    """Names of snapshots and templates that environments begin with."""
    with closing(_open(database)) as connection:
        rows = connection.execute("SELECT snapshot FROM environments UNION SELECT template FROM environments")
        return {name for (name,) in rows if name}


def origins(database: Path) -> dict[str, str]:
    """Of which environment each was made, or empty, for all that say it."""
    with closing(_open(database)) as connection:
        rows = connection.execute(
            "SELECT log_id, body FROM events WHERE kind IN ('environment.created', 'environment.forked')"
        ).fetchall()
    return {log_id: json.loads(body).get("parent", "") for log_id, body in rows}


def goings(database: Path) -> list[Going]:
    """Of each interaction with a run."""
    with closing(_open(database)) as connection:
        rows = connection.execute(
            "SELECT i.id, i.created, e.kind, e.at FROM interactions i JOIN events e ON e.log_id = i.id"
            " WHERE e.kind IN ('run.started', 'interaction.completed') ORDER BY i.id, e.seq"
        ).fetchall()
    found: dict[str, Going] = {}
    for interaction_id, created, kind, at in rows:
        going = found.setdefault(interaction_id, Going(created / 1e6))
        if kind == "run.started":
            going.begun.append(at / 1e6)
        else:
            going.ended = at / 1e6
    return list(found.values())


def copy_remains(data_dir: Path, folder: Path) -> Path | None:
    """The database as a death left it, in a copy, because opening it recovers it; None if it was not made yet."""
    folder.mkdir(exist_ok=True)
    for name in ("corral.db", "corral.db-wal"):
        (folder / name).unlink(missing_ok=True)
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, folder / name)
    with closing(sqlite3.connect(folder / "corral.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        is_made = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'events'").fetchone()
    return folder / "corral.db" if is_made else None


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10)


def _events(connection: sqlite3.Connection, log_id: str, *, after: int) -> Iterable[tuple[int, str, bytes]]:
    return connection.execute(
        "SELECT seq, kind, body FROM events WHERE log_id = ? AND seq > ? ORDER BY seq", (log_id, after)
    ).fetchall()


def _calls(interaction: Json) -> Iterable[tuple[str, str]]:
    """Token and result text of the calls that carry a token."""
    results = {
        step["call_id"]: step["result"] for step in interaction["steps"] if step["type"] == "code_execution_result"
    }
    for step in interaction["steps"]:
        if step["type"] == "code_execution_call" and (found := TOKEN.search(step["arguments"].get("code", ""))):
            result = results.get(step["id"], "")
            yield found[0], result if isinstance(result, str) else json.dumps(result)


def _outcome(token: str, text: str) -> str:
    """What became of a call, by its result."""
    if text.rstrip().endswith(f"done {token}"):
        return "done"
    if "not known" in text:
        return "unknown, and the model was told"
    if "[no result: cancelled]" in text or "cancelled" in text:
        return "cancelled"
    if "[no result" in text:
        return "never started"
    return "other"
