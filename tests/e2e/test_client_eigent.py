"""The requests that Eigent makes, against a real server."""

from __future__ import annotations

import pytest

from tests.e2e.client_programs import Saw, python_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = python_program("eigent")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


def test_conversation_in_one_environment(saw: Saw) -> None:
    assert saw("conversation") == {
        "statuses": ["completed", "completed"],
        "one_environment": True,
        "previous": True,
        "results": ["kept\n"],
    }


def test_stream(saw: Saw) -> None:
    assert saw("streamed") == {"text": "One, two, three.", "has_environment": True, "status": "completed"}


def test_final_contents_where_they_were_before_steps(saw: Saw) -> None:
    assert saw("outputs") == {"outputs": [{"type": "text", "text": "Done."}], "output_text": "Done."}


def test_probe_in_the_background(saw: Saw) -> None:
    assert saw("probe") == {"began_as": "in_progress", "status": "completed"}


@pytest.mark.parametrize(
    ("attempt", "status", "named"),
    [("agent", 404, "'nobody'"), ("environment", 404, "environment"), ("field", 400, "'inptu'")],
)
def test_errors(saw: Saw, attempt: str, status: int, named: str) -> None:
    code, message = saw("errors")[attempt]
    assert code == status
    assert named in message
