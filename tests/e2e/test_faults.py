"""What the platform does wrong: the run fails and says why, the server goes on, nothing that is stored is lost."""

from __future__ import annotations

import time

import pytest

from orchestrator.config import Settings
from tests.e2e import streams
from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, python, run_bash, script
from tests.e2e.server import ServerProcess


def test_container_killed_in_mid_call_is_started_again_and_the_model_is_told(
    server: ServerProcess, caller: Caller
) -> None:
    environment = caller.new_environment(bash("echo kept >kept"))
    program = script(
        {"text": "So far."} | run_bash("echo x >>count; echo begun; sleep 60"),
        run_bash("cat kept count"),
        {"text": "On."},
    )
    with caller.stream(program, environment) as pieces:
        events = streams.events(pieces)
        running = next(events)["interaction"]["id"]
        caller.await_output(running, "begun")
        container = server.container(environment)
        before = time.monotonic()
        container.kill()
        container.client.close()
        rest = list(events)
    assert time.monotonic() - before < 10
    assert rest[-1]["interaction"]["status"] == "completed"
    lost, after = [step for step in caller.read(running)["steps"] if step["type"] == "code_execution_result"]
    assert lost["is_error"]
    assert "not known how far" in lost["result"]
    assert after["result"] == "kept\nx\n", "its files are still there, and the lost call was not repeated"
    assert caller.http.get("/healthz").status_code == 200
    caller.delete_environment(environment)


def test_container_removed_from_outside_is_made_again_around_its_disk(server: ServerProcess, caller: Caller) -> None:
    environment = caller.new_environment(bash("echo kept >kept"))
    skip_without_disks(caller, environment)
    remove_container(server, environment)
    assert only_result(caller.create(bash("cat kept"), environment)) == "kept\n"
    assert caller.http.get(f"/v1/environments/{environment}").json()["status"] == "active"
    caller.delete_environment(environment)


def test_container_removed_in_mid_call_is_made_again_and_the_model_is_told(
    server: ServerProcess, caller: Caller
) -> None:
    environment = caller.new_environment()
    skip_without_disks(caller, environment)
    running = caller.start(script(run_bash("echo x >count; echo begun; sleep 60"), run_bash("cat count")), environment)
    caller.await_output(running, "begun")
    remove_container(server, environment)
    ended = caller.wait(running, timeout_s=15)
    lost, after = [step for step in ended["steps"] if step["type"] == "code_execution_result"]
    assert "not known how far" in lost["result"]
    assert after["result"].endswith("x\n")
    caller.delete_environment(environment)


def test_container_removed_with_its_layer_is_said_and_can_be_cleaned_up(start_server: StartServer) -> None:
    server = start_server(STORAGE="layers")
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(bash("echo begun; sleep 60"), environment)
        caller.await_output(running, "begun")
        remove_container(server, environment)
        ended = caller.wait(running, timeout_s=15)
        assert ended["errors"][0]["code"] == "sandbox_gone"
        assert only_result(ended).startswith("[no result: ")
        failed = caller.create(bash("true"), environment)
        assert failed["status"] == "failed"
        assert failed["errors"][0]["code"] == "sandbox_gone"
        assert environment in failed["errors"][0]["message"]
        assert caller.http.get(f"/v1/environments/{environment}").json()["status"] == "expired"


def remove_container(server: ServerProcess, environment: str) -> None:
    container = server.container(environment)
    container.remove(force=True)
    container.client.close()


def skip_without_disks(caller: Caller, environment: str) -> None:
    figures = caller.http.get(f"/ops/environments/{environment}/usage").json()
    if figures["disk_used_bytes"] is None:
        pytest.skip("sandboxes have no disks here: their files are gone with the container")


def test_guest_killed_from_outside_is_started_again_and_the_model_is_told(
    server: ServerProcess, caller: Caller
) -> None:
    environment = caller.new_environment()
    running = caller.start(bash("echo begun; sleep 60"), environment)
    caller.await_output(running, "begun")
    container = server.container(environment)
    # The first process of a container cannot be killed from within; the guest is its child.
    container.exec_run(["pkill", "-9", "-P", "1", "-f", "guest.main"], user="0:0")
    container.client.close()
    ended = caller.wait(running, timeout_s=10)
    assert "not known how far" in only_result(ended)
    assert ended["status"] == "completed"
    assert only_result(caller.create(bash("echo again"), environment)) == "again\n"
    caller.delete_environment(environment)


def test_sandbox_paused_in_mid_call_is_waited_for(server: ServerProcess, caller: Caller) -> None:
    environment = caller.new_environment()
    running = caller.start(bash("echo begun; sleep 1; echo thawed"), environment)
    caller.await_output(running, "begun")
    container = server.container(environment)
    container.pause()
    time.sleep(2)
    assert caller.read(running)["status"] == "in_progress"
    container.unpause()
    container.client.close()
    assert only_result(caller.wait(running)) == "begun\nthawed\n"
    caller.delete_environment(environment)


def test_sandbox_paused_by_somebody_is_used_nevertheless(start_server: StartServer) -> None:
    server = start_server(LIFECYCLE__SWEEP_INTERVAL_S="0.2")
    with server.caller() as caller:
        environment = caller.new_environment()
        container = server.container(environment)
        container.pause()
        container.client.close()
        await_status(caller, environment, "paused")
        assert only_result(caller.create(bash("echo thawed"), environment)) == "thawed\n"


def await_status(caller: Caller, environment: str, status: str) -> None:
    deadline = time.monotonic() + 10
    while (seen := {each["id"]: each["status"] for each in caller.ps()["environments"]}[environment]) != status:
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.05)


def test_missing_image_fails_the_run_and_says_so(start_server: StartServer) -> None:
    server = start_server(IMAGE="corral/nope:latest")
    with server.caller() as caller:
        for _ in range(2):
            failed = caller.create(bash("true"), "remote")
            assert failed["status"] == "failed"
            (error,) = failed["errors"]
            assert error["code"] == "image_missing"
            assert "corral/nope:latest" in error["message"]
            assert caller.read(failed["id"])["errors"] == [error]
        assert caller.create("Hello.")["status"] == "completed", "a run that needs no sandbox runs"
        assert caller.http.get("/readyz").status_code == 200
        assert server.containers() == []


@pytest.mark.parametrize("engine_url", ["unix:///nonexistent/engine.sock", "tcp://127.0.0.1:1"])
def test_without_an_engine_runs_fail_and_the_server_answers(start_server: StartServer, engine_url: str) -> None:
    server = start_server(ENGINE_URL=engine_url)
    with server.caller() as caller:
        failed = caller.create(script({"text": "So far."} | run_bash("true")), "remote")
        assert failed["status"] == "failed"
        assert failed["errors"][0]["code"] == "engine_unavailable"
        assert engine_url.partition("://")[2].partition(":")[0] in failed["errors"][0]["message"]
        assert failed["steps"][0]["content"] == [{"type": "text", "text": "So far."}]
        assert caller.create("Hello.")["status"] == "completed"
        assert caller.http.get("/healthz").status_code == 200
        # Nobody can know whether the engine made something before it went away: the deletion waits for it.
        deletion = caller.http.delete(f"/v1/environments/{failed['environment_id']}")
        assert (deletion.status_code, deletion.json()["error"]["code"]) == (503, "engine_unavailable")
        assert caller.environments() == []


def test_engine_that_comes_back_is_used_again(start_server: StartServer, engine: Settings) -> None:
    """An environment from the time without an engine works once there is one."""
    server = start_server(ENGINE_URL="unix:///nonexistent/engine.sock")
    with server.caller() as caller:
        failed = caller.create(bash("echo now"), "remote")
    server.stop()
    server.set("ENGINE_URL", engine.engine_url)
    server.start()
    with server.caller() as caller:
        assert only_result(caller.create(bash("echo now"), failed["environment_id"])) == "now\n"
        assert caller.read(failed["id"])["errors"][0]["code"] == "engine_unavailable"


def test_sources_that_cannot_be_written_fail_the_run(caller: Caller) -> None:
    long_name = {"type": "inline", "target": "workspace/" + "x" * 300, "content": "x"}
    failed = caller.create(bash("true"), {"type": "remote", "sources": [long_name]})
    assert failed["status"] == "failed"
    assert failed["errors"][0]["code"] == "source_failed"
    assert "too long" in failed["errors"][0]["message"]
    caller.delete_environment(failed["environment_id"])


def test_two_servers_cannot_share_a_data_folder(start_server: StartServer) -> None:
    server = start_server()
    second = server.cli("serve", "--port", "0", timeout_s=20)
    assert second.returncode == 2
    assert str(server.data_dir) in second.stderr
    with server.caller() as caller:
        assert caller.create("x")["status"] == "completed"


def test_a_cell_that_kills_everything_it_can_leaves_the_sandbox_usable(caller: Caller) -> None:
    environment = caller.new_environment()
    killed = caller.create(bash("kill -9 -1"), environment)
    assert killed["status"] == "completed"
    assert "signal 9" in only_result(killed)
    assert only_result(caller.create(python("'usable'"), environment)) == "'usable'\n"
    caller.delete_environment(environment)
