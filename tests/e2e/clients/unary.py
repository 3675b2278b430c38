"""One call, answered when the agent is done: typed steps, text, files, a chart."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT, kinds, results

PROGRAM = """```script
turns:
  - thought: Draw it.
    calls:
      - tool: code_execution
        arguments: {language: python, code: "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"}
  - calls: [{tool: read_file, arguments: {path: note.txt}}]
  - text: "The note says: {{last}}"
```"""


def look(sdk: Any) -> dict[str, Any]:
    environment = {
        "type": "remote",
        "sources": [{"type": "inline", "target": "workspace/note.txt", "content": "as agreed"}],
        "env": {"MODE": "batch"},
    }
    made = sdk.interactions.create(agent=AGENT, input=PROGRAM, environment=environment)
    read = sdk.interactions.get(made.id, include_input=True)
    chart, note = results(made)
    return {
        "status": made.status,
        "output_text": made.output_text,
        "kinds": kinds(made),
        "read_kinds": kinds(read),
        "same_steps": read.steps[1:] == made.steps,
        "input": read.input[0].content[0].text if isinstance(read.input, list) else str(read.input),
        "step_classes": [type(step).__name__ for step in made.steps],
        "chart": [(_read(block, "type"), _read(block, "mime_type")) for block in chart],
        "chart_classes": [type(block).__name__ for block in chart],
        "note": note,
        "environment_id": made.environment_id,
        "tokens": made.usage.total_tokens,
        "created": str(made.created),
    }


def _read(block: Any, name: str) -> Any:
    """The SDK 2.x knows only text as the result of code, and leaves images as they came."""
    return block[name] if isinstance(block, dict) else getattr(block, name)
