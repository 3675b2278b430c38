"""A server that keeps sandboxes waiting: nobody gets another's, and none is forgotten."""

from __future__ import annotations

import time

from tests.e2e.conftest import StartServer
from tests.e2e.programs import bash, only_result
from tests.e2e.server import ServerProcess

SIZE = 2


def test_waiting_sandboxes_are_given_once_and_go_with_the_server(start_server: StartServer) -> None:
    server = start_server(POOL__SIZE=str(SIZE), POOL__MAX_SIZE=str(SIZE))
    _await_containers(server, SIZE)
    with server.caller() as caller:
        running = [
            caller.create(bash(f"echo {n} >mine; sleep 0.5; cat mine; hostname"), "remote", background=True)
            for n in range(3)
        ]
        environments = {each["environment_id"] for each in running}
        assert len(environments) == 3
        for number, each in enumerate(running):
            assert only_result(caller.wait(each["id"])) == f"{number}\nsandbox\n"
    _await_containers(server, 3 + SIZE)
    server.stop()
    left = server.containers()
    assert {container.name.removeprefix("corral-") for container in left} == environments, (
        "the pool went with the server"
    )
    server.start()
    _await_containers(server, 3 + SIZE)
    server.kill()
    server.start()
    with server.caller() as caller:
        for each in environments:
            assert only_result(caller.create(bash("wc -l <mine"), each)) == "1\n"
        fresh = caller.create(bash("ls"), "remote")
        assert only_result(fresh) == ""
    _await_containers(server, 4 + SIZE)


def _await_containers(server: ServerProcess, count: int) -> None:
    """Returns when the server has so many containers, and still has a moment later."""
    deadline = time.monotonic() + 15
    while len(server.containers()) != count:
        assert time.monotonic() < deadline, [container.name for container in server.containers()]
        time.sleep(0.1)
    time.sleep(0.3)
    assert len(server.containers()) == count
