"""`corral usage`, `watch`, `forward` and `shell`, as far as they go without a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.wire_server import ENVIRONMENT, FakeServer, answer, refusal, sse
from tests.unit.cli.conftest import Corral

FIGURES: dict[str, Any] = {
    "cpu_time_s": 1.239,
    "cpu_limit_cores": 2.0,
    "memory_bytes": 25_000_000,
    "memory_peak_bytes": 30_000_000,
    "memory_limit_bytes": 2_147_483_648,
    "pids": 4,
    "pids_limit": 1024,
    "disk_used_bytes": None,
    "disk_limit_bytes": None,
    "disk_inodes": 7,
    "disk_inodes_limit": None,
}


def test_usage_for_people(corral: Corral) -> None:
    server = FakeServer(answer(FIGURES))
    outcome = corral("usage", ENVIRONMENT, server=server)
    assert server.requests[0].url.path == f"/ops/environments/{ENVIRONMENT}/usage"
    assert outcome.out.splitlines() == [
        "cpu         1.24 s on up to 2 cores",
        "memory      25 MB of 2.1 GB",
        "memory peak 30 MB",
        "disk        -",
        "files       7",
        "processes   4 of 1024",
    ]


def test_usage_that_is_not_known(corral: Corral) -> None:
    outcome = corral("usage", ENVIRONMENT, server=FakeServer(answer(dict.fromkeys(FIGURES))))
    assert {line.split()[-1] for line in outcome.out.splitlines()} == {"-"}


def test_usage_for_programs(corral: Corral) -> None:
    outcome = corral("usage", ENVIRONMENT, "--json", server=FakeServer(answer(FIGURES)))
    assert json.loads(outcome.out) == FIGURES


def test_usage_of_what_does_not_run(corral: Corral) -> None:
    outcome = corral("usage", "x/y", server=FakeServer(refusal(409, "aborted", "no running sandbox")))
    assert (outcome.code, outcome.err) == (2, "corral: no running sandbox [409 aborted]\n")


def event(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "path": path, "is_dir": False, "old_path": None, **more}


def test_watch_shows_changes(corral: Corral) -> None:
    events = [
        event("created", "a", is_dir=True),
        event("moved", "b/c", old_path="a\x1b[31m/c"),
        event("changed", "x\n\x1b]0;title\x07y"),
        event("overflow", ""),
    ]
    server = FakeServer(sse(*events))
    outcome = corral("watch", ENVIRONMENT, "src", "--no-recursive", server=server)
    assert dict(server.requests[0].url.params) == {"path": "src", "recursive": "false"}
    assert outcome.out == "created  a/\nmoved    a/c → b/c\nchanged  x y\noverflow \n"
    assert outcome.code == 0


def test_watch_for_programs(corral: Corral) -> None:
    outcome = corral("watch", ENVIRONMENT, "--json", server=FakeServer(sse(event("created", "a"))))
    assert json.loads(outcome.out) == event("created", "a")


def test_a_watch_that_breaks_off(corral: Corral) -> None:
    broken = {"error": {"code": "sandbox_gone", "message": "the sandbox ended\x1b[2J"}}
    outcome = corral("watch", ENVIRONMENT, server=FakeServer(sse(event("created", "a"), broken, is_done=False)))
    assert (outcome.code, outcome.out) == (1, "created  a\n")
    assert outcome.err == "corral: the sandbox ended [sandbox_gone]\n"


@pytest.mark.parametrize("ports", ["", "x", "80:", "1:x", "0", "65536", "70000:80", "-1", "80:0", "1:2:3", "²"])
def test_ports_that_are_none(corral: Corral, ports: str) -> None:
    outcome = corral("forward", ENVIRONMENT, "--", ports)
    assert outcome.code == 2
    assert "no port" in outcome.err


def test_no_server(corral: Corral) -> None:
    outcome = corral("shell", ENVIRONMENT, "--url", "http://127.0.0.1:1")
    assert (outcome.code, outcome.err[:47]) == (2, "corral: no server answers at http://127.0.0.1:1")
