"""Inputs for the scripted model, and what came of them. Pure."""

from __future__ import annotations

import json
from typing import Any


def bash(code: str) -> str:
    """An input that runs one shell command."""
    return f"```bash\n{code}\n```"


def python(code: str) -> str:
    """An input that runs one Python cell."""
    return f"```python\n{code}\n```"


def script(*turns: dict[str, Any]) -> str:
    """An input that plays these turns. JSON is YAML, as long as characters stand for themselves."""
    return f"```script\n{json.dumps({'turns': turns}, ensure_ascii=False)}\n```"


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    """A turn that calls one tool."""
    return {"calls": [{"tool": tool, "arguments": arguments}]}


def run_bash(code: str) -> dict[str, Any]:
    """A turn that runs one shell command."""
    return call("code_execution", language="bash", code=code)


def run_python(code: str) -> dict[str, Any]:
    """A turn that runs one Python cell."""
    return call("code_execution", language="python", code=code)


def results(interaction: dict[str, Any]) -> list[dict[str, Any]]:
    """The result steps of an interaction, in order."""
    return [step for step in interaction["steps"] if step["type"].endswith("_result")]


def only_result(interaction: dict[str, Any]) -> str:
    """The text of the one result there is."""
    (step,) = results(interaction)
    return text_of(step)


def text_of(step: dict[str, Any]) -> str:
    """The text of a result step."""
    result = step["result"]
    if isinstance(result, str):
        return result
    return "".join(block["text"] for block in result if block["type"] == "text")


def images_of(step: dict[str, Any]) -> list[dict[str, Any]]:
    """The images of a result step."""
    result = step["result"]
    return [] if isinstance(result, str) else [block for block in result if block["type"] == "image"]
