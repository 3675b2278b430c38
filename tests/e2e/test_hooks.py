"""Hooks in real containers: what they are asked, what they can stop, and what becomes of those that misbehave."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.programs import call, run_bash, script, text_of
from tests.e2e.server import ServerProcess
from tests.fakes.web_server import WebServer, answer

GATE = """import json, sys
asked = json.load(sys.stdin)
with open("/workspace/asked.jsonl", "a") as log:
    log.write(json.dumps(asked) + "\\n")
print("a complaint", file=sys.stderr)
is_denied = "secret" in json.dumps(asked["tool_call"]["args"])
print(json.dumps({"decision": "deny", "reason": "Secrets stay."} if is_denied else {"decision": "allow"}))
"""
RUN_GATE = "python3 /.agents/gate.py"


def environment(event: str, *commands: str, matcher: str = "*", timeout: float = 10) -> dict[str, Any]:
    hooks = [{"type": "command", "command": each, "timeout": timeout} for each in commands]
    files = {
        ".agents/hooks.json": json.dumps({"g": {event: [{"matcher": matcher, "hooks": hooks}]}}),
        ".agents/gate.py": GATE,
    }
    sources = [{"type": "inline", "target": target, "content": content} for target, content in files.items()]
    return {"type": "remote", "sources": sources}


def results(interaction: dict[str, Any]) -> list[str]:
    return [text_of(step) for step in interaction["steps"] if step["type"].endswith("_result")]


def test_a_gate_denies_by_tool_and_arguments(start_server: StartServer) -> None:
    program = script(
        run_bash("cat secret.txt || true; touch made"),
        run_bash("echo fine; ls made 2>&1 || true"),
        call("read_file", path="secret.txt"),
        run_bash("wc -l <asked.jsonl; tail -1 asked.jsonl"),
    )
    with start_server().caller() as caller:
        done = caller.create(program, environment("pre_tool_execution", RUN_GATE, matcher="code_execution"))
        denied, fine, unasked, asked = results(done)
        assert "denied the call: Secrets stay." in denied
        assert fine.startswith("fine\n")
        assert "No such file" in fine, "the denied call was made"
        assert "denied" not in unasked
        count, _, last = asked.partition("\n")
        assert count.strip() == "3"
        told = json.loads(last)
        assert told["tool_call"]["name"] == "code_execution"
        assert told["tool_call"]["args"]["language"] == "bash"
        assert told["environment_id"] == done["environment_id"]


MISBEHAVING = {
    "crash": "exit 3",
    "timeout": "sleep 60",
    "flood": "yes",
    "nonsense": "echo nonsense",
    "kill": "kill -9 -1",
}


@pytest.mark.parametrize("setting", ["allow", "deny"])
def test_hooks_that_misbehave_count_as_the_setting_says(start_server: StartServer, setting: str) -> None:
    server = start_server(HOOKS_ON_FAILURE=setting)
    with server.caller() as caller:
        for name, command in MISBEHAVING.items():
            done = caller.create(script(run_bash("echo made")), environment("pre_tool_execution", command, timeout=1))
            (result,) = results(done)
            assert done["status"] == "completed", name
            assert ("made\n" in result) == (setting == "allow"), (name, result)
    assert len([line for line in server.log() if line.get("event") == "hook_failed"]) == len(MISBEHAVING)


def test_hooks_are_asked_in_order_and_a_later_one_withholds_the_result(start_server: StartServer) -> None:
    say = 'echo {0} >>/workspace/order; echo \'{{"decision": "{1}"}}\''
    said = [say.format(1, "allow"), say.format(2, "deny"), say.format(3, "allow")]
    hooks = environment("post_tool_execution", *said, matcher="code_execution")
    with start_server().caller() as caller:
        program = script(run_bash("echo hidden; touch made"), call("list_files"), call("read_file", path="order"))
        result, listed, order = results(caller.create(program, hooks))
        assert "withholds its result" in result
        assert "hidden" not in result
        assert "made" in listed, "a hook after a call undoes nothing"
        assert order == "1\n2\n"


def test_an_agent_cannot_change_the_hooks_of_its_own_run(start_server: StartServer) -> None:
    program = script(run_bash("echo '{}' >/.agents/hooks.json && echo gone"), run_bash("cat secret"))
    with start_server().caller() as caller:
        gone, denied = results(caller.create(program, environment("pre_tool_execution", RUN_GATE)))
        assert gone == "gone\n"
        assert "Secrets stay." in denied


def test_an_address_is_asked_under_the_rules_of_the_environment(start_server: StartServer) -> None:
    def gate(request: BaseHTTPRequestHandler) -> None:
        told = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        asked.append(told)
        is_denied = "secret" in told["tool_call"]["args"]["code"]
        said = {"decision": "deny", "reason": "Secrets stay."} if is_denied else {"decision": "allow"}
        answer(request, json.dumps(said).encode())

    asked: list[dict[str, Any]] = []
    server = start_server(NETWORK_EXCEPTIONS='["127.0.0.1"]', HOOKS_ON_FAILURE="deny")
    with WebServer() as web, server.caller() as caller:
        web.pages["/gate"] = gate
        hook = {"type": "http", "url": f"{web.url}/gate", "headers": {"X-Source": "sandbox"}}
        text = json.dumps({"g": {"pre_tool_execution": [{"hooks": [hook]}]}})
        source = {"type": "inline", "target": ".agents/hooks.json", "content": text}
        spec: dict[str, Any] = {"type": "remote", "sources": [source]}
        done = caller.create(script(run_bash("echo fine"), run_bash("cat secret")), spec)
        fine, denied = results(done)
        assert fine == "fine\n"
        assert "denied the call: Secrets stay." in denied
        assert [each["environment_id"] for each in asked] == [done["environment_id"]] * 2
        assert web.requests[0][1]["x-source"] == "sandbox"

        shut = caller.create(script(run_bash("echo fine")), {**spec, "network": "disabled"})
        assert "lets nothing out" in results(shut)[0]
        elsewhere = {**spec, "sources": [{**source, "content": text.replace("127.0.0.1", "127.0.0.2")}]}
        assert "is not public" in results(caller.create(script(run_bash("echo fine")), elsewhere))[0]
        assert len(asked) == 2


@pytest.mark.parametrize("end", [ServerProcess.stop, ServerProcess.kill])
def test_a_hook_that_runs_over_a_restart_runs_once(start_server: StartServer, end: Any) -> None:
    slow = 'echo x >>/workspace/count; sleep 3; echo \'{"decision": "allow"}\''
    server = start_server()
    with server.caller() as caller:
        hooks = environment("pre_tool_execution", slow)
        made = caller.create(script({"text": "Ready."}), hooks)["environment_id"]
        running = caller.start(script(run_bash("cat count")), made)
        _await_hook(caller, running)
    end(server)
    server.start()
    with server.caller() as caller:
        assert results(caller.wait(running)) == ["x\n"]


def _await_hook(caller: Caller, interaction_id: str) -> None:
    deadline = time.monotonic() + 20
    while not any(each["kind"] == "hook.started" for each in caller.journal(interaction_id)):
        assert time.monotonic() < deadline, "no hook was asked"
        time.sleep(0.05)
