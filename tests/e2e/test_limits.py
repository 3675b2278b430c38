"""Limits of one sandbox and one run: what a program that goes too far gets, and that nobody else notices."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import Settings
from tests.e2e.caller import Caller, Json
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, python, results, run_bash, run_python, script, text_of
from tests.e2e.server import ServerProcess

CALL_TIMEOUT_S = 2
MEMORY_BYTES = 256 << 20
PIDS = 64
DISK_BYTES = 64 << 20


@pytest.fixture(scope="module")
def tight_server(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose sandboxes and runs may take little."""
    process = ServerProcess(
        engine,
        tmp_path_factory.mktemp("tight"),
        CALL_TIMEOUT_S=str(CALL_TIMEOUT_S),
        OUTPUT_LIMIT_BYTES="4096",
        OUTPUT_TOTAL_LIMIT_BYTES="2000000",
        MAX_TURNS="4",
        REQUEST_LIMIT_BYTES="100000",
        RESOURCES__MEMORY_BYTES=str(MEMORY_BYTES),
        RESOURCES__PIDS=str(PIDS),
        RESOURCES__CPUS="1",
        RESOURCES__OPEN_FILES="256",
        RESOURCES__DISK_BYTES=str(DISK_BYTES),
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
        if "later\n" in shell:  # perhaps after some tries of the shell
            assert cell == "2\n"
        else:
            assert "[too many processes" in shell or "[timed out" in shell, "what a bomb costs a later call is typed"
    met = [not answer.startswith("later\n") for answer in answers]
    assert sum("later\n" not in answer for answer in answers) <= 1, answers
    if any(met[:-1]):
        assert int(answers[-1].split()[-1]) < 20, "the bomb goes on after a call has run into it"
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


def verdicts(caller: Caller, interaction: Json) -> list[str]:
    """How the journal says that the calls ended."""
    return [entry["body"]["verdict"] for entry in caller.journal(interaction["id"]) if entry["kind"] == "tool.ended"]


@pytest.fixture
def has_disks(small: str, tight: Caller) -> None:
    if "ext4" not in only_result(tight.create(bash("stat -f -c %T /workspace; df -T /workspace"), small)):
        pytest.skip("sandboxes have no disks of their own here")


@pytest.mark.usefixtures("has_disks")
def test_full_disk_is_a_result_with_its_name_and_size(tight: Caller) -> None:
    own = tight.new_environment()
    write = {"tool": "write_file", "arguments": {"path": "new", "content": "x" * 80_000}}
    program = script(
        {"calls": [*run_bash("head -c 200M /dev/zero > big")["calls"], write]},
        run_python("with open('more', 'wb') as f: f.write(bytes(10**6))"),
        run_bash("rm -f big more; echo on > later; cat later"),
    )
    ended = tight.create(program, own)
    shell, file, cell, freed = results(ended)
    assert re.search(r"\n\[disk full: /workspace has no room \(limit \d\d.* MiB\); delete files", text_of(shell))
    assert "No space left on device" in text_of(cell)
    assert "\n[disk full: /workspace" in text_of(cell)
    assert text_of(file).startswith("disk full: /workspace")
    assert [step["is_error"] for step in (shell, cell, file)] == [True, True, True]
    assert text_of(freed) == "on\n"
    assert verdicts(tight, ended) == ["disk_full", "disk_full", "disk_full", "exited"]
    tight.delete_environment(own)


@pytest.mark.usefixtures("has_disks")
def test_too_many_files_are_a_full_disk(tight: Caller) -> None:
    own = tight.new_environment()
    code = "import itertools\nfor n in itertools.count():\n    if n % 5000 == 0: import os; os.makedirs(f'd{n}')\n"
    code += "    open(f'd{n // 5000 * 5000}/{n}', 'w').close()"
    ended = tight.create(script(*[run_python(code)] * 3), own)
    said = [text_of(step) for step in results(ended)]
    assert any("\n[disk full: /workspace has no room" in text for text in said), said
    tight.delete_environment(own)


def test_full_tmp_is_a_full_disk_of_its_own(tight: Caller) -> None:
    own = tight.new_environment()
    program = script(run_bash("head -c 200M /dev/zero > /tmp/big"), run_bash("echo on > later; cat later"))
    ended = tight.create(program, own)
    filled, after = [text_of(step) for step in results(ended)]
    assert "\n[disk full: /tmp has no room (limit " in filled
    assert after == "on\n"
    assert verdicts(tight, ended) == ["disk_full", "exited"]
    tight.delete_environment(own)


def test_output_without_end_is_stopped(tight: Caller, small: str) -> None:
    flood = "import itertools\nfor n in itertools.count(): print(str(n) * 5000)"
    program = script(run_bash("yes"), run_python("kept = 5"), run_python(flood), run_python("kept"))
    ended = tight.create(program, small)
    shell, _, cell, after = [text_of(step) for step in results(ended)]
    assert shell.startswith("y\ny\n")
    assert shell.endswith("\n[too much output: more than 1.9 MiB, so it was stopped; write to a file instead]")
    assert "\n[too much output" in cell
    assert after == "5\n"
    assert verdicts(tight, ended) == ["output_limit", "exited", "output_limit", "exited"]


@pytest.mark.parametrize(
    "code",
    [
        "trap '' TERM HUP INT; while :; do sleep 3103; done",
        "kill -STOP $$",
        "kill -STOP $PPID; (setsid sleep 3104 &); sleep 3105",
        "(trap '' TERM; exec setsid sleep 3106) & kill -STOP -1; sleep 3107",
        "kill -9 $PPID; sleep 3108",
        "kill -9 -1; sleep 3109",
    ],
)
def test_who_resists_its_end_is_gone_in_time(tight: Caller, small: str, code: str) -> None:
    before = time.monotonic()
    resisted, after = results(tight.create(script(run_bash(code), run_bash("ps -eo args")), small))
    assert time.monotonic() - before < CALL_TIMEOUT_S + 3
    assert "[timed out" in text_of(resisted) or "[killed by signal" in text_of(resisted)
    assert "ps -eo args" in text_of(after)
    assert "sleep 310" not in text_of(after)


def test_limits_of_an_agent_are_its_own(start_server: StartServer, tmp_path: Path) -> None:
    place = tmp_path / "agents/tiny"
    place.mkdir(parents=True)
    (place / "agent.yaml").write_text(
        "id: tiny\ntools: [{type: code_execution}]\n"
        "sandbox: {memory_bytes: 134217728, pids: 40, cpus: 0.5, open_files: 300, call_timeout_s: 1,"
        " output_limit_bytes: 1024}\n"
    )
    server = start_server(AGENTS_DIR=str(tmp_path / "agents"))
    with server.caller() as caller:
        program = script(
            run_bash("ulimit -n; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null || true"),
            run_bash("python3 -c 'x = bytearray(200_000_000)'"),
            run_bash("sleep 30"),
            run_bash("seq 1000"),
        )
        shown, killed, late, cut = [text_of(step) for step in results(caller.create(program, "remote", agent="tiny"))]
        assert shown.split() == ["300", "40"]
        assert "[out of memory" in killed
        assert "[timed out after 1 s" in late
        assert len(cut) < 1200
        large = caller.create(bash("python3 -c 'x = bytearray(200_000_000)'; ulimit -n"), "remote")
        assert only_result(large) == "8192\n"


def test_agent_that_asks_for_too_much_stops_the_start(server: ServerProcess, tmp_path: Path) -> None:
    place = tmp_path / "greedy"
    place.mkdir()
    (place / "agent.yaml").write_text("id: greedy\nsandbox: {memory_bytes: 99999999999}\n")
    variables = {"CORRAL_AGENTS_DIR": str(tmp_path), "CORRAL_DATA_DIR": str(tmp_path / "data")}
    refused = server.cli("serve", "--port", "0", variables=variables)
    assert refused.returncode != 0
    for part in ("greedy", "sandbox.memory_bytes", "99999999999", "maxima.memory_bytes"):
        assert part in refused.stderr


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
    before = tight.standing()
    big = b'{"agent": "general", "input": "' + b"x" * 100_000 + b'"}'
    refused = tight.http.post("/v1/interactions", content=big)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"
    assert "100000" in refused.json()["error"]["message"]
    pieces = iter([big[:50_000], big[50_000:]])
    assert tight.http.post("/v1/interactions", content=pieces).status_code == 413
    assert tight.standing() == before


def test_environments_per_project_are_limited(start_server: StartServer) -> None:
    server = start_server(MAX_ENVIRONMENTS_PER_PROJECT="2")
    with server.caller() as caller:
        first, _ = (caller.create("x", "remote")["environment_id"] for _ in range(2))
        before = caller.environments(), caller.standing()
        refused = caller.post("x", "remote")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_requests"
        assert "retry-after" in refused.headers
        assert (caller.environments(), caller.standing()) == before
        caller.delete_environment(first)
        assert caller.create("x", "remote")["status"] == "completed"
