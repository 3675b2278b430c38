"""Functions of the client: an interaction stops and waits, and the next one goes on with the client's answer."""

from __future__ import annotations

from tests.e2e import streams
from tests.e2e.caller import AGENT, INTERACTIONS, Caller, Json
from tests.e2e.conftest import StartServer
from tests.e2e.programs import call, run_bash, script, text_of

TOOLS = [
    {"type": "code_execution"},
    {"type": "function", "name": "get_weather", "parameters": {"type": "object"}},
]
PROGRAM = script(
    run_bash("echo before >place"), call("get_weather", city="Bonn"), run_bash("cat place"), {"text": "{{last}}"}
)


def answer(caller: Caller, asked: Json, result: object) -> Json:
    (question,) = [step for step in asked["steps"] if step["type"] == "function_call"]
    given = [{"type": "function_result", "call_id": question["id"], "name": question["name"], "result": result}]
    body = {"agent": AGENT, "input": given, "previous_interaction_id": asked["id"], "tools": TOOLS}
    made = caller.http.post(INTERACTIONS, json=body)
    assert made.status_code == 200, made.text
    found: Json = made.json()
    return found


def test_a_function_is_carried_out_by_the_client(caller: Caller, environment: str) -> None:
    asked = caller.create(PROGRAM, environment, tools=TOOLS)
    assert asked["status"] == "requires_action"
    assert (asked["steps"][-1]["name"], asked["steps"][-1]["arguments"]) == ("get_weather", {"city": "Bonn"})
    *_, last = streams.events([caller.replay(asked["id"])])
    assert (last["event_type"], last["interaction"]["status"]) == ("interaction.completed", "requires_action")
    ended = answer(caller, asked, {"sky": "blue"})
    assert ended["status"] == "completed"
    assert ended["environment_id"] == environment
    assert [text_of(step) for step in ended["steps"] if step["type"].endswith("_result")] == ["before\n"]
    assert caller.cancel(asked["id"])["status"] == "requires_action", "it never changes again"


def test_a_waiting_interaction_waits_also_across_a_restart(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        asked = caller.create(PROGRAM, "remote", tools=TOOLS)
        before = caller.read_raw(asked["id"]).content
    server.kill()
    server.start()
    with server.caller() as caller:
        assert caller.read_raw(asked["id"]).content == before
        assert answer(caller, asked, "sunny")["status"] == "completed"
