"""A user who loses patience and makes the same call again: the agent does its work once."""

from __future__ import annotations

import time
from typing import Any

from google import genai
from google.genai import types

from tests.e2e.clients.observing import AGENT, bash, results, url

PATIENCE_MS = 1500
PAUSE_S = 0.5
"""Between two calls, as the SDK itself pauses before it repeats one."""
MOST_CALLS = 20
WORK = bash("echo once >>log.txt; sleep 3; cat log.txt")


def look(sdk: Any) -> dict[str, Any]:
    home = sdk.interactions.create(agent=AGENT, input=bash("true"), environment="remote").environment_id
    hasty = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url(), timeout=PATIENCE_MS))
    made: Any = None
    given_up: list[str] = []
    while made is None and len(given_up) < MOST_CALLS:
        try:
            made = hasty.interactions.create(agent=AGENT, input=WORK, environment=home)
        except Exception as error:
            given_up.append(type(error).__name__)
            time.sleep(PAUSE_S)
    log = sdk.interactions.create(agent=AGENT, input=bash("cat log.txt"), environment=home)
    return {"given_up": sorted(set(given_up)), "results": results(made), "log": results(log)}
