"""Deltas: the pieces in which a step is streamed (reference, 4.3). No I/O.

Text comes in many pieces, everything else whole. A delta of a call or result carries no id: it belongs to the step of
its `index`. The deltas of media are the content blocks themselves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.wire.base import ByShape, ByType, Flag, ListOf, WireModel
from orchestrator.wire.content import (
    Annotation,
    AudioContent,
    Content,
    DocumentContent,
    ImageContent,
    VideoContent,
)
from orchestrator.wire.steps import (
    AnyResult,
    CodeArguments,
    SearchArguments,
    SearchResult,
    SummaryContent,
    ToolSearchArguments,
    UrlArguments,
    UrlResult,
)
from orchestrator.wire.tools import FunctionTool


class TextDelta(WireModel):
    type: Literal["text"] = "text"
    text: str


ImageDelta = ImageContent
AudioDelta = AudioContent
VideoDelta = VideoContent
DocumentDelta = DocumentContent


class TextAnnotationDelta(WireModel):
    """Annotations of the text block that is being streamed."""

    type: Literal["text_annotation_delta"] = "text_annotation_delta"
    annotations: ListOf[Annotation]


class ThoughtSummaryDelta(WireModel):
    type: Literal["thought_summary"] = "thought_summary"
    content: SummaryContent


class ThoughtSignatureDelta(WireModel):
    """Last of a thought."""

    type: Literal["thought_signature"] = "thought_signature"
    signature: str


class ArgumentsDelta(WireModel):
    """A fragment of the JSON text of a function call's arguments."""

    type: Literal["arguments_delta"] = "arguments_delta"
    arguments: str


class FunctionResultDelta(WireModel):
    type: Literal["function_result"] = "function_result"
    name: str | None = None
    result: AnyResult
    is_error: Flag = False
    signature: str | None = None


class CodeExecutionCallDelta(WireModel):
    type: Literal["code_execution_call"] = "code_execution_call"
    arguments: CodeArguments
    signature: str | None = None


class CodeExecutionResultDelta(WireModel):
    type: Literal["code_execution_result"] = "code_execution_result"
    result: Annotated[str | ListOf[Content], ByShape("a string or a list of content blocks")]
    is_error: Flag = False
    signature: str | None = None


class GoogleSearchCallDelta(WireModel):
    type: Literal["google_search_call"] = "google_search_call"
    arguments: SearchArguments
    search_type: str | None = None
    signature: str | None = None


class GoogleSearchResultDelta(WireModel):
    type: Literal["google_search_result"] = "google_search_result"
    result: ListOf[SearchResult] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


class UrlContextCallDelta(WireModel):
    type: Literal["url_context_call"] = "url_context_call"
    arguments: UrlArguments
    signature: str | None = None


class UrlContextResultDelta(WireModel):
    type: Literal["url_context_result"] = "url_context_result"
    result: ListOf[UrlResult] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


class McpServerToolCallDelta(WireModel):
    type: Literal["mcp_server_tool_call"] = "mcp_server_tool_call"
    name: str | None = None
    server_name: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    signature: str | None = None


class McpServerToolResultDelta(WireModel):
    type: Literal["mcp_server_tool_result"] = "mcp_server_tool_result"
    name: str | None = None
    server_name: str | None = None
    result: AnyResult
    is_error: Flag = False
    signature: str | None = None


class ToolSearchCallDelta(WireModel):
    type: Literal["tool_search_call"] = "tool_search_call"
    arguments: ToolSearchArguments
    signature: str | None = None


class ToolSearchResultDelta(WireModel):
    type: Literal["tool_search_result"] = "tool_search_result"
    result: ListOf[FunctionTool] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


Delta = Annotated[
    TextDelta
    | ImageContent
    | AudioContent
    | VideoContent
    | DocumentContent
    | TextAnnotationDelta
    | ThoughtSummaryDelta
    | ThoughtSignatureDelta
    | ArgumentsDelta
    | FunctionResultDelta
    | CodeExecutionCallDelta
    | CodeExecutionResultDelta
    | GoogleSearchCallDelta
    | GoogleSearchResultDelta
    | UrlContextCallDelta
    | UrlContextResultDelta
    | McpServerToolCallDelta
    | McpServerToolResultDelta
    | ToolSearchCallDelta
    | ToolSearchResultDelta,
    ByType("delta"),
]
