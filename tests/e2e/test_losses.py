"""What a sandbox loses when it begins anew between two calls: the model hears of it once, with the next result."""

from __future__ import annotations

import pytest

from tests.e2e.caller import Caller
from tests.e2e.programs import bash, only_result, run_bash, run_python, script
from tests.e2e.server import ServerProcess

TOLD = "[the sandbox was started again since your last call"


def kill_container(server: ServerProcess, environment: str) -> None:
    container = server.container(environment)
    container.kill()
    container.client.close()


def test_between_two_calls_of_a_run(server: ServerProcess, caller: Caller) -> None:
    environment = caller.new_environment()
    program = script(
        run_python("kept = open('kept', 'w').write('x'); print('begun', flush=True)"),
        {"sleep_ms": 2000, **run_python("'kept' in globals()")},
        run_bash("cat kept"),
        {"text": "On."},
    )
    running = caller.start(program, environment)
    caller.await_output(running, "begun")
    kill_container(server, environment)
    ended = caller.wait(running)
    assert ended["status"] == "completed"
    _, told, after = [step["result"] for step in ended["steps"] if step["type"] == "code_execution_result"]
    assert told.startswith(TOLD)
    assert told.endswith("\nFalse\n")
    assert after == "x", "it is told once"
    caller.delete_environment(environment)


@pytest.mark.parametrize("is_chained", [True, False])
def test_between_two_interactions_of_a_conversation(server: ServerProcess, caller: Caller, is_chained: bool) -> None:
    first = caller.create(bash("echo kept >kept"), "remote")
    environment = first["environment_id"]
    kill_container(server, environment)
    chain = {"previous_interaction_id": first["id"]} if is_chained else {}
    result = only_result(caller.create(bash("cat kept"), environment, **chain))
    assert result.startswith(TOLD) is is_chained, "who begins a conversation has nothing to lose"
    assert result.endswith("kept\n")
    caller.delete_environment(environment)
