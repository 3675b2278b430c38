"""The Vercel AI SDK's `google.interactions` against a real server: only the provider's base URL is changed.

Its parser is the strictest of all clients: every answer and event is checked against a schema.
"""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, javascript_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = javascript_program("vercel", "@ai-sdk/google")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_unary(saw: Saw) -> None:
    seen = saw("unary")
    assert (seen["finish"], seen["text"], seen["thought"]) == ("stop", "One, two, three.", "Count first.")
    assert (seen["calls"], seen["results"]) == ([["code_execution", True]], ["code_execution"])
    assert (seen["has_id"], seen["has_environment"]) == (True, False)
    assert seen["tokens"] > 0
    assert seen["warnings"] == []


@pytest.mark.parametrize("story", ["stream", "stream in the background"])
def test_stream(saw: Saw, story: str) -> None:
    seen = saw(story)
    assert seen["errors"] == []
    assert (seen["finish"], seen["text"], seen["thought"]) == ("stop", "One, two, three.", "Count first.")
    assert {"reasoning-delta", "tool-call", "tool-result", "text-delta", "finish"} <= set(seen["kinds"])
    assert seen["has_id"] is True
    assert seen["tokens"] > 0


def test_the_servers_file_tools_look_like_functions_of_the_client(saw: Saw) -> None:
    assert saw("files") == {"text": "One, two, three.", "finish": "tool-calls"}


def test_a_run_in_the_background_is_polled(saw: Saw) -> None:
    seen = saw("poll")
    assert seen["finish"] == "stop"
    assert "done" in seen["text"]


def test_an_aborted_call_is_cancelled(saw: Saw) -> None:
    assert saw("abort") == {"status": "cancelled"}


def test_conversation_in_one_environment(saw: Saw) -> None:
    seen = saw("conversation")
    assert "kept" in seen["text"]
    assert seen["previous"] is True
    assert seen["one_environment"] is True


@pytest.mark.parametrize("story", ["functions", "functions streamed"])
def test_functions_of_the_client(saw: Saw, story: str) -> None:
    assert saw(story) == {
        "cities": ["Bonn", "Oslo", "Rome"],
        "text": "In Rome: rain",
        "finish": "stop",
        "errors": [],
    }


def test_functions_need_a_stream_where_an_agent_is_named(saw: Saw) -> None:
    assert "timed out polling" in saw("functions of an agent, polled")


def test_without_a_record(saw: Saw) -> None:
    assert saw("stateless") == {"finish": "stop", "has_id": False, "streamed": [True, "stop"]}


def test_structured_output(saw: Saw) -> None:
    assert saw("structured") == {"city": "Bonn", "degrees": 21}


def test_tools_that_reach_nothing(saw: Saw) -> None:
    seen = saw("offered")
    assert (seen["finish"], seen["text"]) == ("stop", "Neither is there.")
    assert seen["calls"] == ["google_search", "url_context"]


@pytest.mark.parametrize(
    ("attempt", "status", "named"),
    [("agent", 404, "'agent'"), ("environment", 404, "'environment'"), ("label", 400, "labels")],
)
def test_errors(saw: Saw, attempt: str, status: int, named: str) -> None:
    seen = saw("errors")[attempt]
    assert (seen["name"], seen["status"]) == ("AI_APICallError", status), seen
    assert named in seen["body"]
    assert seen["message"] == {404: "Not Found", 400: "Bad Request"}[status]
