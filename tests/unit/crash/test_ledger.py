"""Each invariant of the crash harness fires when it is broken: a harness that cannot fail proves nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.crash.ledger import Ledger, Violation, goings, origins

TOKEN = "tok-00000000000000aa"
OTHER = "tok-00000000000000bb"
SCHEMA = """
CREATE TABLE events (log_id TEXT, seq INTEGER, at INTEGER, kind TEXT, body BLOB, PRIMARY KEY (log_id, seq));
CREATE TABLE interactions (id TEXT PRIMARY KEY, created INTEGER, status TEXT);
INSERT INTO interactions VALUES ('i', 1000000, 'in_progress');
INSERT INTO events VALUES ('i', 1, 2000000, 'run.started', x'7b7d'), ('i', 2, 3000000, 'tool.started', x'7b7d'),
    ('e', 1, 1, 'environment.forked', CAST('{"parent": "p"}' AS BLOB));
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "corral.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SCHEMA)
    return file


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def interaction(*results: tuple[str, str], status: str = "completed", **fields: Any) -> dict[str, Any]:
    """One whose calls, of these tokens, came to these results."""
    steps: list[dict[str, Any]] = []
    for token, result in results:
        call_id = token[-4:]
        steps.append({"type": "code_execution_call", "id": call_id, "arguments": {"code": f"echo {token}"}})
        steps.append({"type": "code_execution_result", "call_id": call_id, "result": result})
    return {"id": "i", "status": status, "environment_id": "e", "steps": steps, **fields}


def done(token: str) -> str:
    return f"something\n\ndone {token}\n"


def test_logs_that_only_grow_are_well(database: Path):
    ledger = Ledger()
    ledger.look(database)
    change(database, "INSERT INTO events VALUES ('i', 3, 4, 'tool.ended', x'7b7d')")
    ledger.look(database, is_whole=True)
    assert ledger.events == 4


@pytest.mark.parametrize(
    ("statement", "invariant"),
    [
        ("DELETE FROM events WHERE log_id = 'i' AND seq = 2", "no stored event is lost"),
        ("DELETE FROM events WHERE log_id = 'i'", "no stored event is lost"),
        ("DELETE FROM events WHERE log_id = 'i' AND seq = 1", "logs have no gaps"),
        ("UPDATE events SET body = x'78' WHERE seq = 2", "no stored event is changed"),
        ("UPDATE events SET kind = 'x' WHERE seq = 2", "no stored event is changed"),
    ],
)
def test_a_log_that_changes_is_noticed(database: Path, statement: str, invariant: str):
    ledger = Ledger()
    ledger.look(database)
    change(database, statement)
    with pytest.raises(Violation, match=invariant):
        ledger.look(database, is_whole=True)


def test_the_log_of_what_was_deleted_may_go(database: Path):
    ledger = Ledger(deleting={"e"})
    ledger.look(database)
    change(database, "DELETE FROM events WHERE log_id = 'e'")
    ledger.look(database, is_whole=True)


def test_an_end_stays():
    ledger = Ledger()
    ledger.told({"id": "i", "status": "cancelled"})
    with pytest.raises(Violation, match="an end stays"):
        ledger.told({"id": "i", "status": "completed"})


def test_what_a_reader_saw_is_a_beginning_of_the_replay():
    ledger = Ledger()
    ledger.compare_stream("i", b"one", b"one two")
    with pytest.raises(Violation, match="at byte 4"):
        ledger.compare_stream("i", b"one 2", b"one two")
    with pytest.raises(Violation, match="what a reader saw"):
        ledger.compare_stream("i", b"one two three", b"one two")


@pytest.mark.parametrize(
    ("fields", "invariant"),
    [
        ({"status": "in_progress"}, "every interaction ends"),
        ({"status": "requires_action"}, "every interaction ends"),
        ({"status": "failed", "errors": []}, "a crash fails no run"),
        ({"status": "incomplete"}, "a crash fails no run"),
        ({"steps": [{"type": "function_call", "id": "a"}]}, "every call has one result"),
        ({"steps": [{"type": "a_call", "id": "a"}, *[{"type": "a_result", "call_id": "a"}] * 2]}, "one result"),
    ],
)
def test_an_interaction_that_did_not_end_well_is_noticed(fields: dict[str, Any], invariant: str):
    with pytest.raises(Violation, match=invariant):
        Ledger().judge_interactions([{**interaction((TOKEN, done(TOKEN))), **fields}])


def test_an_interaction_may_wait_for_its_client():
    waiting = interaction((TOKEN, done(TOKEN)), status="requires_action")
    waiting["steps"].append({"type": "function_call", "id": "a"})
    Ledger().judge_interactions([waiting])


def test_a_run_may_fail_of_its_environment_s_deletion():
    Ledger(deleting={"e"}).judge_interactions([interaction(status="failed")])


def test_calls_that_left_what_their_results_say_are_well():
    ledger = Ledger()
    ran = interaction((TOKEN, done(TOKEN)), (OTHER, "[no result: cancelled]"))
    ledger.judge_calls([ran], {"e": f"{TOKEN}\n{TOKEN}.end\n{OTHER}\n"})
    assert ledger.outcomes == {"done": 1, "cancelled": 1}


@pytest.mark.parametrize(
    ("content", "invariant"),
    [
        (f"{TOKEN}\n{TOKEN}\n{TOKEN}.end", "no call is executed twice"),
        (f"{TOKEN}\n{TOKEN}.end\n{TOKEN}.end", "no call is executed twice"),
        (f"{TOKEN}\n", "a result tells what happened"),
        ("", "a result tells what happened"),
        (f"{TOKEN}\n{TOKEN}.end\n{OTHER}\n", "environments are apart"),
    ],
)
def test_a_call_that_left_something_else_is_noticed(content: str, invariant: str):
    with pytest.raises(Violation, match=invariant):
        Ledger(origins={"e": ""}).judge_calls([interaction((TOKEN, done(TOKEN)))], {"e": content})


def test_a_fork_has_what_its_parent_had():
    ran = interaction((TOKEN, done(TOKEN)), environment_id="p")
    Ledger(origins={"e": "p", "p": ""}).judge_calls([ran], {"e": f"{TOKEN}\n{TOKEN}.end\n"})


def test_promises_hold():
    ledger = Ledger(accepted={"i"}, deleted={"e"})
    ledger.judge_promises({"i"}, {"p"})
    with pytest.raises(Violation, match="what was accepted is there"):
        ledger.judge_promises(set(), set())
    with pytest.raises(Violation, match="stays deleted"):
        ledger.judge_promises({"i"}, {"e"})


def test_what_the_database_tells(database: Path):
    assert origins(database) == {"e": "p"}
    (going,) = goings(database)
    assert (going.made, going.begun, going.ended) == (1.0, [2.0], float("inf"))
