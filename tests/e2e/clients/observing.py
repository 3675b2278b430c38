"""The frame of the client programs: each uses the official SDK as its users do and prints as JSON what it saw.

They run as `python -m tests.e2e.clients.NAME VERSION…` in a virtual environment that has the SDK and nothing of the
server. VERSION is an API version, or `default` for the SDK's own choice; CORRAL_URL is the server.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from google import genai
from google.genai import types

AGENT = "antigravity-preview-09-2026"


def client(version: str = "default", key: str = "any") -> Any:
    """A client of the server under test."""
    chosen = {} if version == "default" else {"api_version": version}
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=os.environ["CORRAL_URL"], **chosen))


def observe(look: Callable[[Any], dict[str, Any]]) -> None:
    """Prints `{version: what look(client) saw}` for every version in the arguments."""
    print(json.dumps({version: look(client(version)) for version in sys.argv[1:]}))


def bash(code: str) -> str:
    """An input that runs one shell command."""
    return f"```bash\n{code}\n```"


def kinds(interaction: Any) -> list[str]:
    """The types of an interaction's steps."""
    return [step.type for step in interaction.steps]


def results(interaction: Any) -> list[Any]:
    """What the tools of an interaction answered."""
    return [step.result for step in interaction.steps if step.type.endswith("_result")]


def await_end(sdk: Any, interaction_id: str) -> tuple[Any, int]:
    """Polls as a user would; the ended interaction and how often it was still running."""
    import time

    polls = 0
    while (found := sdk.interactions.get(interaction_id)).status == "in_progress":
        polls += 1
        if polls > 200:
            raise TimeoutError(interaction_id)
        time.sleep(0.1)
    return found, polls
