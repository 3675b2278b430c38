"""The official Python SDK against a real server, the present line and the one before: only its base URL is changed."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.client_programs import LATEST, OLDER, Saw, end, python_program, saw_by
from tests.e2e.conftest import StartServer
from tests.e2e.server import ServerProcess

VERSIONS = ("default", "v1beta", "v1alpha")
"""The own choice of the SDK 3.x is v1, that of 2.x is v1beta."""

PRESENT = python_program("python_sdk", *VERSIONS)
BEFORE = python_program("python_sdk", "default", where=OLDER)
PROGRAMS = (PRESENT, BEFORE)

every_version = pytest.mark.parametrize(
    "saw",
    [*((PRESENT, version) for version in VERSIONS), (BEFORE, "default")],
    ids=["3x-v1", "3x-v1beta", "3x-v1alpha", "2x"],
    indirect=True,
)
every_line = pytest.mark.parametrize(
    "saw", [(PRESENT, "default"), (BEFORE, "default")], ids=["3x", "2x"], indirect=True
)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    program, version = request.param
    of_all = saw_by(request, server, program)
    return lambda story: of_all(f"{version} {story}")


@every_version
def test_unary(saw: Saw) -> None:
    seen = saw("unary")
    assert seen["status"] == "completed"
    assert seen["output_text"] == "The note says: as agreed"
    kinds = [
        "thought",
        "code_execution_call",
        "code_execution_result",
        "function_call",
        "function_result",
        "model_output",
    ]
    assert seen["kinds"] == kinds
    assert seen["read_kinds"] == ["user_input", *kinds]
    assert seen["same_steps"] is True
    assert seen["input"].startswith("```script")
    assert not [name for name in seen["step_classes"] if "Unknown" in name]
    assert seen["chart"] == [["image", "image/png"]]
    assert seen["note"] == "as agreed"
    assert re.fullmatch(r"[0-9a-f]{32}", seen["environment_id"])
    assert seen["tokens"] > 0
    assert seen["created"].startswith("20")


def test_charts_are_untyped_in_the_line_before(request: pytest.FixtureRequest, server: ServerProcess) -> None:
    classes = [saw_by(request, server, line)("default unary")["chart_classes"] for line in (PRESENT, BEFORE)]
    assert classes == [["ImageContent"], ["dict"]]


@every_version
def test_stream(saw: Saw) -> None:
    seen = saw("stream")
    assert seen["kinds"][:3] == ["interaction.created", "interaction.status_update", "step.start"]
    assert seen["kinds"][-1] == "interaction.completed"
    assert seen["classes"] == sorted(
        [
            "InteractionCompletedEvent",
            "InteractionCreatedEvent",
            "InteractionStatusUpdate",
            "StepDelta",
            "StepStart",
            "StepStop",
        ]
    )
    assert not [name for name in seen["delta_classes"] if "Unknown" in name]
    assert {"thought_summary", "code_execution_call", "code_execution_result", "arguments_delta", "text"} <= set(
        seen["delta_kinds"]
    )
    assert all(seen["event_ids"])
    assert len(set(seen["event_ids"])) == len(seen["event_ids"])
    assert seen["text"] == seen["read_text"] == "One, two, three."
    assert seen["environment_id"] == seen["last_environment_id"]
    assert seen["status"] == "completed"
    assert seen["tokens"] > 0
    assert seen["replay_is_the_same"] is True


@every_version
def test_background_and_cancel(saw: Saw) -> None:
    seen = saw("background")
    assert seen["began_as"] == "in_progress"
    assert (seen["status"], seen["results"]) == ("completed", ["done\n"])
    assert (seen["cancel_says"], seen["then_reads"]) == ("cancelled", "cancelled")
    assert seen["still_there"] is False


@every_version
def test_resume_from_a_middle_event(saw: Saw) -> None:
    seen = saw("resume")
    assert seen["seen"] == 6
    assert seen["rest"] > 6
    assert seen["joined_is_whole"] is True
    assert seen["after_middle_is_the_second_half"] is True
    assert seen["after_the_last"] == 0
    assert (seen["status"], seen["text"]) == ("completed", "Both are done.")


@every_version
def test_conversation_in_one_environment(saw: Saw) -> None:
    seen = saw("conversation")
    assert seen["statuses"] == ["completed"] * 4
    assert seen["previous"] == [True, True]
    assert seen["one_environment"] is True
    assert seen["results"] == ["kept\nmine\n", "kept.txt\n", ""]
    assert seen["after_delete"] == "NotFoundError"
    assert seen["asynchronous"] == ["kept\n"]


@every_version
@pytest.mark.parametrize(
    ("attempt", "error", "status", "named"),
    [
        ("agent", "NotFoundError", 404, ["'agent'", "antigravity-preview-09-2026"]),
        ("environment", "NotFoundError", 404, ["'environment'"]),
        ("previous", "NotFoundError", 404, ["'previous_interaction_id'"]),
        ("field", "BadRequestError", 400, ["'inptu'", "'input'"]),
        ("network", "BadRequestError", 400, ["'environment.network.allowlist[0].credential'"]),
        ("target", "BadRequestError", 400, ["'environment.sources[0].target'"]),
        ("too large", "APIStatusError", 413, ["33554432"]),
        ("read", "NotFoundError", 404, ["v1_nobody"]),
        ("cancel", "NotFoundError", 404, ["v1_nobody"]),
        ("delete", "NotFoundError", 404, ["v1_nobody"]),
        ("event", "BadRequestError", 400, ["'last_event_id'"]),
        ("stream", "NotFoundError", 404, ["'environment'"]),
    ],
)
def test_errors(saw: Saw, attempt: str, error: str, status: int, named: list[str]) -> None:
    name, code, message = saw("errors")[attempt]
    assert (name, code) == (error, status), message
    for each in named:
        assert each in message


@every_line
def test_functions_of_the_client(saw: Saw) -> None:
    seen = saw("functions")
    assert seen["statuses"] == ["requires_action", "requires_action", "completed"]
    assert seen["cities"] == [["Bonn", "Oslo"], ["Rome"]]
    assert seen["chained"] == [True, True]
    assert seen["text"] == 'In Rome: {"sky": "rain"}'


@every_line
def test_functions_of_the_client_streamed(saw: Saw) -> None:
    seen = saw("functions streamed")
    assert seen["ends"] == ["requires_action", "requires_action", "completed"]
    assert seen["cities"] == [["Bonn", "Oslo"], ["Rome"]]
    assert seen["text"] == "In Rome: rain"


@every_line
def test_functions_of_the_client_without_a_record(saw: Saw) -> None:
    assert saw("functions replayed") == {
        "statuses": ["requires_action", "requires_action", "completed"],
        "cities": [["Bonn", "Oslo"], ["Rome"]],
        "text": "In Rome: rain",
    }


@every_line
def test_a_model(saw: Saw) -> None:
    seen = saw("model")
    assert seen["model"] == "gemini-3.8-flash"
    assert seen["texts"] == ["One, two, three.", "One, two"]
    assert seen["statuses"] == ["completed", "incomplete"]
    assert seen["instruction"] == "Count."
    assert not seen["environment_id"]


@every_line
def test_without_a_record(saw: Saw) -> None:
    seen = saw("stateless")
    assert not seen["id"]
    assert (seen["status"], seen["results"]) == ("completed", ["kept\n"])
    assert seen["same_environment"] is True
    assert seen["ids_streamed"] == [""]
    assert (seen["ends"], seen["results_streamed"]) == (["completed"], ["kept\n"])
    name, code, message = seen["background"]
    assert (name, code) == ("BadRequestError", 400), message
    assert "'store'" in message


@every_line
def test_a_call_that_is_made_again_is_carried_out_once(saw: Saw) -> None:
    assert saw("repeats") == {"given_up": ["APITimeoutError"], "results": ["once\n"], "log": ["once\n"]}


@every_line
def test_structured_output(saw: Saw) -> None:
    seen = saw("structured")
    assert seen["status"] == "completed"
    assert seen["answer"] == seen["listed"] == seen["streamed"] == {"city": "Bonn", "degrees": 21}
    assert seen["unfit"] == "failed"


@every_line
def test_tools_that_reach_nothing(saw: Saw) -> None:
    seen = saw("offered")
    assert seen["status"] == "completed"
    assert seen["kinds"] == [
        "google_search_call",
        "google_search_result",
        "url_context_call",
        "url_context_result",
        "model_output",
    ]
    assert seen["asked"] == [["corral"], ["https://example.com/"]]
    assert seen["is_error"] == [True, True]
    assert not [name for name in (*seen["classes"], *seen["delta_classes"]) if "Unknown" in name]
    assert seen["text"] == "Neither is there."


def test_keys(start_server: StartServer) -> None:
    server = start_server()
    key = json.loads(server.cli("keys", "create", "--json").stdout)["key"]
    server.keys = [key]
    running = [python_program("keys", where=line).start(server.url, GOOD_KEY=key) for line in (LATEST, OLDER)]
    for program in running:
        assert end(program) == {
            "status": "completed",
            "refused": ["AuthenticationError", 401],
            "came_back": ["one", "two"],
        }


@every_line
def test_files(saw: Saw) -> None:
    seen = saw("files")
    large = 2 * (8 << 20) + 5
    assert seen["uploaded"] == [["workspace/data/large.bin", large]]
    assert seen["empty"] == [["workspace/empty", 0, "application/octet-stream"]]
    assert "409" in seen["taken"] or "Conflict" in seen["taken"]
    assert seen["unpacked"] == ["workspace/unpacked/a/b.txt"]
    assert seen["listed"] == [
        ["workspace/data", "directory", None],
        ["workspace/data/large.bin", "file", large],
        ["workspace/empty", "file", 4],
        ["workspace/out", "directory", None],
        ["workspace/out/table.csv", "file", 4],
        ["workspace/unpacked", "directory", None],
        ["workspace/unpacked/a", "directory", None],
        ["workspace/unpacked/a/b.txt", "file", 5],
    ]
    assert seen["pages"] == [["data", "empty"], ["out", "unpacked"]]
    assert seen["table"] == "1,2\n"
    assert seen["came_back"] is True
    assert seen["folder"] == ["table.csv"]
    assert seen["sha256_is_right"] is True
    assert seen["said"] == ["fullhello"]
    assert "workspace/none" in seen["missing"]
    assert (seen["file_count"], seen["size_bytes"]) == (4, large + 13)
