"""Cancelling: at once, for everything that a call has started, and without damage to what others do."""

from __future__ import annotations

import threading
import time

import httpx2
import pytest

from tests.e2e import streams
from tests.e2e.caller import INTERACTIONS, Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, python, results, run_bash, script, text_of

SOON_S = 5.0
STUBBORN = "trap '' TERM INT HUP; nohup sleep 3001 >/dev/null 2>&1 & (setsid sleep 3002 &); echo begun; sleep 3003"


def test_cancel_of_a_long_command_leaves_no_process(caller: Caller, environment: str) -> None:
    program = bash(
        "sleep 3001 & (setsid sleep 3002 & ) ; nohup sleep 3003 >/dev/null 2>&1 &\n"
        "trap '' TERM INT HUP; echo begun; sleep 3004; sleep 3005"
    )
    running = caller.start(program, environment)
    caller.await_output(running, "begun")
    before = time.monotonic()
    answer = caller.cancel(running)
    assert time.monotonic() - before < SOON_S
    assert answer["status"] == "cancelled"
    assert caller.read(running)["status"] == "cancelled"
    assert "sleep 300" not in only_result(caller.create(bash("ps -eo args"), environment))


def test_cancelled_record_is_whole(caller: Caller, environment: str) -> None:
    running = caller.start(
        script({"text": "First.", **run_bash("echo begun; sleep 60")}, {"text": "Never."}), environment
    )
    caller.await_output(running, "begun")
    caller.cancel(running)
    stream = list(streams.events([caller.replay(running)]))
    steps, frame = streams.fold(stream)
    assert frame["status"] == "cancelled"
    assert [step["type"] for step in steps] == ["model_output", "code_execution_call", "code_execution_result"]
    assert steps[2]["call_id"] == steps[1]["id"]
    assert steps[2]["is_error"] is True
    assert [event["event_type"] for event in stream].count("interaction.completed") == 1
    assert "errors" not in caller.read(running)


def test_cancel_of_a_cell_keeps_the_interpreters_state(caller: Caller, environment: str) -> None:
    caller.create(python("kept = 'still here'"), environment)
    running = caller.start(python("import time\nprint('begun', flush=True)\ntime.sleep(60)"), environment)
    caller.await_output(running, "begun")
    caller.cancel(running)
    assert only_result(caller.create(python("print(kept)"), environment)) == "still here\n"


def test_cancel_of_a_cell_that_will_not_stop_says_that_state_is_lost(caller: Caller) -> None:
    own = caller.new_environment(python("kept = 1"))
    stubborn = (
        "import time\nprint('begun', flush=True)\nend = time.time() + 60\n"
        "while time.time() < end:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    )
    running = caller.start(python(stubborn), own)
    caller.await_output(running, "begun")
    before = time.monotonic()
    caller.cancel(running)
    assert time.monotonic() - before < SOON_S
    assert only_result(caller.create(python("'kept' in globals()"), own)) == "False\n"
    caller.delete_environment(own)


def test_cancel_of_a_queued_cell_leaves_the_running_one_alone(caller: Caller, environment: str) -> None:
    first = caller.start(python("import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('ended')"), environment)
    caller.await_output(first, "begun")
    second = caller.start(python("print('never')"), environment)
    time.sleep(0.3)
    assert caller.cancel(second)["status"] == "cancelled"
    ended = caller.wait(first)
    assert (ended["status"], only_result(ended)) == ("completed", "begun\nended\n")


def test_cancel_while_the_model_speaks(caller: Caller) -> None:
    running = caller.start(script({"sleep_ms": 60_000, "text": "Late."}))
    before = time.monotonic()
    assert caller.cancel(running)["status"] == "cancelled"
    assert time.monotonic() - before < SOON_S


def test_cancel_while_the_sandbox_starts_leaves_a_usable_environment(caller: Caller) -> None:
    begun = caller.create(bash("sleep 60"), "remote", background=True)
    assert caller.cancel(begun["id"])["status"] == "cancelled"
    assert only_result(caller.create(bash("echo usable"), begun["environment_id"])) == "usable\n"
    caller.delete_environment(begun["environment_id"])


@pytest.mark.parametrize("spelling", ["/cancel", ":cancel"])
def test_cancel_twice_and_after_the_end_changes_nothing(caller: Caller, environment: str, spelling: str) -> None:
    finished = caller.create(bash("echo finished"), environment)
    before = caller.read_raw(finished["id"]).content
    for _ in range(2):
        answer = caller.http.post(f"{INTERACTIONS}/{finished['id']}{spelling}", json={})
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert caller.read_raw(finished["id"]).content == before
    running = caller.start(bash("sleep 60"), environment)
    statuses = [caller.http.post(f"{INTERACTIONS}/{running}{spelling}").json()["status"] for _ in range(2)]
    assert statuses == ["cancelled", "cancelled"]


def test_cancel_at_any_moment_leaves_one_end(caller: Caller, environment: str) -> None:
    """Cancels race with the run's own end; whoever wins, the record has one end and stays as it is."""
    for delay_ms in range(0, 60, 4):
        begun = caller.start(script(run_bash("true"), {"text": "Done."}), environment)
        time.sleep(delay_ms / 1000)
        status = caller.cancel(begun)["status"]
        stream = list(streams.events([caller.replay(begun)]))
        ends = [each["interaction"]["status"] for each in stream if each["event_type"] == "interaction.completed"]
        assert ends == [status], f"cancelled after {delay_ms} ms"
        assert caller.read(begun)["status"] == status
        steps, _ = streams.fold(stream)
        assert len(results({"steps": steps})) == sum(step["type"].endswith("_call") for step in steps)


def test_reader_sees_the_end_of_a_cancelled_run(caller: Caller, environment: str) -> None:
    with caller.stream(bash("echo begun; sleep 60"), environment) as pieces:
        events = streams.events(pieces)
        running = next(events)["interaction"]["id"]
        caller.await_output(running, "begun")
        caller.cancel(running)
        *_, last = events
    assert (last["event_type"], last["interaction"]["status"]) == ("interaction.completed", "cancelled")


def test_cancelled_commands_output_is_kept(caller: Caller, environment: str) -> None:
    running = caller.start(bash("echo before the cut; sleep 60"), environment)
    caller.await_output(running, "before the cut")
    caller.cancel(running)
    (result,) = results(caller.read(running))
    assert "cancelled" in text_of(result)
    assert any("before the cut" in str(entry["body"]) for entry in caller.journal(running))


def test_cancel_of_a_run_that_a_killed_server_left_ends_its_processes(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(bash(STUBBORN), environment)
        caller.await_output(running, "begun")
    server.kill()
    server.start()
    with server.caller() as caller:
        assert caller.cancel(running)["status"] == "cancelled"
        assert "sleep 300" not in only_result(caller.create(bash("ps -eo args"), environment))


def test_cancel_outlives_a_server_that_is_killed_meanwhile(start_server: StartServer) -> None:
    """Wherever in a cancel the server dies: once the wish is stored the next one fulfils it."""
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
    for delay_ms in (1, 4, 12, 30, 80):
        with server.caller() as caller:
            running = caller.start(bash(STUBBORN), environment)
            caller.await_output(running, "begun")
            asking = threading.Thread(target=_ask_to_cancel, args=(caller, running))
            asking.start()
            time.sleep(delay_ms / 1000)
            server.kill()
            asking.join()
        server.start()
        with server.caller() as caller:
            if caller.read(running)["status"] == "in_progress":
                time.sleep(1.0)  # a wish that was stored is being fulfilled
            if caller.read(running)["status"] == "in_progress":
                caller.cancel(running)
            assert caller.read(running)["status"] == "cancelled"
            assert "sleep 300" not in only_result(caller.create(bash("ps -eo args"), environment)), delay_ms


def _ask_to_cancel(caller: Caller, interaction_id: str) -> None:
    try:
        caller.http.post(f"{INTERACTIONS}/{interaction_id}/cancel")
    except httpx2.HTTPError:
        return  # the server was killed


def test_deleting_an_environment_ends_what_runs_in_it(caller: Caller) -> None:
    own = caller.new_environment()
    running = caller.start(bash(STUBBORN), own)
    caller.await_output(running, "begun")
    caller.delete_environment(own)
    assert caller.wait(running)["status"] in ("cancelled", "failed")
