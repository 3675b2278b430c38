"""What this server offers of what the wire knows. Nothing is accepted and dropped: the rest is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.tools.toolbox import OWN_NAMES
from orchestrator.wire.content import Content
from orchestrator.wire.environments import (
    EnvironmentCreate,
    EnvironmentSpec,
    InlineSource,
    Network,
    NetworkRules,
    Source,
)
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.interactions import InteractionRequest
from orchestrator.wire.steps import FunctionResult, UserInput
from orchestrator.wire.tools import CodeExecutionTool, FunctionTool

_NOT_OFFERED = frozenset(
    {
        "generation_config",
        "response_format",
        "safety_settings",
        "webhook_config",
        "continuation_token",
        "response_modalities",
        "response_mime_type",
        "cached_content",
    }
)


def check_offered(request: InteractionRequest) -> None:
    """Raises `NotSupported`, naming the field, if the request needs something that is not there; `InvalidRequest`, if
    what it brings along does not go with what is.
    """
    for name in sorted(_NOT_OFFERED & request.given):
        raise _refusal(name)
    if not request.store:
        raise _refusal("store", "false")
    if request.service_tier not in (None, "standard"):
        raise _refusal("service_tier", repr(request.service_tier))
    if request.agent_config is not None and not isinstance(request.agent_config, AntigravityConfig):
        raise _refusal("agent_config.type", repr(request.agent_config.type))
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, FunctionTool):
            _check_function(tool, f"tools[{index}]")
        elif not isinstance(tool, CodeExecutionTool):
            raise _refusal(f"tools[{index}].type", repr(tool.type))
    _check_names([tool.name for tool in request.tools or () if isinstance(tool, FunctionTool)])
    for index, step in enumerate(request.input or ()):
        if isinstance(step, UserInput):
            _check_content(step.content, f"input[{index}].content")
        elif not isinstance(step, FunctionResult):
            raise _refusal(f"input[{index}].type", repr(step.type))
        elif isinstance(step.result, list):
            _check_content(step.result, f"input[{index}].result")
    if request.environment is not None:
        _check_environment(request.environment)


def check_new_environment(create: EnvironmentCreate) -> None:
    """Raises `NotSupported`, naming the field, if the environment needs something that is not there."""
    _check_network(create.network, "network")
    _check_sources(create.sources, "sources")


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


def _check_content(blocks: Sequence[Content], at: str) -> None:
    for index, block in enumerate(blocks):
        if block.type not in ("text", "image"):
            raise _refusal(f"{at}[{index}].type", repr(block.type))


def _check_environment(spec: EnvironmentSpec) -> None:
    _check_network(spec.network, "environment.network")
    _check_sources(spec.sources, "environment.sources")
    if spec.sources and spec.environment_id is not None:
        raise _refusal("environment.sources", "together with 'environment_id'")
    for name, variable in spec.env.items():
        if variable.credential is not None:
            raise _refusal(f"environment.env.{name}.credential")


def _check_network(network: Network | None, at: str) -> None:
    if isinstance(network, NetworkRules):
        raise NotSupported(
            f"Not supported: '{at}.allowlist'. Sandboxes have no way out yet; leave the field out or say 'disabled'."
        )


def _check_sources(sources: Sequence[Source], at: str) -> None:
    for index, source in enumerate(sources):
        if not isinstance(source, InlineSource):
            raise _refusal(f"{at}[{index}].type", repr(source.type))


def _refusal(field: str, what: str = "") -> NotSupported:
    return NotSupported(f"Not supported: '{field}'{f' {what}' if what else ''}.")
