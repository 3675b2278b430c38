"""What this server offers of what the wire knows. Nothing is accepted and dropped: the rest is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.tools.toolbox import OWN_NAMES
from orchestrator.wire.agents import AgentParts
from orchestrator.wire.base import quote
from orchestrator.wire.content import AudioContent, DocumentContent, ImageContent, VideoContent
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.generation import AgentConfig, AntigravityConfig, GenerationConfig, TextFormat
from orchestrator.wire.interactions import InteractionRequest
from orchestrator.wire.steps import McpServerToolCall, McpServerToolResult, ToolSearchCall, ToolSearchResult
from orchestrator.wire.tools import (
    CodeExecutionTool,
    FunctionTool,
    GoogleSearchTool,
    ToolDeclaration,
    UrlContextTool,
)

_NOT_OFFERED = frozenset({"safety_settings", "webhook_config", "continuation_token", "cached_content"})
_GENERATION_NOT_OFFERED = ("speech_config", "transcription_config", "video_config", "image_config")
_TEXT_TYPES = ("text/plain", "application/json")


def check_offered(request: InteractionRequest) -> None:
    """Raises `NotSupported`, naming the field, if the request needs something that is not there; `InvalidRequest`, if
    what it brings along does not go with what is.
    """
    for name in sorted(_NOT_OFFERED & request.given):
        raise _refusal(name)
    _check_config(request.agent_config)
    _check_generation(request.generation_config)
    _check_formats(request)
    _check_tools(request.tools or ())
    for index, step in enumerate(request.input or ()):
        if isinstance(step, McpServerToolCall | McpServerToolResult | ToolSearchCall | ToolSearchResult):
            raise _refusal(f"input[{index}].type", repr(step.type))
        for field in ("content", "result"):
            blocks = getattr(step, field, None)
            if isinstance(blocks, list):
                _check_content(blocks, f"input[{index}].{field}")
    if request.environment is not None:
        _check_environment(request.environment, "environment")
        if request.environment.setup is not None:
            raise _refusal("environment.setup", "other than in the base environment of an agent")


def check_agent(agent: AgentParts) -> None:
    """The same of the definition of an agent, or of what is changed in it."""
    _check_config(agent.agent_config)
    _check_tools(agent.tools or ())
    if agent.base_environment is not None:
        _check_environment(agent.base_environment, "base_environment")


def _check_config(config: AgentConfig | None) -> None:
    if config is not None and not isinstance(config, AntigravityConfig):
        raise _refusal("agent_config.type", repr(config.type))


def _check_generation(config: GenerationConfig | None) -> None:
    if config is None:
        return
    for name in _GENERATION_NOT_OFFERED:
        if getattr(config, name) is not None:
            raise _refusal(f"generation_config.{name}")
    if config.tool_choice not in (None, "auto", "none"):
        raise _refusal("generation_config.tool_choice", "other than 'auto' and 'none'")


def _check_formats(request: InteractionRequest) -> None:
    formats = request.response_format or ()
    for index, form in enumerate(formats):
        if not isinstance(form, TextFormat):
            raise _refusal(f"response_format[{index}].type", repr(form.type))
        if form.mime_type not in (None, *_TEXT_TYPES):
            raise _refusal(f"response_format[{index}].mime_type", quote(form.mime_type))
        if form.json_schema is not None and form.mime_type == "text/plain":
            raise InvalidRequest(f"Invalid value at 'response_format[{index}].schema': it needs 'application/json'.")
    if len(formats) > 1:
        raise _refusal("response_format", "with several formats")
    for modality in request.response_modalities or ():
        if modality.lower() != "text":
            raise _refusal("response_modalities", quote(modality))
    if request.response_mime_type not in (None, *_TEXT_TYPES):
        raise _refusal("response_mime_type", quote(request.response_mime_type))


def _check_tools(tools: Sequence[ToolDeclaration]) -> None:
    for index, tool in enumerate(tools):
        if isinstance(tool, FunctionTool):
            _check_function(tool, f"tools[{index}]")
        elif not isinstance(tool, CodeExecutionTool | GoogleSearchTool | UrlContextTool):
            raise _refusal(f"tools[{index}].type", repr(tool.type))
        elif isinstance(tool, GoogleSearchTool):
            for kind in tool.search_types or ():
                if kind != "web_search":
                    raise _refusal(f"tools[{index}].search_types", repr(kind))
    _check_names([tool.name for tool in tools if isinstance(tool, FunctionTool)])


def _check_function(tool: FunctionTool, at: str) -> None:
    if tool.name in OWN_NAMES:
        raise InvalidRequest(f"Invalid value at '{at}.name': {tool.name!r} is a tool of the server.")
    for field in ("defer_loading", "short_description"):
        if getattr(tool, field) is not None:
            raise _refusal(f"{at}.{field}")


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidRequest(f"Invalid value at 'tools': {twice[0]!r} is declared twice.")


def _check_content(blocks: Sequence[Any], at: str) -> None:
    for index, block in enumerate(blocks):
        if isinstance(block, AudioContent | VideoContent | DocumentContent):
            raise _refusal(f"{at}[{index}].type", repr(block.type))
        if isinstance(block, ImageContent) and block.uri is not None:
            raise _refusal(f"{at}[{index}].uri", "send the image itself as 'data'")


def _check_environment(spec: EnvironmentSpec, at: str) -> None:
    if spec.sources and spec.environment_id is not None:
        raise _refusal(f"{at}.sources", "together with 'environment_id'")


def _refusal(field: str, what: str = "") -> NotSupported:
    return NotSupported(f"Not supported: '{field}'{f' {what}' if what else ''}.")
