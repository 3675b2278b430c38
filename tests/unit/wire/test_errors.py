from __future__ import annotations

from orchestrator.wire.errors import error_body


def test_body_has_message_and_string_code() -> None:
    assert error_body("invalid_request", "No.") == {"error": {"message": "No.", "code": "invalid_request"}}


def test_details_come_in_addition() -> None:
    assert error_body("not_found", "No.", [{"field": "agent"}]) == {
        "error": {"message": "No.", "code": "not_found", "details": [{"field": "agent"}]}
    }
