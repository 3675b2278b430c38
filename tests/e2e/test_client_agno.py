"""Agno's three ways to an agent of ours against a real server: only the base URL is changed."""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, python_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = python_program("agno_agents", AGNO_TELEMETRY="false")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_unary(saw: Saw) -> None:
    seen = saw("unary")
    assert (seen["status"], seen["text"], seen["thought"]) == ("COMPLETED", "One, two, three.", "Count first.")
    (code, counted, failed), (file, *_) = seen["tools"]
    assert (code, counted, failed, file) == ("code_execution", "1\n2\n3\n", False, "write_file")
    assert seen["tokens"] > 0


def test_stream(saw: Saw) -> None:
    seen = saw("stream")
    assert seen["text"] == "One, two, three."
    assert seen["tools"] == ["code_execution", "write_file"]
    assert seen["last"] == "RunCompleted"


@pytest.mark.parametrize("story", ["functions", "functions streamed"])
def test_functions_of_the_client(saw: Saw, story: str) -> None:
    seen = saw(story)
    assert seen["tools"] == [["Bonn", "sunny"], ["Oslo", "snow"], ["Rome", "rain"]]
    assert seen["text"] == "In Rome: rain"


def test_conversation_in_one_environment(saw: Saw) -> None:
    seen = saw("conversation")
    assert seen["previous"] is True
    assert seen["one_environment"] is True
    assert seen["tools"] == ["kept\n"]
    assert seen["remote_is_new"] is True


def test_a_model(saw: Saw) -> None:
    assert saw("as model") == {"status": "COMPLETED", "text": "Short.", "instruction": "Be brief."}


def test_without_a_record(saw: Saw) -> None:
    seen = saw("stateless")
    assert seen["text"] == "Short."
    assert not seen["id"]


def test_structured_output(saw: Saw) -> None:
    assert saw("structured") == {"class": "Forecast", "answer": {"city": "Bonn", "degrees": 21}}


def test_tools_that_reach_nothing(saw: Saw) -> None:
    seen = saw("offered")
    assert (seen["status"], seen["text"]) == ("COMPLETED", "Neither is there.")
    assert seen["tools"] == [["google_search", True], ["url_context", True]]


@pytest.mark.parametrize("named", ["agent", "environment"])
def test_errors(saw: Saw, named: str) -> None:
    status, message = saw("errors")[named]
    assert status == "ERROR"
    assert "404" in message
    assert f"'{named}'" in message


def test_antigravity_agent(saw: Saw) -> None:
    seen = saw("antigravity")
    assert seen["texts"] == ["Written.", "It says kept"]
    assert seen["streamed"] == "It says kept"
    assert seen["one_environment"] is True
    assert seen["went_on"] is True
    assert seen["refused"] == "ERROR"


def test_antigravity_agent_with_files(saw: Saw) -> None:
    assert "as agreed" in saw("antigravity seeded")["text"]


def test_antigravity_tools(saw: Saw) -> None:
    assert "kept" in saw("antigravity tools")["text"]
