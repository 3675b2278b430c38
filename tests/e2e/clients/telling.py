"""The frame of the client programs: stories run side by side, and what each saw is printed as one JSON document.

A client program uses its client as its users do, in a virtual environment that has the client and nothing of the
server. CORRAL_URL is the server. Imports the standard library only.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AGENT = "antigravity-preview-09-2026"
NOBODY = "0" * 32
"""The id of no environment."""
AT_ONCE = 4
"""How many stories run at the same time: most of them wait for the server."""

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SKIES = {"Bonn": "sunny", "Oslo": "snow", "Rome": "rain"}
ASKS_TWICE = """```script
turns:
  - calls: [{tool: get_weather, arguments: {city: Bonn}}, {tool: get_weather, arguments: {city: Oslo}}]
  - calls: [{tool: get_weather, arguments: {city: Rome}}]
  - text: "In Rome: {{last}}"
```"""
"""Calls the client's function for two cities at once, then for a third one."""

FORECAST = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}
FORECAST_FORMAT = {"type": "text", "mime_type": "application/json", "schema": FORECAST}
TELLS_FORECAST = """```script
turns:
  - text: '{"city": "Bonn", "degrees": 21}'
```"""
"""An answer that fits `FORECAST`."""

SEARCHES = """```script
turns:
  - calls: [{tool: google_search, arguments: {queries: [corral]}}]
  - calls: [{tool: url_context, arguments: {urls: ["https://example.com/"]}}]
  - text: Neither is there.
```"""


def url() -> str:
    """The server under test."""
    return os.environ["CORRAL_URL"]


def tell(stories: Mapping[str, Callable[[], Any]]) -> None:
    """Prints `{story: {"saw": what it returned} or {"failed": why}}`."""
    with os.fdopen(os.dup(1), "w") as answer:
        # Some clients log to where the answer goes.
        os.dup2(2, 1)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = {name: pool.submit(_told, story) for name, story in stories.items()}
            told = {name: each.result() for name, each in running.items()}
        json.dump(told, answer)


def _told(story: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"saw": story()}
    except Exception:
        return {"failed": traceback.format_exc()}


def bash(code: str) -> str:
    """An input that runs one shell command."""
    return f"```bash\n{code}\n```"


def until(answer: Callable[[], Any], holds: Callable[[Any], bool], *, timeout_s: float = 30.0) -> Any:
    """Asks as a user who polls would; the first answer for which it holds."""
    deadline = time.monotonic() + timeout_s
    while not holds(found := answer()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s} s still {found!r}")
        time.sleep(0.1)
    return found


def outcome(attempt: Callable[[], Any]) -> list[Any]:
    """What went wrong, as users catch it: class, HTTP status, message."""
    try:
        attempt()
    except Exception as error:
        return [type(error).__name__, getattr(error, "status_code", None), str(error)]
    return ["nothing", None, ""]
