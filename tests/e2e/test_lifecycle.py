"""The life of an environment that nobody uses, in real containers: paused, stopped, used again, deleted."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result, python
from tests.e2e.server import ServerProcess

_OFTEN = {"LIFECYCLE__SWEEP_INTERVAL_S": "0.2"}


def status(caller: Caller, environment: str) -> str | None:
    """What an operator sees; None if it is gone."""
    return {each["id"]: each["status"] for each in caller.ps()["environments"]}.get(environment)


def await_status(caller: Caller, environment: str, wanted: str | None, *, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while (seen := status(caller, environment)) != wanted:
        assert time.monotonic() < deadline, f"{seen}, and not {wanted}"
        time.sleep(0.05)


def states(server: ServerProcess) -> list[str]:
    return sorted(container.status for container in server.containers())


def test_paused_then_stopped_then_used_then_deleted(start_server: StartServer) -> None:
    stages = {"PAUSE_AFTER_S": "1", "STOP_AFTER_S": "3", "DELETE_AFTER_S": "7"}
    server = start_server(**_OFTEN, **{f"LIFECYCLE__{name}": value for name, value in stages.items()})
    with server.caller() as caller:
        environment = caller.new_environment(python("open('f', 'w').write('kept'); x = 41"))
        await_status(caller, environment, "paused")
        assert states(server) == ["paused"]
        assert only_result(caller.create(python("x + 1"), environment)) == "42\n", "it goes on where it was"
        await_status(caller, environment, "stopped")
        assert states(server) == ["exited"]
        began = time.monotonic()
        used = only_result(caller.create(bash("cat f"), environment))
        assert used.endswith("kept")
        assert time.monotonic() - began < 3
        await_status(caller, environment, None, within_s=25)
        assert states(server) == []
        assert caller.http.get(f"/v1/environments/{environment}").status_code == 404


def test_a_watch_keeps_an_environment_in_use(start_server: StartServer) -> None:
    server = start_server(**_OFTEN, LIFECYCLE__PAUSE_AFTER_S="0.5", LIFECYCLE__STOP_AFTER_S="1")
    with server.caller() as caller:
        environment = caller.new_environment()
        with caller.http.stream("GET", f"/ops/environments/{environment}/watch", timeout=20) as answer:
            lines = answer.iter_lines()
            next(lines)
            time.sleep(2.5)
            assert status(caller, environment) == "active"
        await_status(caller, environment, "stopped")


@pytest.mark.parametrize("stage", ["active", "paused", "stopped"])
def test_a_restart_in_each_stage(start_server: StartServer, stage: str) -> None:
    server = start_server(**_OFTEN)
    with server.caller() as caller:
        environment = caller.new_environment(bash("echo kept > f"))
        if stage != "active":
            server.stop()
            server.set(f"LIFECYCLE__{'PAUSE' if stage == 'paused' else 'STOP'}_AFTER_S", "0.3")
            server.start()
            await_status(caller, environment, stage)
    server.kill()
    server.set("LIFECYCLE__PAUSE_AFTER_S", "300")
    server.set("LIFECYCLE__STOP_AFTER_S", "900")
    server.start()
    with server.caller() as caller:
        assert status(caller, environment) == stage
        assert only_result(caller.create(bash("cat f"), environment)).endswith("kept\n")
        assert status(caller, environment) == "active"


def test_what_happened_while_no_server_ran_is_known_at_once(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        made = [caller.new_environment(bash("echo kept > f")) for _ in range(4)]
    server.kill()
    ended, removed, paused, _ = made
    for environment, deed in ((ended, "kill"), (removed, "rm --force"), (paused, "pause")):
        container = server.container(environment)
        subprocess.run(["docker", *deed.split(), container.id], check=True, capture_output=True)
        container.client.close()
    server.start()
    has_disks = (server.data_dir / "disks").exists()
    with server.caller() as caller:
        wanted = ["stopped", "stopped" if has_disks else "lost", "paused", "active"]
        for environment, each in zip(made, wanted, strict=True):
            await_status(caller, environment, each, within_s=2)
        for environment, each in zip(made, wanted, strict=True):
            if each != "lost":
                assert only_result(caller.create(bash("cat f"), environment)).endswith("kept\n")


def test_what_a_killed_server_had_asked_for_is_no_orphan(start_server: StartServer) -> None:
    """The engine goes on making containers for a client that is dead."""
    server = start_server(POOL__SIZE="6", POOL__REFILL_DELAY_S="0")
    with server.caller() as caller:
        running = [caller.start(bash("echo fine"), "remote") for _ in range(4)]
        time.sleep(0.25)
    server.kill()
    server.set("POOL__SIZE", "0")
    server.start()
    with server.caller() as caller:
        for each in running:
            assert only_result(caller.wait(each)) == "fine\n"
        deadline = time.monotonic() + 12
        while (count := len(server.containers())) > 4:
            assert time.monotonic() < deadline, f"{count} containers"
            time.sleep(0.2)
        disks = list(Path(server.data_dir, "disks").glob("**/sandboxes/*"))
        assert len(disks) <= 4, disks
