"""`corral agents` against a fake server: what is sent, printed and returned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.wire_server import FakeServer, answer, completed, created, refusal, sse, step
from tests.unit.cli.conftest import Corral

TEXT = """\
id: clerk
description: Reconciles.
instructions: |
  Be brief.
  Be kind.
tools:
  - type: code_execution
environment:
  env: {TOKEN: s3cr3t}
examples:
  - {name: first, prompt: Say hello., expect: [HELLO]}
  - Say goodbye.
"""


@pytest.fixture
def clerk(folder: Path) -> Path:
    place = folder / "clerk"
    (place / "workspace").mkdir(parents=True)
    (place / "agent.yaml").write_text(TEXT)
    (place / "AGENTS.md").write_text("# Rules\n")
    (place / "workspace/a.csv").write_text("1,2\n")
    return place


def deployed(version: int = 3, **fields: Any) -> dict[str, Any]:
    agent = {"id": "clerk", "owner": "project", "version": version, "description": "Reconciles."}
    return {**agent, "updated": "2026-11-20T09:00:00Z", **fields}


# folders


def test_a_new_folder_is_right_and_can_be_deployed(corral: Corral, folder: Path) -> None:
    made = corral("agents", "init", "my-clerk")
    assert made.code == 0
    assert "corral agents deploy my-clerk" in made.out
    assert corral("agents", "validate", "my-clerk").out.startswith("my-clerk: my-clerk is right; 0 files")
    again = corral("agents", "init", "my-clerk")
    assert (again.code, again.err) == (2, "corral: my-clerk exists already\n")


@pytest.mark.parametrize(
    ("name", "said"), [("gemini-x", "are reserved"), ("My_Clerk", "lowercase letters"), ("../x", "lowercase letters")]
)
def test_a_new_folder_has_the_name_of_an_agent(corral: Corral, folder: Path, name: str, said: str) -> None:
    outcome = corral("agents", "init", name)
    assert outcome.code == 2
    assert said in outcome.err
    assert not (folder / name).exists()


def test_a_new_folder_may_begin_as_an_agent_that_comes_along_or_another_folder(
    corral: Corral, folder: Path, clerk: Path
) -> None:
    assert corral("agents", "init", "mine", "--template", "general").code == 0
    assert (folder / "mine/AGENTS.md").read_text().startswith("You are")
    assert json.loads(corral("agents", "validate", "--json", "mine").out)["id"] == "mine"
    assert corral("agents", "init", "other", "--template", str(clerk)).code == 0
    assert (folder / "other/workspace/a.csv").is_file()
    outcome = corral("agents", "init", "third", "--template", "nothing")
    assert outcome.code == 2
    assert "those that come with Corral: " in outcome.err
    assert "general" in outcome.err


def test_a_fault_is_told_with_file_and_line(corral: Corral, clerk: Path) -> None:
    for text, line, said in (
        (TEXT.replace("description", "descripton"), 2, "closest known name: 'description'"),
        (TEXT.replace("code_execution", "computer_use"), 7, "Not supported: 'tools[0].type' 'computer_use'"),
        (TEXT.replace("id: clerk", "id: google-clerk"), 1, "are reserved"),
    ):
        (clerk / "agent.yaml").write_text(text)
        outcome = corral("agents", "validate", "clerk")
        assert outcome.code == 2
        assert outcome.err.startswith(f"corral: clerk/agent.yaml:{line}: ")
        assert said in outcome.err


def test_secrets_that_are_left_out_are_told(corral: Corral, clerk: Path) -> None:
    (clerk / ".env").write_text("A=1")
    outcome = corral("agents", "validate", "clerk")
    assert outcome.code == 0
    assert outcome.err == "corral: clerk/.env is left out: secrets do not go into sandboxes\n"


# deploying


def test_creating_sends_the_whole_folder(corral: Corral, clerk: Path) -> None:
    server = FakeServer(answer(deployed(1)))
    outcome = corral("agents", "create", "clerk", server=server)
    assert (outcome.code, outcome.out) == (0, "clerk: version 1\n")
    assert [(each.method, each.url.path) for each in server.requests] == [("POST", "/v1beta/agents")]
    assert server.body() == {
        "id": "clerk",
        "description": "Reconciles.",
        "system_instruction": "Be brief.\nBe kind.\n",
        "tools": [{"type": "code_execution"}],
        "base_environment": {
            "type": "remote",
            "sources": [
                {"type": "inline", "target": "workspace/a.csv", "content": "1,2\n"},
                {"type": "inline", "target": ".agents/AGENTS.md", "content": "# Rules"},
            ],
            "env": {"TOKEN": {"value": "s3cr3t"}},
        },
    }


def test_a_dry_run_asks_nobody(corral: Corral, clerk: Path) -> None:
    server = FakeServer()
    for command in (("create",), ("deploy",), ("test", "--prompt", "hi")):
        outcome = corral("agents", *command, "clerk", "--dry-run", server=server)
        assert outcome.code == 0
        request = json.loads(outcome.out)
        assert request["method"] == "POST"
        assert "1,2\n" in str(request["body"]) or "1,2\\n" in str(request["body"])
    assert server.requests == []


def test_deploying_creates_what_is_new(corral: Corral, clerk: Path) -> None:
    server = FakeServer(refusal(404, "not_found", "Agent 'clerk' not found."), answer(deployed(1)))
    outcome = corral("agents", "deploy", "clerk", server=server)
    assert (outcome.code, outcome.out) == (0, "clerk: version 1\n")
    assert [each.method for each in server.requests] == ["GET", "POST"]


def test_deploying_changes_what_is_there_as_a_whole(corral: Corral, clerk: Path) -> None:
    server = FakeServer(answer(deployed(3)), answer(deployed(4)))
    outcome = corral("agents", "deploy", "clerk", server=server)
    assert outcome.out == "clerk: version 4\n"
    assert [(each.method, each.url.path) for each in server.requests][1] == ("PATCH", "/v1beta/agents/clerk")
    body = server.body(1)
    assert (body["agent_config"], body["base_agent"], body["description"]) == (None, None, "Reconciles.")
    assert "id" not in body
    same = FakeServer(answer(deployed(3)), answer(deployed(3)))
    assert corral("agents", "deploy", "clerk", server=same).out == "clerk: version 3, unchanged\n"


def test_a_refusal_is_led_back_to_the_file(corral: Corral, clerk: Path) -> None:
    for field, place in (("tools[0].type", "agent.yaml:7"), ("base_environment.sources[0]", "workspace/a.csv")):
        fault = refusal(400, "not_supported", f"Not supported: '{field}'.")
        outcome = corral("agents", "create", "clerk", server=FakeServer(fault))
        assert outcome.code == 2
        assert outcome.err == f"corral: clerk/{place}: Not supported: '{field}'. [400 not_supported]\n"
    taken = FakeServer(refusal(409, "aborted", "Agent 'clerk' exists already."))
    assert corral("agents", "create", "clerk", server=taken).err == (
        "corral: Agent 'clerk' exists already. [409 aborted]\n"
    )


def test_the_difference_is_shown_line_by_line(corral: Corral, clerk: Path) -> None:
    there = deployed(
        system_instruction="Be brief.\nBe rude.\n",
        tools=[{"type": "code_execution"}],
        base_environment={
            "type": "remote",
            "sources": [
                {"type": "inline", "target": ".agents/AGENTS.md", "content": "# Rules"},
                {"type": "inline", "target": "workspace/a.csv", "content": "1,2\n"},
            ],
        },
    )
    outcome = corral("agents", "diff", "clerk", server=FakeServer(answer(there)))
    assert outcome.code == 1
    changed = [line for line in outcome.out.splitlines() if line[0] in "+-"]
    assert changed == ["--- deployed, version 3", "+++ clerk", "-  Be rude.", "+  Be kind."]
    same = {**there, "system_instruction": "Be brief.\nBe kind.\n"}
    outcome = corral("agents", "diff", "clerk", server=FakeServer(answer(same)))
    assert (outcome.code, outcome.out) == (0, "")
    outcome = corral("agents", "diff", "clerk", server=FakeServer(refusal(404, "not_found", "x")))
    assert outcome.code == 1
    assert outcome.out.startswith("--- not deployed\n")
    assert "+base_environment.sources[workspace/a.csv].content:\n+  1,2\n" in outcome.out


# trying


def test_trying_says_in_one_call_what_the_agent_would(corral: Corral, clerk: Path) -> None:
    text = step(0, {"type": "model_output", "content": []}, {"type": "text", "text": "Hello"})
    server = FakeServer(sse(created(), *text, completed()))
    outcome = corral("agents", "test", "clerk", "--prompt", "Say hello.", server=server)
    assert outcome.code == 0
    assert "Hello" in outcome.out
    body = server.body()
    assert (body["agent"], body["input"], body["stream"]) == ("general", "Say hello.", True)
    assert body["system_instruction"].startswith("Be brief.")
    assert len(body["environment"]["sources"]) == 2
    server = FakeServer(sse(created(), completed("incomplete")))
    outcome = corral("agents", "test", "clerk", "--prompt", "x", "--env", "e1", "--previous", "v1_abc", server=server)
    assert outcome.code == 4
    assert (server.body()["environment"], server.body()["previous_interaction_id"]) == ("e1", "v1_abc")


def test_a_folder_with_setup_is_tried_deployed(corral: Corral, clerk: Path) -> None:
    text = TEXT.replace("environment:\n", "environment:\n  setup: [make tools]\n")
    (clerk / "agent.yaml").write_text(text)
    for command in (("test", "clerk", "--prompt", "x"), ("examples", "run", "clerk")):
        outcome = corral("agents", *command)
        assert outcome.code == 2
        assert "an agent with 'setup' cannot be tried without deploying it" in outcome.err
    server = FakeServer(*ran("Hello"))
    assert corral("agents", "examples", "run", "clerk", "--deployed", "--only", "first", server=server).code == 0
    server = FakeServer(answer(deployed()))
    assert "+base_environment.setup[0]: make tools\n" in corral("agents", "diff", "clerk", server=server).out


def ran(text: str, status: str = "completed") -> list[Any]:
    """The answers to one example: its stream, the interaction, the end of its environment."""
    interaction = {**created()["interaction"], "status": status, "output_text": text}
    return [sse(created(), completed(status)), answer(interaction), answer({})]


def test_examples_are_right_if_their_answers_hold_what_is_expected(corral: Corral, clerk: Path) -> None:
    server = FakeServer(*ran("Hello there"), *ran("Bye"))
    outcome = corral("agents", "examples", "run", "clerk", server=server)
    assert outcome.code == 0
    assert [line.split("  ")[0] for line in outcome.out.splitlines()] == ["✓ first", "✓ Say goodbye."]
    assert [each.method for each in server.requests] == ["POST", "GET", "DELETE"] * 2
    assert server.body()["agent"] == "general"


def test_examples_that_are_wrong_say_why(corral: Corral, clerk: Path) -> None:
    server = FakeServer(*ran("Good day"), *ran("", "failed"))
    outcome = corral("agents", "examples", "run", "clerk", "--deployed", server=server)
    assert outcome.code == 1
    assert "✗ first" in outcome.out
    assert "the answer does not hold 'HELLO'" in outcome.out
    assert "it said: Good day" in outcome.out
    assert "it ended as failed" in outcome.out
    assert (server.body()["agent"], server.body()["environment"]) == ("clerk", "remote")


def test_one_example_may_be_chosen(corral: Corral, clerk: Path) -> None:
    server = FakeServer(*ran("hello"))
    assert corral("agents", "examples", "run", "clerk", "--only", "first", "--json", server=server).code == 0
    outcome = corral("agents", "examples", "run", "clerk", "--only", "none")
    assert (outcome.code, outcome.err) == (2, "corral: clerk: there is no example 'none'\n")


# agents of the project


def test_all_pages_are_listed(corral: Corral) -> None:
    pages = (
        {"agents": [deployed(description="evil\x1b]0;x\x07")], "next_page_token": "t"},
        {"agents": [{"id": "general", "owner": "server"}]},
    )
    server = FakeServer(*map(answer, pages))
    outcome = corral("agents", "list", server=server)
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows == [
        ["ID", "VERSION", "BASE", "DESCRIPTION"],
        ["clerk", "3", "-", "evil"],
        ["general", "server", "-", "-"],
    ]
    assert server.requests[1].url.params["page_token"] == "t"
    server = FakeServer(*map(answer, pages))
    assert len(json.loads(corral("agents", "list", "--json", server=server).out)["agents"]) == 2


def test_a_version_is_shown_and_gone_back_to(corral: Corral) -> None:
    server = FakeServer(answer(deployed()), answer(deployed(2)))
    assert json.loads(corral("agents", "get", "clerk", server=server).out) == deployed()
    assert json.loads(corral("agents", "get", "clerk@2", server=server).out) == deployed(2)
    assert [each.url.path for each in server.requests] == ["/v1beta/agents/clerk", "/v1beta/agents/clerk/versions/2"]
    server = FakeServer(answer(deployed(4)))
    assert corral("agents", "rollback", "clerk", "2", server=server).out == "clerk: version 4\n"
    assert server.body() == {"version": 2}
    server = FakeServer(answer({"agentVersions": [deployed(2), deployed(1)]}))
    lines = corral("agents", "versions", "clerk", server=server).out.splitlines()
    assert [line.split()[0] for line in lines] == ["VERSION", "2", "1"]


def test_agents_are_deleted(corral: Corral) -> None:
    server = FakeServer(answer({}), answer({}))
    assert corral("agents", "delete", "a", "b/c", server=server).out == "a\nb/c\n"
    assert [str(each.url.raw_path, "ascii") for each in server.requests] == [
        "/v1beta/agents/a",
        "/v1beta/agents/b%2Fc",
    ]
