"""Interactions: the request in its canonical form, and the record as it is answered (reference, section 2). No I/O.

`parse_interaction_request` accepts every form that real clients send and refuses what no server could serve: unknown
fields, wrong types, contradictions. Fields that the wire knows but this server does not offer are parsed and kept: the
API decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import (
    AnyCase,
    Few,
    Flag,
    ListOf,
    WireModel,
    WireResource,
    described,
    dump,
    either,
    missing,
    parse,
    problem,
    spelled,
)
from orchestrator.wire.content import Content, TextContent
from orchestrator.wire.environments import EnvironmentField
from orchestrator.wire.generation import (
    AgentConfig,
    AntigravityConfig,
    GenerationConfig,
    ResponseFormat,
    SafetySetting,
    WebhookConfig,
)
from orchestrator.wire.inputs import Input
from orchestrator.wire.steps import ModelOutput, Step, Thought, UserInput
from orchestrator.wire.tools import ToolDeclaration
from orchestrator.wire.usage import Usage

__all__ = [
    "LABEL_KEY",
    "TERMINAL_STATUSES",
    "Interaction",
    "InteractionError",
    "InteractionRequest",
    "ServiceTier",
    "Status",
    "Usage",
    "dump_interaction",
    "dump_request",
    "output_text",
    "parse_interaction_request",
]

Status = Literal["in_progress", "requires_action", "completed", "failed", "cancelled", "incomplete"]
"""The only six that are ever sent: strict clients know no others."""
TERMINAL_STATUSES: frozenset[Status] = frozenset({"requires_action", "completed", "failed", "cancelled", "incomplete"})
"""An interaction in one of these never changes again."""

ServiceTier = Literal["flex", "standard", "priority", "deferred"]

LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_LABELS = 64
_ID_CHARS = 256


def _bare(*prefixes: str) -> BeforeValidator:
    """Resource names may be written with their collection, `agents/ID`."""

    def strip(value: Any) -> Any:
        if isinstance(value, str):
            for prefix in prefixes:
                if value.startswith(prefix):
                    return value[len(prefix) :]
        return value

    return BeforeValidator(strip)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > _LABELS:
        raise PydanticCustomError("problem", "expected at most 64 labels")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise problem("keys are at most 63 of a-z, 0-9, '_' and '-', beginning with a letter", key)
        if not _LABEL_VALUE.fullmatch(value):
            raise problem("values are at most 63 of a-z, 0-9, '_' and '-'", key)
    return labels


def _as_formats(value: Any) -> Any:
    if isinstance(value, dict):
        return [value]
    return value


ModelName = Annotated[str, Field(min_length=1, max_length=_ID_CHARS), _bare("models/", "agents/")]
AgentName = Annotated[str, Field(min_length=1, max_length=_ID_CHARS), _bare("agents/")]
InteractionId = Annotated[str, Field(min_length=1, max_length=_ID_CHARS), _bare("interactions/")]
Labels = Annotated[
    dict[str, Annotated[str, spelled(_LABEL_VALUE)]],
    AfterValidator(_check_labels),
    Few,
    described(propertyNames={"pattern": f"^{LABEL_KEY.pattern}$"}, maxProperties=_LABELS),
]
ResponseFormats = Annotated[
    ListOf[ResponseFormat],
    BeforeValidator(_as_formats, json_schema_input_type=ResponseFormat | list[ResponseFormat]),
]


_RULES: list[Any] = [
    either("model", "agent"),
    {
        "anyOf": [
            {"required": ["input"], "properties": {"input": {"type": ["string", "array", "object"]}}},
            {"required": ["continuation_token"], "properties": {"continuation_token": {"type": "string"}}},
        ]
    },
    {
        "not": {
            "required": ["background", "store"],
            "properties": {"background": {"const": True}, "store": {"const": False}},
        }
    },
    {
        "not": {
            "required": ["agent_config", "generation_config"],
            "properties": {"agent_config": {"type": "object"}, "generation_config": {"type": "object"}},
        }
    },
    {
        "if": {"required": ["webhook_config"], "properties": {"webhook_config": {"type": "object"}}},
        "then": {"required": ["background"], "properties": {"background": {"const": True}}},
    },
]
"""What `_is_possible` checks, for descriptions."""


class InteractionRequest(WireModel):
    """A create call. Exactly one of `model` and `agent` is set; either may hold an agent's id."""

    model_config = ConfigDict(json_schema_extra={"allOf": _RULES})

    model: ModelName | None = None
    agent: AgentName | None = None
    input: Input | None = None
    """Never empty; absent only beside a `continuation_token`."""
    system_instruction: str | None = None
    tools: ListOf[ToolDeclaration] | None = None
    """Absent: the default set. An empty list: no tools but the file tools."""
    environment: EnvironmentField = None
    previous_interaction_id: InteractionId | None = None
    stream: Flag = False
    background: Flag = False
    store: Flag = True
    agent_config: AgentConfig | None = None
    generation_config: GenerationConfig | None = None
    response_format: ResponseFormats | None = None
    """Never empty; callers may write a single one without the list."""
    service_tier: Annotated[ServiceTier, AnyCase] | None = None
    labels: Labels | None = None
    safety_settings: ListOf[SafetySetting] | None = None
    webhook_config: WebhookConfig | None = None
    continuation_token: str | None = None
    response_modalities: ListOf[str] | None = None
    response_mime_type: str | None = None
    cached_content: str | None = None

    @property
    def given(self) -> frozenset[str]:
        """Names of the top-level fields that the caller sent with something in them."""
        return frozenset(name for name in self.model_fields_set if getattr(self, name) is not None)

    @property
    def target(self) -> str:
        """The agent's or model's name, wherever it was given."""
        return self.agent or self.model or ""

    @property
    def agent_model(self) -> str | None:
        """The model that the call wants its agent to use, if it names one."""
        return self.agent_config.model if isinstance(self.agent_config, AntigravityConfig) else None

    @property
    def token_budget(self) -> int | None:
        """After how many tokens the run is to end, if it is limited."""
        return self.agent_config.max_total_tokens if isinstance(self.agent_config, AntigravityConfig) else None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.model is not None and self.agent is not None:
            raise problem("give either 'model' or 'agent', not both")
        if self.model is None and self.agent is None:
            raise problem("give either 'model' or 'agent'")
        if self.input is None and self.continuation_token is None:
            raise missing("input")
        if self.background and not self.store:
            raise problem("'background' needs 'store': a run that is not stored cannot be asked for", "store")
        if self.agent_config is not None and self.generation_config is not None:
            raise problem("not together with 'agent_config'", "generation_config")
        if self.webhook_config is not None and not self.background:
            raise problem("needs 'background': true", "webhook_config")
        return self


def parse_interaction_request(data: Any) -> InteractionRequest:
    """The canonical form of a create call's decoded body.

    Raises:
        InvalidRequest: names the path of the first problem and, for names, the closest known one.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("Invalid request: expected an object.")
    return parse(InteractionRequest, data)


def dump_request(request: InteractionRequest) -> dict[str, Any]:
    """What was given, in canonical form; `parse_interaction_request` makes an equal request of it."""
    return request.model_dump(exclude_none=True, include=set(request.given))


class InteractionError(WireResource):
    """Why an interaction failed."""

    code: str
    message: str


class Interaction(WireResource):
    """An interaction as it is answered. Times are RFC 3339 with `Z`."""

    id: str | None = None
    """Absent if it is not stored."""
    object: Literal["interaction"] = "interaction"
    status: Status
    model: str | None = None
    agent: str | None = None
    agent_version: int | None = None
    """The version that runs, of an agent that the project has defined."""
    created: str | None = None
    updated: str | None = None
    previous_interaction_id: str | None = None
    environment_id: str | None = None
    """Only if the request asked for an environment."""
    service_tier: str | None = None
    input: ListOf[Step] | None = None
    steps: ListOf[Step] | None = None
    """What this interaction produced; absent where only the frame is told, as in events."""
    output_text: str | None = None
    """The text of the final answer, as clients find it in `steps`."""
    outputs: ListOf[Content] | None = None
    """The blocks of the final answer, for clients that know no steps."""
    usage: Usage | None = None
    errors: ListOf[InteractionError] | None = None
    system_instruction: str | None = None
    tools: list[dict[str, Any]] | None = None
    environment: dict[str, Any] | None = None
    agent_config: dict[str, Any] | None = None
    generation_config: dict[str, Any] | None = None
    response_format: list[dict[str, Any]] | None = None
    labels: dict[str, str] | None = None
    continuation_token: str | None = None


def dump_interaction(interaction: Interaction) -> dict[str, Any]:
    """The wire form, without absent fields; the final answer is taken from the steps, if there are any."""
    steps = interaction.steps or ()
    final = {"output_text": output_text(steps) or None, "outputs": _outputs(steps) or None}
    return dump(interaction.model_copy(update=final))


def _outputs(steps: Sequence[Step]) -> list[Content]:
    """The blocks of the last outputs before which only tools worked."""
    found: list[Content] = []
    for step in reversed(steps):
        if isinstance(step, ModelOutput):
            if step.is_partial:
                break
            found[:0] = step.content
        elif isinstance(step, UserInput) or (found and not isinstance(step, Thought)):
            break
    return found


def output_text(steps: Sequence[Step]) -> str:
    """The final answer's text as clients compute it (2.10): that of the last outputs before which only tools worked."""
    collected: list[str] = []
    for step in reversed(steps):
        if isinstance(step, UserInput):
            break
        if isinstance(step, Thought):
            continue
        if not isinstance(step, ModelOutput) or step.is_partial:
            if collected:
                break
            continue
        for block in reversed(step.content):
            if isinstance(block, TextContent):
                collected.append(block.text)
            elif collected:
                return "".join(reversed(collected))
    return "".join(reversed(collected))
