"""The official Python SDK against a real server: nothing but its base URL is changed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
VERSIONS = ("default", "v1beta", "v1alpha")
"""The SDK's own choice is v1."""

PROGRAMS = ("unary", "stream", "background", "resume", "conversation", "errors")

Observed = Callable[[str], dict[str, Any]]

every_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def observed(server: ServerProcess) -> Iterator[Observed]:
    """What a client program saw, by version. All run at once, each once for all versions."""
    running = {name: _start(server.url, name, *VERSIONS) for name in PROGRAMS}
    seen: dict[str, dict[str, Any]] = {}

    def look(name: str) -> dict[str, Any]:
        if name not in seen:
            seen[name] = _end(running.pop(name))
        return seen[name]

    yield look
    for left in running.values():
        left.communicate(timeout=55)


def _start(url: str, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    assert PYTHON.exists(), "the SDK is not installed; run scripts/clients.sh"
    return subprocess.Popen(
        [str(PYTHON), "-m", f"tests.e2e.clients.{program}", *arguments],
        cwd=ROOT,
        env={"CORRAL_URL": url, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(program: subprocess.Popen[str]) -> dict[str, Any]:
    written, complaints = program.communicate(timeout=55)
    assert program.returncode == 0, complaints
    seen: dict[str, Any] = json.loads(written)
    return seen


@every_version
def test_unary(observed: Observed, version: str) -> None:
    seen = observed("unary")[version]
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


@every_version
def test_stream(observed: Observed, version: str) -> None:
    seen = observed("stream")[version]
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
def test_background_and_cancel(observed: Observed, version: str) -> None:
    seen = observed("background")[version]
    assert seen["began_as"] == "in_progress"
    assert seen["polls"] > 0
    assert (seen["status"], seen["results"]) == ("completed", ["done\n"])
    assert (seen["cancel_says"], seen["then_reads"]) == ("cancelled", "cancelled")
    assert seen["still_there"] is False


@every_version
def test_resume_from_a_middle_event(observed: Observed, version: str) -> None:
    seen = observed("resume")[version]
    assert seen["seen"] == 6
    assert seen["rest"] > 6
    assert seen["joined_is_whole"] is True
    assert seen["after_middle_is_the_second_half"] is True
    assert seen["after_the_last"] == 0
    assert (seen["status"], seen["text"]) == ("completed", "Both are done.")


@every_version
def test_conversation_in_one_environment(observed: Observed, version: str) -> None:
    seen = observed("conversation")[version]
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
        ("network", "BadRequestError", 400, ["'environment.network.allowlist'"]),
        ("target", "BadRequestError", 400, ["'environment.sources[0].target'"]),
        ("too large", "APIStatusError", 413, ["33554432"]),
        ("read", "NotFoundError", 404, ["v1_nobody"]),
        ("cancel", "NotFoundError", 404, ["v1_nobody"]),
        ("delete", "NotFoundError", 404, ["v1_nobody"]),
        ("event", "BadRequestError", 400, ["'last_event_id'"]),
        ("stream", "NotFoundError", 404, ["'environment'"]),
    ],
)
def test_errors(observed: Observed, version: str, attempt: str, error: str, status: int, named: list[str]) -> None:
    name, code, message = observed("errors")[version][attempt]
    assert (name, code) == (error, status), message
    for each in named:
        assert each in message


def test_keys(start_server: StartServer) -> None:
    server = start_server()
    key = json.loads(server.cli("keys", "create", "--json").stdout)["key"]
    server.keys = [key]
    seen = _end(_start(server.url, "keys", GOOD_KEY=key))
    assert seen == {"status": "completed", "refused": ["AuthenticationError", 401]}
