"""The official JavaScript SDK against a real server: only its base URL is changed."""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, javascript_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = javascript_program("genai", "@google/genai")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_unary(saw: Saw) -> None:
    seen = saw("unary")
    assert seen["status"] == "completed"
    assert "as agreed" in seen["output_text"]
    assert seen["kinds"] == ["code_execution_call", "code_execution_result", "model_output"]
    assert seen["read_kinds"] == ["user_input", *seen["kinds"]]
    assert seen["same_steps"] is True
    assert seen["results"] == ["as agreed\nbatch\n"]
    assert seen["has_environment"] is True
    assert seen["tokens"] > 0


def test_stream(saw: Saw) -> None:
    seen = saw("stream")
    assert seen["kinds"][:3] == ["interaction.created", "interaction.status_update", "step.start"]
    assert seen["kinds"][-1] == "interaction.completed"
    assert {"thought_summary", "code_execution_call", "code_execution_result", "arguments_delta", "text"} <= set(
        seen["delta_kinds"]
    )
    assert seen["has_ids"] is True
    assert (seen["status"], seen["text"]) == ("completed", "One, two, three.")
    assert seen["tokens"] > 0
    assert seen["replay_is_the_same"] is True


def test_background_cancel_and_delete(saw: Saw) -> None:
    seen = saw("background")
    assert seen["began_as"] == "in_progress"
    assert (seen["status"], seen["results"]) == ("completed", ["done\n"])
    assert (seen["cancel_says"], seen["then_reads"]) == ("cancelled", "cancelled")
    assert seen["after_delete"] == "NotFoundError"


def test_resume_from_a_middle_event(saw: Saw) -> None:
    seen = saw("resume")
    assert seen["seen"] == 5
    assert seen["joined_is_whole"] is True
    assert (seen["status"], seen["text"]) == ("completed", "One, two, three.")


def test_conversation_in_one_environment(saw: Saw) -> None:
    seen = saw("conversation")
    assert seen["statuses"] == ["completed"] * 3
    assert seen["previous"] == [True, True]
    assert seen["one_environment"] is True
    assert seen["results"] == ["kept\n", "kept\n"]


def test_a_model(saw: Saw) -> None:
    assert saw("model") == {"model": "gemini-3.8-flash", "status": "incomplete", "text": "One, two"}


def test_functions_of_the_client(saw: Saw) -> None:
    seen = saw("functions")
    assert seen["statuses"] == ["requires_action", "requires_action", "completed"]
    assert seen["cities"] == [["Bonn", "Oslo"], ["Rome"]]
    assert seen["text"] == 'In Rome: {"sky": "rain"}'


def test_functions_of_the_client_without_a_record(saw: Saw) -> None:
    seen = saw("functions replayed")
    assert seen["statuses"] == ["requires_action", "requires_action", "completed"]
    assert seen["text"] == "In Rome: rain"


def test_without_a_record(saw: Saw) -> None:
    seen = saw("stateless")
    assert seen["id"] is None
    assert (seen["status"], seen["results"]) == ("completed", ["hello\n"])
    assert (seen["streamed_id"], seen["streamed"]) == ("", "completed")
    assert (seen["background"]["name"], seen["background"]["status"]) == ("BadRequestError", 400)


def test_structured_output(saw: Saw) -> None:
    seen = saw("structured")
    assert seen["answer"] == seen["streamed"] == {"city": "Bonn", "degrees": 21}


def test_tools_that_reach_nothing(saw: Saw) -> None:
    seen = saw("offered")
    assert (seen["status"], seen["text"]) == ("completed", "Neither is there.")
    assert seen["kinds"][:4] == ["google_search_call", "google_search_result", "url_context_call", "url_context_result"]
    assert seen["is_error"] == [True, True]


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
    seen = saw("errors")[attempt]
    assert (seen["name"], seen["status"]) == (error, status), seen
    for each in named:
        assert each in seen["message"]


def test_files(saw: Saw) -> None:
    seen = saw("files")
    assert seen["uploaded"] == ["workspace/data/large.bin"]
    assert seen["empty"] == ["workspace/empty"]
    assert seen["listed"] == [
        ["workspace/data", "directory", -1],
        ["workspace/data/large.bin", "file", 2 * (8 << 20) + 5],
        ["workspace/empty", "file", 0],
        ["workspace/table.csv", "file", 4],
    ]
    assert seen["came_back"] is True
    assert seen["table"] == "1,2\n"
    assert seen["missing"]["name"] == "NotFoundError"
