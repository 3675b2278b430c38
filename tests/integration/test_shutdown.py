"""SIGTERM: the process ends in time whatever is under way, and the next server goes on with it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from tests.fakes.local_server import ServerProcess, frames

LIMIT_S = 5.0
COUNTED = "```bash\necho begun >> count; sleep 2; cat count\n```"


def test_everything_that_is_under_way_goes_on_after_an_orderly_stop(process: ServerProcess, sandboxes: Path) -> None:
    def create(_number: int) -> httpx2.Response:
        request = {"agent": "general", "input": COUNTED, "environment": "remote"}
        return httpx2.post(f"{process.url}/v1beta/interactions", json=request, timeout=30)

    def read(interaction_id: str) -> bytes:
        path = f"{process.url}/v1beta/interactions/{interaction_id}?stream=true"
        return httpx2.get(path, timeout=30).content

    begun = [process.create(COUNTED)["id"] for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        blocking = [threads.submit(create, number) for number in range(3)]
        streams = [threads.submit(read, each) for each in begun]
        until(lambda: len(list(sandboxes.glob("*/workspace/count"))) == 7)
        begun.append(process.create(COUNTED)["id"])  # its sandbox is not there yet
        took_s = process.end(signal.SIGTERM)
        answers = [each.result() for each in blocking]
        cut = [each.result() for each in streams]
    assert took_s < LIMIT_S
    assert (process.returncode, faults(process)) == (0, [])
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.json()["status"] for answer in answers} == {"in_progress"}
    process.start()
    for interaction_id in [*begun, *(answer.json()["id"] for answer in answers)]:
        ended = process.ended(interaction_id)
        assert ended["status"] == "completed", ended
        assert [step["result"] for step in ended["steps"] if step["type"] == "code_execution_result"] == ["begun\n"]
    for interaction_id, stream in zip(begun, cut, strict=False):
        seen = frames(stream)
        assert seen
        assert frames(read(interaction_id))[: len(seen)] == seen
    assert faults(process) == []


def test_an_engine_that_hangs_does_not_hold_up_the_end(process: ServerProcess, sandboxes: Path) -> None:
    running = process.create(COUNTED)["id"]
    until(lambda: bool(list(sandboxes.glob("*/workspace/count"))))
    (sandboxes / "hangs").mkdir()
    starting = process.create(COUNTED)["id"]
    time.sleep(0.2)
    assert process.end(signal.SIGTERM) < LIMIT_S
    assert (process.returncode, faults(process)) == (0, [])
    (sandboxes / "hangs").rmdir()
    process.start()
    for interaction_id in (running, starting):
        assert process.ended(interaction_id)["status"] == "completed"


def test_an_engine_that_hangs_does_not_hold_up_the_start(new_process: ServerProcess, sandboxes: Path) -> None:
    process = new_process
    (sandboxes / "hangs").mkdir()
    process.start()
    assert httpx2.get(f"{process.url}/readyz").status_code == 200
    waiting = process.create("```bash\necho there\n```")
    (sandboxes / "hangs").rmdir()
    assert process.ended(waiting["id"])["status"] == "completed"
    assert process.end(signal.SIGTERM) < LIMIT_S
    assert (process.returncode, faults(process)) == (0, [])


def test_a_server_that_is_told_to_stop_while_it_starts_does(
    new_process: ServerProcess, tmp_path: Path, sandboxes: Path
) -> None:
    process = new_process
    (sandboxes / "hangs").mkdir()
    process.launch()
    until((tmp_path / "data" / "corral.db").exists)
    assert process.end(signal.SIGTERM) < LIMIT_S
    assert (process.returncode, faults(process)) == (0, [])


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def faults(process: ServerProcess) -> list[dict[str, Any]]:
    """Lines of the server's log that complain of a mistake of its own."""
    lines = [json.loads(line) for line in process.log.splitlines()]
    return [line for line in lines if line["level"] not in ("debug", "info", "warning")]
