"""Limits of one sandbox and one run: what a program that goes too far gets, and that nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from orchestrator.config import Settings
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, python, results, run_bash, run_python, script, text_of
from tests.e2e.server import ServerProcess

CALL_TIMEOUT_S = 2
MEMORY_BYTES = 256 << 20
PIDS = 64


@pytest.fixture(scope="module")
def tight_server(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose sandboxes and runs may take little."""
    process = ServerProcess(
        engine,
        tmp_path_factory.mktemp("tight"),
        CALL_TIMEOUT_S=str(CALL_TIMEOUT_S),
        OUTPUT_LIMIT_BYTES="4096",
        MAX_TURNS="4",
        REQUEST_LIMIT_BYTES="100000",
        RESOURCES__MEMORY_BYTES=str(MEMORY_BYTES),
        RESOURCES__PIDS=str(PIDS),
        RESOURCES__CPUS="1",
        RESOURCES__OPEN_FILES="256",
    )
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def tight(tight_server: ServerProcess) -> Iterator[Caller]:
    with tight_server.caller() as caller:
        yield caller


@pytest.fixture(scope="module")
def small(tight: Caller) -> str:
    """An environment with small limits, for programs that run into them."""
    return tight.new_environment()


@pytest.fixture(scope="module")
def beside(tight: Caller) -> str:
    """Another environment of the same server."""
    return tight.new_environment()


def test_command_that_takes_too_long_is_a_result(tight: Caller, small: str) -> None:
    program = script(run_bash("echo begun; (setsid sleep 3101 &); sleep 3102"), run_bash("ps -eo args"))
    before = time.monotonic()
    timed_out, after = results(tight.create(program, small))
    assert CALL_TIMEOUT_S <= time.monotonic() - before < CALL_TIMEOUT_S + 3
    assert text_of(timed_out).startswith("begun\n[timed out after 2 s")
    assert timed_out["is_error"] is True
    assert "sleep 310" not in text_of(after)


def test_cell_that_takes_too_long_keeps_the_state(tight: Caller, small: str) -> None:
    program = script(run_python("kept = 5"), run_python("import time; time.sleep(60)"), run_python("kept"))
    _, timed_out, after = results(tight.create(program, small))
    assert "[timed out after 2 s" in text_of(timed_out)
    assert text_of(after) == "5\n"


def test_command_that_takes_too_much_memory_is_a_result(tight: Caller, small: str, beside: str) -> None:
    ended = tight.create(script(run_bash("python3 -c 'x = bytearray(10**9)'"), run_bash("echo on")), small)
    assert ended["status"] == "completed"
    killed, after = results(ended)
    assert "[out of memory" in text_of(killed)
    assert text_of(after) == "on\n"
    assert only_result(tight.create(bash("echo on"), beside)) == "on\n"


def test_cell_that_takes_too_much_memory_says_that_state_is_lost(tight: Caller, small: str) -> None:
    program = script(run_python("kept = 5"), run_python("x = bytearray(10**9)"), run_python("'kept' in globals()"))
    _, killed, after = results(tight.create(program, small))
    assert "[out of memory" in text_of(killed)
    assert "variables are gone" in text_of(killed)
    assert text_of(after) == "False\n"


def test_shared_memory_and_tmp_cannot_take_all(tight: Caller, small: str) -> None:
    sizes = only_result(tight.create(bash("df --output=size -B1 /tmp /dev/shm | tail -n +2"), small))
    assert sum(map(int, sizes.split())) <= MEMORY_BYTES // 4


@pytest.mark.parametrize("bomb", [":(){ :|:& };:", "bomb() { bomb | bomb & }; bomb; sleep 1; echo over"])
def test_fork_bomb_stays_in_its_sandbox(tight: Caller, beside: str, bomb: str) -> None:
    own = tight.new_environment()
    exploding = tight.start(bash(bomb), own)
    for _ in range(5):
        before = time.monotonic()
        assert tight.http.get("/healthz").status_code == 200
        assert only_result(tight.create(bash("/bin/echo beside | cat"), beside)) == "beside\n"
        assert time.monotonic() - before < 5
    assert tight.wait(exploding)["status"] == "completed"
    program = script(run_bash("/bin/echo later | cat; ps -e --no-headers | wc -l"), run_python("1 + 1"))
    answers = []
    for _ in range(4):
        shell, cell = [text_of(step) for step in results(tight.create(program, own))]
        answers.append(shell)
        if shell.startswith("later\n"):
            assert cell == "2\n"
        else:
            assert "[too many processes" in shell or "[timed out" in shell, "what a bomb costs a later call is typed"
    failures = [not answer.startswith("later\n") for answer in answers]
    assert sum(failures) <= 1, answers
    if any(failures):
        assert int(answers[-1].split()[1]) < 20, "the bomb goes on after a call has run into it"
    tight.delete_environment(own)


def test_fork_bomb_can_be_cancelled(tight: Caller) -> None:
    own = tight.new_environment()
    running = tight.start(bash("echo begun; bomb() { bomb | bomb & wait; }; bomb"), own)
    tight.await_output(running, "begun")
    before = time.monotonic()
    tight.cancel(running)
    assert time.monotonic() - before < 4
    assert only_result(tight.create(bash("/bin/echo later | cat"), own)) == "later\n"
    tight.delete_environment(own)


def test_too_many_open_files_are_the_programs_own_trouble(tight: Caller, small: str) -> None:
    code = (
        "files = []\ntry:\n    while True: files.append(open('/dev/null'))\n"
        "except OSError as e: print(len(files) < 256, e)\ndel files"
    )
    assert only_result(tight.create(python(code), small)).startswith("True [Errno 24]")


def test_run_that_takes_too_many_turns_is_incomplete(tight: Caller, small: str) -> None:
    ended = tight.create(script(*[run_bash(f"echo {number}") for number in range(9)]), small)
    assert ended["status"] == "incomplete"
    assert [text_of(step) for step in results(ended)] == ["0\n", "1\n", "2\n", "3\n"]
    assert tight.create("x", small, previous_interaction_id=ended["id"])["status"] == "completed"


def test_spent_budget_is_incomplete(tight: Caller, small: str) -> None:
    turns = [{**run_bash(f"echo {number}"), "usage": {"input_tokens": 60, "output_tokens": 0}} for number in range(3)]
    budget = {"type": "antigravity", "max_total_tokens": "100"}
    ended = tight.create(script(*turns), small, agent_config=budget)
    assert ended["status"] == "incomplete"
    assert ended["usage"]["total_tokens"] == 120
    assert [text_of(step) for step in results(ended)] == ["0\n", "1\n"]


def test_output_limit_is_the_operators(tight: Caller, small: str) -> None:
    text = only_result(tight.create(bash("seq 10000"), small))
    assert text.startswith("1\n2\n")
    assert text.endswith("\n9999\n10000\n")
    assert len(text) < 4096 + 100


def test_body_over_the_limit_is_refused_and_changes_nothing(tight: Caller) -> None:
    before = tight.ps()
    big = b'{"agent": "general", "input": "' + b"x" * 100_000 + b'"}'
    refused = tight.http.post("/v1/interactions", content=big)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"
    assert "100000" in refused.json()["error"]["message"]
    pieces = iter([big[:50_000], big[50_000:]])
    assert tight.http.post("/v1/interactions", content=pieces).status_code == 413
    assert tight.ps() == before


def test_environments_per_project_are_limited(start_server: StartServer) -> None:
    server = start_server(MAX_ENVIRONMENTS_PER_PROJECT="2")
    with server.caller() as caller:
        first, _ = (caller.create("x", "remote")["environment_id"] for _ in range(2))
        before = caller.environments(), caller.ps()
        refused = caller.post("x", "remote")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_requests"
        assert "retry-after" in refused.headers
        assert (caller.environments(), caller.ps()) == before
        caller.delete_environment(first)
        assert caller.create("x", "remote")["status"] == "completed"
