"""The public events of a stream (reference, section 4): what they are, their bytes, and the way back to steps. No I/O.

An event is encoded once, with the id that follows from its place in the log, and every reader gets these bytes.
`encode` is the only maker of bodies; `orchestrator.wire.folding` reads them again.

    interaction.created → interaction.status_update → (step.start → step.delta … → step.stop) … → interaction.completed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import WireModel, encode_json, quote
from orchestrator.wire.content import Annotation, Content, TextContent
from orchestrator.wire.deltas import (
    ArgumentsDelta,
    AudioDelta,
    CodeExecutionCallDelta,
    CodeExecutionResultDelta,
    Delta,
    DocumentDelta,
    FunctionResultDelta,
    GoogleSearchCallDelta,
    GoogleSearchResultDelta,
    ImageDelta,
    McpServerToolCallDelta,
    McpServerToolResultDelta,
    TextAnnotationDelta,
    TextDelta,
    ThoughtSignatureDelta,
    ThoughtSummaryDelta,
    ToolSearchCallDelta,
    ToolSearchResultDelta,
    UrlContextCallDelta,
    UrlContextResultDelta,
    VideoDelta,
)
from orchestrator.wire.folding import Folder, fold
from orchestrator.wire.interactions import Interaction, InteractionError, Status
from orchestrator.wire.steps import FunctionCall, ModelOutput, Step, Thought, UserInput, dump
from orchestrator.wire.usage import Usage

__all__ = [
    "DONE_FRAME",
    "HEARTBEAT_FRAME",
    "PUBLIC_KINDS",
    "ArgumentsDelta",
    "AudioDelta",
    "CodeExecutionCallDelta",
    "CodeExecutionResultDelta",
    "Delta",
    "DeltaMetadata",
    "DocumentDelta",
    "ErrorEvent",
    "Folder",
    "FunctionResultDelta",
    "GoogleSearchCallDelta",
    "GoogleSearchResultDelta",
    "ImageDelta",
    "InteractionCompleted",
    "InteractionCreated",
    "InteractionStatusUpdate",
    "McpServerToolCallDelta",
    "McpServerToolResultDelta",
    "PublicEvent",
    "StepDelta",
    "StepStart",
    "StepStop",
    "TextAnnotationDelta",
    "TextDelta",
    "ThoughtSignatureDelta",
    "ThoughtSummaryDelta",
    "ToolSearchCallDelta",
    "ToolSearchResultDelta",
    "UrlContextCallDelta",
    "UrlContextResultDelta",
    "VideoDelta",
    "encode",
    "event_id",
    "fold",
    "seq_of",
    "shell",
    "sse_frame",
    "step_events",
]

DONE_FRAME = b"event: done\ndata: [DONE]\n\n"
"""The last frame of every orderly stream."""
HEARTBEAT_FRAME = b": keep-alive\n\n"
"""A comment: clients skip it, idle proxies do not see an idle connection."""

_EVENT_ID = re.compile(r"evt_([1-9][0-9]{0,17})")


# events


class InteractionCreated(WireModel):
    """`interaction` without steps; its `id` is empty if it is not stored."""

    event_type: Literal["interaction.created"] = "interaction.created"
    interaction: Interaction


class InteractionStatusUpdate(WireModel):
    event_type: Literal["interaction.status_update"] = "interaction.status_update"
    interaction_id: str
    status: Status
    usage: Usage | None = None


class StepStart(WireModel):
    event_type: Literal["step.start"] = "step.start"
    index: int
    """0, 1, 2 … within the interaction."""
    step: dict[str, Any]
    """Its type, ids and names; a user input whole."""


class DeltaMetadata(WireModel):
    total_usage: Usage | None = None


class StepDelta(WireModel):
    event_type: Literal["step.delta"] = "step.delta"
    index: int
    delta: Delta
    metadata: DeltaMetadata | None = None


class StepStop(WireModel):
    event_type: Literal["step.stop"] = "step.stop"
    index: int
    usage: Usage | None = None
    """The run's total so far."""
    step_usage: Usage | None = None
    """This step's own."""
    is_partial: bool | None = None
    """Extension: the model's answer broke off here and was asked for again."""


class InteractionCompleted(WireModel):
    """Every orderly end, whatever the status. `interaction` without steps, with usage."""

    event_type: Literal["interaction.completed"] = "interaction.completed"
    interaction: Interaction


class ErrorEvent(WireModel):
    """Something failed after the stream began; `interaction.completed` with status `failed` follows."""

    event_type: Literal["error"] = "error"
    error: InteractionError


PublicEvent = (
    InteractionCreated | InteractionStatusUpdate | StepStart | StepDelta | StepStop | InteractionCompleted | ErrorEvent
)

PUBLIC_KINDS: frozenset[str] = frozenset(
    {
        "interaction.created",
        "interaction.status_update",
        "step.start",
        "step.delta",
        "step.stop",
        "interaction.completed",
        "error",
    }
)
"""What stream readers see; every other kind in a log is the server's own journal."""


# bytes


def event_id(seq: int) -> str:
    """The public id of the event at `seq` of its log."""
    return f"evt_{seq}"


def seq_of(event_id: str) -> int:
    """The place in the log that a public event id stands for.

    Raises:
        InvalidRequest: it was not made by `event_id`; the message names `last_event_id`.
    """
    match = _EVENT_ID.fullmatch(event_id)
    if match is None:
        raise InvalidRequest(f"Invalid value at 'last_event_id': {quote(event_id)} is not an event id of this server.")
    return int(match[1])


def encode(event: PublicEvent, seq: int) -> bytes:
    """The event's body as it is stored and sent: one line of UTF-8 JSON, `event_type` first, `event_id` last."""
    return b'%b,"event_id":"evt_%d"}' % (encode_json(event)[:-1], seq)


def sse_frame(kind: str, body: bytes) -> bytes:
    """A frame of the stream. `body` is one line, as `encode` makes it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)


# steps as events


_DELTAS: dict[str, type[WireModel]] = {
    "function_result": FunctionResultDelta,
    "code_execution_call": CodeExecutionCallDelta,
    "code_execution_result": CodeExecutionResultDelta,
    "google_search_call": GoogleSearchCallDelta,
    "google_search_result": GoogleSearchResultDelta,
    "url_context_call": UrlContextCallDelta,
    "url_context_result": UrlContextResultDelta,
    "mcp_server_tool_call": McpServerToolCallDelta,
    "mcp_server_tool_result": McpServerToolResultDelta,
    "tool_search_call": ToolSearchCallDelta,
    "tool_search_result": ToolSearchResultDelta,
}
_SHELL_FIELDS = frozenset({"type", "id", "call_id", "name", "server_name"})

Split = Callable[[str], Sequence[str]]


def shell(step: Step) -> dict[str, Any]:
    """What `step.start` tells of a step: its type, ids and names. A user input is told whole."""
    if isinstance(step, UserInput):
        return dump(step)
    if isinstance(step, FunctionCall):
        return {**dump(step), "arguments": {}}
    return {name: value for name, value in dump(step).items() if name in _SHELL_FIELDS}


def step_events(
    step: Step,
    index: int,
    *,
    usage: Usage | None = None,
    step_usage: Usage | None = None,
    split: Split | None = None,
) -> list[PublicEvent]:
    """A complete step as its start, deltas and stop.

    `split` cuts a text or arguments into the pieces to send, which together make the text; without it they go whole.
    Text blocks side by side become one.
    """

    def pieces(text: str) -> Sequence[str]:
        return (split(text) if split else ()) or (text,)

    return [
        StepStart(index=index, step=shell(step)),
        *(StepDelta(index=index, delta=delta) for delta in _deltas(step, pieces)),
        StepStop(index=index, usage=usage, step_usage=step_usage),
    ]


def _deltas(step: Step, pieces: Split) -> Iterator[Delta]:
    if isinstance(step, UserInput):
        return
    if isinstance(step, ModelOutput):
        yield from _content_deltas(step.content, pieces)
    elif isinstance(step, Thought):
        for block in step.summary or ():
            if isinstance(block, TextContent) and not block.annotations:
                yield from (ThoughtSummaryDelta(content=TextContent(text=text)) for text in pieces(block.text))
            else:
                yield ThoughtSummaryDelta(content=block)
        if step.signature is not None:
            yield ThoughtSignatureDelta(signature=step.signature)
    elif isinstance(step, FunctionCall):
        yield from (ArgumentsDelta(arguments=text) for text in pieces(encode_json(step.arguments).decode()))
    else:
        model = _DELTAS[step.type]
        fields = {name: getattr(step, name) for name in model.model_fields if name != "type"}
        yield model.model_validate({"type": step.type, **fields})  # type: ignore[misc]  # one of Delta's members


def _content_deltas(blocks: Sequence[Content], pieces: Split) -> Iterator[Delta]:
    open_bytes = 0
    for block in blocks:
        if not isinstance(block, TextContent):
            yield block
            open_bytes = 0
            continue
        yield from (TextDelta(text=text) for text in pieces(block.text))
        if block.annotations:
            yield TextAnnotationDelta(annotations=[_moved(found, open_bytes) for found in block.annotations])
            open_bytes = 0
        else:
            open_bytes += len(block.text.encode())


def _moved(annotation: Annotation, by_bytes: int) -> Annotation:
    """Indices count from the start of the block, and this block was appended to one that is still open."""
    moved = {
        name: getattr(annotation, name) + by_bytes
        for name in ("start_index", "end_index")
        if getattr(annotation, name) is not None
    }
    return annotation.model_copy(update=moved) if by_bytes else annotation
