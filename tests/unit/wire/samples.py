"""The events whose bytes are fixed by the files under `golden/`, one line each.

`python -m tests.unit.wire.samples` writes the files anew: a change of theirs is a change of the wire.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.wire import events as ev
from orchestrator.wire.content import (
    AudioContent,
    DocumentContent,
    ImageContent,
    PlaceCitation,
    TextContent,
    UrlCitation,
    VideoContent,
)
from orchestrator.wire.interactions import Interaction, InteractionError
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    McpServerToolCall,
    McpServerToolResult,
    ModelOutput,
    SearchArguments,
    SearchResult,
    Step,
    Thought,
    ToolSearchArguments,
    ToolSearchCall,
    ToolSearchResult,
    UrlArguments,
    UrlContextCall,
    UrlContextResult,
    UrlResult,
    UserInput,
)
from orchestrator.wire.tools import FunctionTool
from orchestrator.wire.usage import Usage

GOLDEN = Path(__file__).parent / "golden"
ENVIRONMENT = "3f0c9a52d1e84b7fa6c2b8e07d915c44"
AGENT = "antigravity-preview-09-2026"
CREATED = "2026-11-20T09:00:00.000000Z"
UPDATED = "2026-11-20T09:00:41.120000Z"

STEPS: tuple[Step, ...] = (
    UserInput(content=[TextContent(text="Write a script.")]),
    Thought(signature="c2lnLTE=", summary=[TextContent(text="Write it, then run it.")]),
    FunctionCall(id="k3v9z0aa", name="write_file", arguments={"path": "a.py", "content": "print('é')\n", "mode": None}),
    FunctionResult(call_id="k3v9z0aa", name="write_file", result=[TextContent(text="created a.py")]),
    CodeExecutionCall(id="ce000001", arguments=CodeArguments(language="bash", code="python3 a.py")),
    CodeExecutionResult(call_id="ce000001", result="é\nTraceback …\nexit code 1", is_error=True),
    GoogleSearchCall(id="gs000001", arguments=SearchArguments(queries=["é"]), search_type="web_search"),
    GoogleSearchResult(call_id="gs000001", result=[SearchResult(search_suggestions="<div></div>")]),
    UrlContextCall(id="uc000001", arguments=UrlArguments(urls=["https://example.com"])),
    UrlContextResult(call_id="uc000001", result=[UrlResult(url="https://example.com", status="success")]),
    McpServerToolCall(id="mc000001", name="find", server_name="crm", arguments={"q": 1}),
    McpServerToolResult(call_id="mc000001", name="find", server_name="crm", result={"found": [None, 1.5]}),
    ToolSearchCall(id="ts000001", arguments=ToolSearchArguments(function_names=["invoice_state"])),
    ToolSearchResult(call_id="ts000001", result=[FunctionTool(name="invoice_state", parameters={"type": "object"})]),
    ModelOutput(
        content=[
            TextContent(
                text="Line\u2028one\ntwo", annotations=[UrlCitation(url="https://e.org", start_index=0, end_index=4)]
            ),
            ImageContent(mime_type="image/png", data="iVBORw0KGgo="),
            AudioContent(mime_type="audio/wav", data="UklGRg=="),
            VideoContent(uri="https://example.com/v.mp4"),
            DocumentContent(mime_type="application/pdf", uri="https://example.com/d.pdf"),
            TextContent(text="End.", annotations=[PlaceCitation(start_index=0, end_index=3)]),
        ]
    ),
)

USAGE = Usage(total_input_tokens=4120, total_cached_tokens=2048, total_output_tokens=180, total_tokens=4300)

EVENTS: tuple[ev.PublicEvent, ...] = (
    ev.InteractionCreated(
        interaction=Interaction(
            id="v1_x", status="in_progress", agent=AGENT, created=CREATED, updated=CREATED, environment_id=ENVIRONMENT
        )
    ),
    ev.InteractionCreated(interaction=Interaction(id="", status="in_progress", model="gemini-3.8-flash")),
    ev.InteractionStatusUpdate(interaction_id="v1_x", status="in_progress"),
    ev.InteractionStatusUpdate(interaction_id="v1_x", status="requires_action", usage=USAGE),
    *(event for index, step in enumerate(STEPS) for event in ev.step_events(step, index, usage=USAGE)),
    ev.StepDelta(index=3, delta=ev.TextDelta(text="x"), metadata=ev.DeltaMetadata(total_usage=Usage(total_tokens=5))),
    ev.StepStop(index=9),
    ev.StepStop(index=9, usage=USAGE, step_usage=Usage(total_tokens=7)),
    ev.ErrorEvent(error=InteractionError(code="sandbox_gone", message="The sandbox ended.")),
    ev.InteractionCompleted(
        interaction=Interaction(
            id="v1_x",
            status="completed",
            agent=AGENT,
            created=CREATED,
            updated=UPDATED,
            environment_id=ENVIRONMENT,
            service_tier="standard",
            usage=USAGE,
        )
    ),
    ev.InteractionCompleted(
        interaction=Interaction(
            id="v1_x", status="failed", errors=[InteractionError(code="sandbox_gone", message="The sandbox ended.")]
        )
    ),
)


def lines_by_kind() -> dict[str, list[bytes]]:
    lines: dict[str, list[bytes]] = {}
    for seq, event in enumerate(EVENTS, 1):
        lines.setdefault(event.event_type, []).append(ev.encode(event, seq))
    return lines


def stream() -> bytes:
    """All of them as a client gets them."""
    frames = (ev.sse_frame(event.event_type, ev.encode(event, seq)) for seq, event in enumerate(EVENTS, 1))
    return b"".join(frames) + ev.HEARTBEAT_FRAME + ev.DONE_FRAME


if __name__ == "__main__":
    for kind, lines in lines_by_kind().items():
        (GOLDEN / f"{kind}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (GOLDEN / "stream.sse").write_bytes(stream())
