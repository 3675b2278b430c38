"""What this server offers of what the wire knows. Nothing is accepted and dropped: the rest is refused by name."""

from __future__ import annotations

from orchestrator.errors import NotSupported
from orchestrator.wire.environments import EnvironmentSpec, InlineSource, NetworkRules
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.interactions import InteractionRequest
from orchestrator.wire.steps import UserInput
from orchestrator.wire.tools import CodeExecutionTool

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
    """Raises `NotSupported`, naming the field, if the request needs something that is not there."""
    for name in sorted(_NOT_OFFERED & request.given):
        raise _refusal(name)
    if not request.store:
        raise _refusal("store", "false")
    if request.service_tier not in (None, "standard"):
        raise _refusal("service_tier", repr(request.service_tier))
    if request.agent_config is not None and not isinstance(request.agent_config, AntigravityConfig):
        raise _refusal("agent_config.type", repr(request.agent_config.type))
    for index, tool in enumerate(request.tools or ()):
        if not isinstance(tool, CodeExecutionTool):
            raise _refusal(f"tools[{index}].type", repr(tool.type))
    for index, step in enumerate(request.input or ()):
        if not isinstance(step, UserInput):
            raise _refusal(f"input[{index}].type", repr(step.type))
        for position, block in enumerate(step.content):
            if block.type not in ("text", "image"):
                raise _refusal(f"input[{index}].content[{position}].type", repr(block.type))
    if request.environment is not None:
        _check_environment(request.environment)


def _check_environment(spec: EnvironmentSpec) -> None:
    if isinstance(spec.network, NetworkRules):
        raise NotSupported(
            "Not supported: 'environment.network.allowlist'. Sandboxes have no way out yet; "
            "leave the field out or say 'disabled'."
        )
    for index, source in enumerate(spec.sources):
        if not isinstance(source, InlineSource):
            raise _refusal(f"environment.sources[{index}].type", repr(source.type))
    if spec.sources and spec.environment_id is not None:
        raise _refusal("environment.sources", "together with 'environment_id'")
    for name, variable in spec.env.items():
        if variable.credential is not None:
            raise _refusal(f"environment.env.{name}.credential")


def _refusal(field: str, what: str = "") -> NotSupported:
    return NotSupported(f"Not supported: '{field}'{f' {what}' if what else ''}.")
