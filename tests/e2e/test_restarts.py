"""What a restart of the server leaves as it was: the record, the sandbox, and calls that were under way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.e2e import streams
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, call, only_result, python, run_bash, run_python, script, text_of
from tests.e2e.server import ServerProcess

Ending = Callable[[ServerProcess], object]

ENDINGS = [
    pytest.param(ServerProcess.stop, id="SIGTERM"),
    pytest.param(ServerProcess.kill, id="SIGKILL"),
]
CHART = "import matplotlib.pyplot as plt; plt.plot([1, 3, 2]); plt.show()"


def test_finished_interactions_read_the_same_to_the_byte(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        program = script(
            {"thought": "Begin.", **run_bash("printf 'caf\\303\\251 \\377\\0\\n'; exit 4")},
            run_python(CHART),
            call("write_file", path="kept.txt", content="kept"),
            run_python("state = 41"),
            {"text": "Fin — ✓", "chunk": 2},
        )
        failed = caller.create(script({"error": {"code": "model_refused", "message": "No."}}))["id"]
        cancelled = caller.start(bash("sleep 60"), environment)
        caller.cancel(cancelled)
        finished = caller.create(program, environment)["id"]
        ids = [finished, failed, cancelled]
        before = [_readings(caller, each) for each in ids]
    for end in (ServerProcess.stop, ServerProcess.kill):
        end(server)
        server.start()
        with server.caller() as caller:
            assert [_readings(caller, each) for each in ids] == before
            again = caller.create(script(run_bash("cat kept.txt"), run_python("state + 1")), environment)
            assert [text_of(step) for step in again["steps"] if step["type"].endswith("_result")] == ["kept", "42\n"]


@pytest.mark.parametrize("end", ENDINGS)
def test_calls_in_flight_are_executed_once_and_their_runs_finish(start_server: StartServer, end: Ending) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        shell = bash("echo x >>shell.count; echo begun; sleep 3; echo y >>shell.count; wc -l <shell.count")
        cell = python(
            "import time\nopen('cell.count', 'a').write('x'); print('begun', flush=True)\n"
            "time.sleep(3)\nopen('cell.count').read()"
        )
        running = [caller.start(shell, environment), caller.start(cell, environment)]
        for each in running:
            caller.await_output(each, "begun")
        seen = [_stream_so_far(caller, each) for each in running]
    end(server)
    server.start()
    with server.caller() as caller:
        shell_ended, cell_ended = (caller.wait(each) for each in running)
        assert only_result(shell_ended) == "begun\n2\n"
        assert only_result(cell_ended) == "begun\n'x'\n"
        assert (shell_ended["status"], cell_ended["status"]) == ("completed", "completed")
        for each, start in zip(running, seen, strict=True):
            assert caller.replay(each).startswith(start), "what a reader has seen was not kept"
        assert only_result(caller.create(bash("cat *.count"), environment)) == "xx\ny\n"


@pytest.mark.parametrize("end", ENDINGS)
def test_a_call_that_ended_meanwhile_is_not_lost(start_server: StartServer, end: Ending) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(bash("echo x >>count; echo begun; sleep 0.7; echo ended; wc -l <count"), environment)
        caller.await_output(running, "begun")
        end(server)
        _await_end_of(server, environment, "sleep 0.7")
        server.start()
        assert only_result(caller.wait(running)) == "begun\nended\n1\n"


@pytest.mark.parametrize("end", ENDINGS)
def test_a_model_that_was_interrupted_is_asked_again(start_server: StartServer, end: Ending) -> None:
    server = start_server()
    with server.caller() as caller:
        program = script(run_bash("echo x >>count"), {"sleep_ms": 1500, **run_bash("wc -l <count")}, {"text": "Done."})
        environment = caller.new_environment()
        with caller.stream(program, environment) as pieces:
            seen = b""
            for piece in pieces:
                seen += piece
                if seen.count(b"event: step.stop") == 2:
                    break
            interaction_id = next(streams.events([seen]))["interaction"]["id"]
        end(server)
        server.start()
        ended = caller.wait(interaction_id)
        assert ended["status"] == "completed"
        assert [text_of(step) for step in ended["steps"] if step["type"].endswith("_result")] == ["", "1\n"]
        assert caller.replay(interaction_id).startswith(seen)


def test_many_deltas_cut_by_sigkill_lose_nothing_that_was_seen(start_server: StartServer) -> None:
    server = start_server()
    text = "".join(f"{number} " for number in range(6_000))
    with server.caller() as caller:
        seen = b""
        with caller.stream(script({"text": text, "chunk": 5})) as pieces:
            for piece in pieces:
                seen += piece
                if len(seen) > 100_000:
                    break
            server.kill()
            # What is on its way when the server dies has been shown, so it must be stored.
            try:
                for piece in pieces:
                    seen += piece
            except httpx2.TransportError:
                pass
        interaction_id = next(streams.events([seen[: seen.index(b"\n\n") + 2]]))["interaction"]["id"]
        server.start()
        caller.wait(interaction_id)
        replayed = caller.replay(interaction_id)
        assert replayed.startswith(seen)
        steps, frame = streams.fold(streams.events([replayed]))
        assert frame["status"] == "completed"
        assert steps[-1]["content"][-1]["text"] == text


def test_open_streams_end_at_an_event_when_the_server_stops(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(bash("echo begun; sleep 3; echo ended"), environment)
        caller.await_output(running, "begun")
        with caller.tail(running) as pieces:
            first = next(pieces)
            before = time.monotonic()
            server.stop()
            assert time.monotonic() - before < 2
            rest = b"".join(pieces)
        cut = list(streams.frames([first + rest]))
        assert cut[-1][0] != "done"
        last_seen = json.loads(cut[-1][1])["event_id"]
        server.start()
        resumed = caller.replay(running, after=last_seen)
        steps, frame = streams.fold(streams.events([first + rest + resumed]))
        assert frame["status"] == "completed"
        assert steps[1]["result"] == "begun\nended\n"


def test_sigterm_ends_everything_in_time_and_the_next_server_goes_on(start_server: StartServer) -> None:
    size = 8
    server = start_server(POOL__SIZE=str(size), POOL__MAX_SIZE=str(size), POOL__REFILL_DELAY_S="0")
    program = bash("echo x >>count; echo begun; sleep 4; wc -l <count")
    with server.caller() as caller, ThreadPoolExecutor(3) as threads:
        running = [caller.start(program, "remote") for _ in range(6)]
        for each in running:
            caller.await_output(each, "begun")
        blocking = [threads.submit(_create_blocking, server, program) for _ in range(3)]
        deadline = time.monotonic() + 30
        while len(server.containers()) < 6 + 3 + size:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 5
        answers = [each.result() for each in blocking]
    assert [answer.status_code for answer in answers] == [200] * 3
    running += [answer.json()["id"] for answer in answers]
    assert len(server.containers()) == len(running), "the pool went with the server"
    assert not [line for line in server.log() if line.get("event") == "stop_cut_short"]
    server.start()
    with server.caller() as caller:
        for each in running:
            assert only_result(caller.wait(each)) == "begun\n1\n"


def _create_blocking(server: ServerProcess, program: str) -> httpx2.Response:
    request = {"agent": "general", "input": program, "environment": "remote"}
    return httpx2.post(f"{server.url}/v1beta/interactions", json=request, timeout=30)


def _readings(caller: Caller, interaction_id: str) -> tuple[bytes, bytes, bytes]:
    whole = caller.read_raw(interaction_id, include_input="true").content
    stream = caller.replay(interaction_id)
    middle = list(streams.events([stream]))[2]["event_id"]
    return whole, stream, caller.replay(interaction_id, after=middle)


def _stream_so_far(caller: Caller, interaction_id: str) -> bytes:
    with caller.tail(interaction_id) as pieces:
        seen = next(pieces)
    return seen[: seen.rindex(b"\n\n") + 2]


def _await_end_of(server: ServerProcess, environment_id: str, command: str) -> None:
    """Returns when a command of the sandbox has ended, seen from outside."""
    container = server.container(environment_id)
    try:
        for _ in range(100):
            if not any(command in " ".join(process) for process in container.top()["Processes"]):
                return
    finally:
        container.client.close()


def test_files_survive_a_restart_of_the_machine(start_server: StartServer) -> None:
    """What is left of it for us: containers that have ended, and nothing mounted."""
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment(bash("echo kept > file; echo mine > ~/file"))
        child = caller.http.post("/v1beta/environments", json={"from_environment": environment}).json()["id"]
    server.kill()
    server.container(environment).stop(timeout=1)
    server.unmount()
    server.start()
    with server.caller() as caller:
        assert only_result(caller.create(bash("cat file ~/file"), environment)) == "kept\nmine\n"
        assert only_result(caller.create(bash("cat file ~/file"), child)) == "kept\nmine\n"
