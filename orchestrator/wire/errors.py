"""The body of an error answer (reference, 5.1). Imports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def error_body(code: str, message: str, details: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """`{"error": {"message": …, "code": …}}` with a string code; `details` come in addition to a full message."""
    error: dict[str, Any] = {"message": message, "code": code}
    if details:
        error["details"] = list(details)
    return {"error": error}
