"""LiteLLM's interactions against a real server: `api_base` is all that is changed."""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, python_program, saw_by
from tests.e2e.server import ServerProcess

# Its price list comes with it, not from the network.
PROGRAM = python_program("litellm_calls", LITELLM_LOCAL_MODEL_COST_MAP="True")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_unary(saw: Saw) -> None:
    seen = saw("unary")
    assert (seen["status"], seen["agent"]) == ("completed", "antigravity-preview-09-2026")
    assert seen["kinds"] == ["code_execution_call", "code_execution_result", "model_output"]
    assert seen["read_kinds"] == ["user_input", *seen["kinds"]]
    assert seen["results"] == ["hello\n"]
    assert seen["has_environment"] is True
    assert seen["tokens"] > 0


@pytest.mark.parametrize("story", ["stream", "stream asynchronously"])
def test_stream(saw: Saw, story: str) -> None:
    seen = saw(story)
    assert (seen["first"], seen["last"]) == ("interaction.created", "interaction.completed")
    assert {"thought_summary", "code_execution_call", "code_execution_result", "text"} <= set(seen["delta_kinds"])
    assert (seen["status"], seen["text"]) == ("completed", "One, two, three.")
    assert seen["tokens"] > 0


def test_background_cancel_and_delete(saw: Saw) -> None:
    seen = saw("background")
    assert seen["began_as"] == "in_progress"
    assert (seen["status"], seen["results"]) == ("completed", ["done\n"])
    assert (seen["cancel_says"], seen["then_reads"]) == ("cancelled", "cancelled")
    assert (seen["deleted"], seen["after_delete"]) == (True, ["NotFoundError", 404])


def test_conversation_in_one_environment(saw: Saw) -> None:
    seen = saw("conversation")
    assert seen["statuses"] == ["completed"] * 3
    assert seen["previous"] == [True, True]
    assert seen["one_environment"] is True
    assert seen["results"] == [["kept\n"], ["kept\n"]]


def test_a_model(saw: Saw) -> None:
    assert saw("model") == {"model": "gemini-3.8-flash", "status": "incomplete", "text": "One, two"}


def test_functions_of_the_client(saw: Saw) -> None:
    seen = saw("functions")
    assert seen["statuses"] == ["requires_action", "requires_action", "completed"]
    assert seen["cities"] == [["Bonn", "Oslo"], ["Rome"]]
    assert seen["text"] == 'In Rome: {"sky": "rain"}'


def test_without_a_record(saw: Saw) -> None:
    seen = saw("stateless")
    assert not seen["id"]
    assert (seen["status"], seen["results"], seen["streamed"]) == ("completed", ["hello\n"], "completed")


def test_structured_output(saw: Saw) -> None:
    seen = saw("structured")
    assert seen["now"] == seen["old"] == {"city": "Bonn", "degrees": 21}


def test_tools_that_reach_nothing(saw: Saw) -> None:
    seen = saw("offered")
    assert seen["status"] == "completed"
    assert seen["kinds"][:4] == ["google_search_call", "google_search_result", "url_context_call", "url_context_result"]
    assert seen["text"] == "Neither is there."


@pytest.mark.parametrize(
    ("attempt", "error", "status", "named"),
    [
        ("agent", "NotFoundError", 404, ["'agent'", "'nobody'"]),
        ("environment", "NotFoundError", 404, ["'environment'"]),
        ("previous", "NotFoundError", 404, ["'previous_interaction_id'"]),
        ("field", "BadRequestError", 400, ["'inptu'", "'input'"]),
        ("read", "NotFoundError", 404, ["v1_nobody"]),
        ("cancel", "NotFoundError", 404, ["v1_nobody"]),
        ("stream", "NotFoundError", 404, ["'environment'"]),
    ],
)
def test_errors(saw: Saw, attempt: str, error: str, status: int, named: list[str]) -> None:
    name, code, message = saw("errors")[attempt]
    assert (name, code) == (error, status), message
    for each in named:
        assert each in message
