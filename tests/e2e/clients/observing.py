"""What the stories of the official Python SDK share: clients of the server under test, and how its objects are read."""

from __future__ import annotations

from typing import Any

from google import genai
from google.genai import types

from tests.e2e.clients.telling import AGENT, bash, until, url

__all__ = ["AGENT", "await_end", "bash", "client", "is_busy", "kinds", "results", "url"]


def client(version: str = "default", key: str = "any") -> Any:
    """A client of the server under test; `default` is the SDK's own choice of API version."""
    chosen = {} if version == "default" else {"api_version": version}
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=url(), **chosen))


def kinds(interaction: Any) -> list[str]:
    """The types of an interaction's steps."""
    return [step.type for step in interaction.steps]


def results(interaction: Any) -> list[Any]:
    """What the tools of an interaction answered."""
    return [step.result for step in interaction.steps if step.type.endswith("_result")]


def await_end(sdk: Any, interaction_id: str) -> Any:
    """Polls as a user would; the ended interaction."""
    return until(lambda: sdk.interactions.get(interaction_id), lambda found: found.status != "in_progress")


def is_busy(interaction: Any) -> bool:
    """Whether it has begun to call a tool."""
    return any(step.type.endswith("_call") for step in interaction.steps)
