"""Tool declarations, as requests and agent definitions give them (reference, 3.5). No I/O.

All tools that the wire knows are parsed; which of them this server offers is decided where requests are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import AnyCase, ByType, Few, Flag, ListOf, WireModel, described, spelled

_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_SERVER_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def _function_name(name: str) -> str:
    if not _FUNCTION_NAME.fullmatch(name):
        raise PydanticCustomError(
            "problem", "expected at most 128 letters, digits, '_', '-', '.' and ':', beginning with a letter or '_'"
        )
    return name


def _server_name(name: str) -> str:
    if not _SERVER_NAME.fullmatch(name):
        raise PydanticCustomError("problem", "expected at most 64 lower-case letters, digits, '_' and '-'")
    return name


def _http_url(url: str) -> str:
    if not url.lower().startswith(("https://", "http://")):
        raise PydanticCustomError("problem", "expected an http or https URL")
    return url


class CodeExecutionTool(WireModel):
    type: Literal["code_execution"] = "code_execution"


class GoogleSearchTool(WireModel):
    type: Literal["google_search"] = "google_search"
    search_types: ListOf[Annotated[Literal["web_search", "image_search", "enterprise_web_search"], AnyCase]] | None = (
        None
    )


class UrlContextTool(WireModel):
    type: Literal["url_context"] = "url_context"


class FunctionTool(WireModel):
    """A function that the client carries out."""

    type: Literal["function"] = "function"
    name: Annotated[str, AfterValidator(_function_name), spelled(_FUNCTION_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments object, as given."""
    defer_loading: Flag | None = None
    short_description: str | None = None


class AllowedTools(WireModel):
    """Some of an MCP server's tools. Callers may write a plain list of names."""

    mode: Annotated[str, AnyCase] | None = None
    tools: ListOf[str]


def _as_allowed_tools(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return [{"tools": value}]
    return value


class McpServerTool(WireModel):
    type: Literal["mcp_server"] = "mcp_server"
    name: Annotated[str, AfterValidator(_server_name), spelled(_SERVER_NAME)]
    url: Annotated[str, AfterValidator(_http_url), described(pattern="^[Hh][Tt][Tt][Pp][Ss]?://")]
    headers: Annotated[dict[str, str], Few] | None = Field(default=None, repr=False)
    """May hold secrets."""
    allowed_tools: (
        Annotated[
            ListOf[AllowedTools],
            BeforeValidator(_as_allowed_tools, json_schema_input_type=list[str] | list[AllowedTools]),
        ]
        | None
    ) = None


class ToolSearchTool(WireModel):
    type: Literal["tool_search"] = "tool_search"
    execution: Annotated[Literal["server", "client"], AnyCase] | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class UnofferedTool(WireModel):
    """A tool of the public API that agents of this family do not have. Its own fields are kept and not looked at."""

    model_config = ConfigDict(extra="allow")

    type: Literal["file_search", "google_maps", "computer_use", "retrieval"]


ToolDeclaration = Annotated[
    CodeExecutionTool
    | GoogleSearchTool
    | UrlContextTool
    | FunctionTool
    | McpServerTool
    | ToolSearchTool
    | UnofferedTool,
    ByType("tool"),
]
ToolsAdapter: TypeAdapter[list[ToolDeclaration]] = TypeAdapter(ListOf[ToolDeclaration])


def public_tools(tools: Sequence[ToolDeclaration]) -> list[dict[str, Any]]:
    """The declarations as answers may show them: the headers of MCP servers left out."""
    return [tool.model_dump(exclude_none=True, exclude={"headers"}) for tool in tools]
