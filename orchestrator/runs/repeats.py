"""A model that makes the same failing call again and again: noticed from the steps alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.tools.forms import AnyCall, AnyResult, arguments_of, tool_of
from orchestrator.wire.steps import Step

TOLD_FROM = 3
"""From this time on the model is told, in the result."""


def failures_alike(steps: Sequence[Step], call_id: str) -> int:
    """How often the call has failed, by a run's steps, since a call last succeeded; what counts is tool and arguments.

    0 if it did not fail itself.
    """
    calls = {step.id: step for step in steps if isinstance(step, AnyCall)}
    wanted = _key(calls[call_id])
    count = 0
    for step in reversed(steps):
        if isinstance(step, AnyResult) and step.call_id in calls:
            if not step.is_error:
                break
            count += _key(calls[step.call_id]) == wanted
    return count


def told(times: int) -> str:
    """What the model reads below the result."""
    return f"[this is time {times} that the same call failed, with nothing that worked in between: try something else]"


def _key(call: AnyCall) -> tuple[str, dict[str, Any]]:
    return tool_of(call), arguments_of(call)
