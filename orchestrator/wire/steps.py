"""Steps: the typed actions of an interaction, on the wire and everywhere inside (reference, 3.2). No I/O.

There is no second model of the same thing: the loop, the models and the tools pass these objects around. They are
frozen; `model_copy(update=…)` makes a changed one. Every step has a `type`; calls have an `id` and results the
`call_id` of theirs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.wire.base import AnyCase, ByShape, ByType, Flag, ListOf, WireModel, dump, problem
from orchestrator.wire.content import CONTENT_TYPES, Content, ContentAdapter, ContentsAdapter, ImageContent, TextContent
from orchestrator.wire.tools import FunctionTool

__all__ = [
    "STEP_TYPES",
    "CodeArguments",
    "CodeExecutionCall",
    "CodeExecutionResult",
    "FunctionCall",
    "FunctionResult",
    "GoogleSearchCall",
    "GoogleSearchResult",
    "McpServerToolCall",
    "McpServerToolResult",
    "ModelOutput",
    "SearchArguments",
    "SearchResult",
    "Step",
    "StepAdapter",
    "StepsAdapter",
    "SummaryContent",
    "Thought",
    "ToolSearchArguments",
    "ToolSearchCall",
    "ToolSearchResult",
    "UrlArguments",
    "UrlContextCall",
    "UrlContextResult",
    "UrlResult",
    "UserInput",
    "dump",
]


def _as_contents(value: Any) -> Any:
    """Content may be given as one string or one block. Validated here, so that paths fit what the caller wrote."""
    if isinstance(value, str):
        return [TextContent(text=value)]
    if isinstance(value, dict):
        return [ContentAdapter.validate_python(value)]
    if not isinstance(value, list):
        raise problem("expected a string or a list of content blocks")
    return value


def _unwrap_result(value: Any) -> Any:
    """`{"content": [blocks]}` is a way of writing a list of blocks; any other object is the function's own."""
    if isinstance(value, dict) and value.keys() == {"content"} and isinstance(value["content"], list):
        blocks = value["content"]
        if blocks and all(isinstance(block, dict) and block.get("type") in CONTENT_TYPES for block in blocks):
            try:
                return ContentsAdapter.validate_python(blocks)
            except ValidationError:
                return value
    return value


SummaryContent = Annotated[TextContent | ImageContent, ByType("content")]
Contents = Annotated[
    ListOf[Content], BeforeValidator(_as_contents, json_schema_input_type=str | Content | list[Content])
]
AnyResult = Annotated[
    Annotated[str | dict[str, Any] | ListOf[Content], ByShape("a string, an object or a list of content blocks")],
    BeforeValidator(_unwrap_result),
]
"""What a function returned: text, its own JSON object, or content blocks (where there are images)."""


# conversation


class UserInput(WireModel):
    type: Literal["user_input"] = "user_input"
    content: Contents


class Thought(WireModel):
    type: Literal["thought"] = "thought"
    signature: str | None = None
    """The provider's own, opaque; given back to it as it came."""
    summary: Annotated[ListOf[SummaryContent] | None, AfterValidator(lambda blocks: blocks or None)] = None
    """Never empty."""
    is_partial: Flag | None = None
    """Extension: it broke off, and the model was asked again."""


class ModelOutput(WireModel):
    type: Literal["model_output"] = "model_output"
    content: Contents
    is_partial: Flag | None = None
    """Extension: it broke off, and the model was asked again. No part of the answer."""


# functions: the client's own, and the server's file and browser tools


class FunctionCall(WireModel):
    type: Literal["function_call"] = "function_call"
    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    signature: str | None = None


class FunctionResult(WireModel):
    type: Literal["function_result"] = "function_result"
    call_id: str
    name: str | None = None
    result: AnyResult
    is_error: Flag = False
    signature: str | None = None


# the server's own tools


class CodeArguments(WireModel):
    language: Annotated[Literal["python", "bash"], AnyCase] = "python"
    code: str


class CodeExecutionCall(WireModel):
    type: Literal["code_execution_call"] = "code_execution_call"
    id: str
    arguments: CodeArguments
    signature: str | None = None


class CodeExecutionResult(WireModel):
    """`result` is exactly the combined output; a list of blocks only if there are images."""

    type: Literal["code_execution_result"] = "code_execution_result"
    call_id: str
    result: Annotated[str | ListOf[Content], ByShape("a string or a list of content blocks")]
    is_error: Flag = False
    signature: str | None = None


class SearchArguments(WireModel):
    queries: ListOf[str] = Field(default_factory=list)


class SearchResult(WireModel):
    """One search's outcome. The public service shows only `search_suggestions`; what a provider adds is kept."""

    model_config = ConfigDict(extra="allow")

    search_suggestions: str | None = None


class GoogleSearchCall(WireModel):
    type: Literal["google_search_call"] = "google_search_call"
    id: str
    arguments: SearchArguments
    search_type: str | None = None
    signature: str | None = None


class GoogleSearchResult(WireModel):
    type: Literal["google_search_result"] = "google_search_result"
    call_id: str
    result: ListOf[SearchResult] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


class UrlArguments(WireModel):
    urls: ListOf[str] = Field(default_factory=list)


class UrlResult(WireModel):
    """One page's outcome. The public service shows only these two; what a fetcher adds is kept."""

    model_config = ConfigDict(extra="allow")

    url: str | None = None
    status: Annotated[Literal["success", "error", "paywall", "unsafe"], AnyCase] | None = None


class UrlContextCall(WireModel):
    type: Literal["url_context_call"] = "url_context_call"
    id: str
    arguments: UrlArguments
    signature: str | None = None


class UrlContextResult(WireModel):
    type: Literal["url_context_result"] = "url_context_result"
    call_id: str
    result: ListOf[UrlResult] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


class McpServerToolCall(WireModel):
    type: Literal["mcp_server_tool_call"] = "mcp_server_tool_call"
    id: str
    name: str
    server_name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    signature: str | None = None


class McpServerToolResult(WireModel):
    type: Literal["mcp_server_tool_result"] = "mcp_server_tool_result"
    call_id: str
    name: str | None = None
    server_name: str | None = None
    result: AnyResult
    is_error: Flag = False
    signature: str | None = None


class ToolSearchArguments(WireModel):
    function_names: ListOf[str] = Field(default_factory=list)


class ToolSearchCall(WireModel):
    type: Literal["tool_search_call"] = "tool_search_call"
    id: str
    arguments: ToolSearchArguments
    signature: str | None = None


class ToolSearchResult(WireModel):
    type: Literal["tool_search_result"] = "tool_search_result"
    call_id: str
    result: ListOf[FunctionTool] = Field(default_factory=list)
    is_error: Flag = False
    signature: str | None = None


Step = Annotated[
    UserInput
    | Thought
    | ModelOutput
    | FunctionCall
    | FunctionResult
    | CodeExecutionCall
    | CodeExecutionResult
    | GoogleSearchCall
    | GoogleSearchResult
    | UrlContextCall
    | UrlContextResult
    | McpServerToolCall
    | McpServerToolResult
    | ToolSearchCall
    | ToolSearchResult,
    ByType("step"),
]
StepAdapter: TypeAdapter[Step] = TypeAdapter(Step)
StepsAdapter: TypeAdapter[list[Step]] = TypeAdapter(ListOf[Step])

STEP_TYPES = frozenset(
    {
        "user_input",
        "thought",
        "model_output",
        *(
            f"{name}_{end}"
            for name in ("code_execution", "google_search", "url_context", "mcp_server_tool", "tool_search")
            for end in ("call", "result")
        ),
        "function_call",
        "function_result",
    }
)
