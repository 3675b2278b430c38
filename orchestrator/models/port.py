"""The model port: one call to a model, streamed as steps. May import `wire` and `errors` only.

Implementations stand beside this file and must pass `tests/conformance/model_suite.py`. A model never executes anything
and never touches the log; it turns a request into step starts, deltas and stops, and a usage.

Tool calls always leave a model as `FunctionCall` steps, whatever the tool; how a call shows on the wire
(`code_execution_call` or `function_call`) is the tools' business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from orchestrator.wire.content import AudioContent, DocumentContent, ImageContent, VideoContent
from orchestrator.wire.generation import GenerationConfig
from orchestrator.wire.steps import Step, UserInput


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments object."""


class Correction(UserInput):
    """Said by the server after an answer of the wrong form. To a model it is the user's word; no user said it."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    model: str
    """`provider:model`."""
    system: str
    history: tuple[Step, ...]
    """The conversation, oldest first: user inputs, outputs, calls and their results. Ends with what is to be
    answered.
    """
    tools: tuple[ToolSpec, ...]
    turn: int
    """0 for the first model call since the last user input, counted from the log: retries do not advance it."""
    attempt: int = 0
    """0 for the first try of this turn."""
    asked_again: int = 0
    """How often the turn was asked before without an answer of the wanted form; the history has what was wrong. Of
    a summary, which piece of what is to be told it is.
    """
    generation: GenerationConfig | None = None
    """How it is to answer, as far as somebody said so."""
    answer_schema: dict[str, Any] | bool | None = None
    """JSON schema that the final answer must fit, for providers that can hold a model to it; True: any JSON."""
    purpose: Literal["turn", "compaction"] = "turn"


MODALITIES = ("text", "image", "audio", "video", "document")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call. By modality only as far as the provider tells it."""

    input_tokens: int = 0
    """With what was cached, without what tools of the provider put in."""
    output_tokens: int = 0
    """Without thoughts."""
    thought_tokens: int = 0
    cached_tokens: int = 0
    """Of the input: read from a cache."""
    tool_use_tokens: int = 0
    cache_write_tokens: int = 0
    """Of the input: written to a cache, which costs more at some providers."""
    input_by_modality: Mapping[str, int] = field(default_factory=dict)
    output_by_modality: Mapping[str, int] = field(default_factory=dict)
    cached_by_modality: Mapping[str, int] = field(default_factory=dict)
    tool_use_by_modality: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal | None = None
    """What the call cost, in US dollars; None where its price is not known."""


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThoughtSignature:
    signature: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class MediaOutput:
    """A medium, whole. It belongs to the same step as the text beside it."""

    content: ImageContent | AudioContent | VideoContent | DocumentContent


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model begins a tool call. Argument fragments follow; the next start of anything, or the end, closes it."""

    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    arguments: str
    """A fragment of the arguments' JSON text."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """Always the last event of a call that did not fail."""

    usage: Usage = field(default_factory=Usage)
    is_cut: bool = False
    """It stopped because it may not say more, and not because it had said all."""


ModelEvent = ThoughtDelta | ThoughtSignature | TextDelta | MediaOutput | CallStart | CallDelta | TurnEnd
"""Consecutive deltas of one sort belong to one step, texts and media being of one sort; a delta of another sort, or a
`CallStart`, begins the next.
"""


class ModelProvider(ABC):
    """One provider of models."""

    context_limit_tokens: int | None = None
    """Conversations that are longer are shortened before its models are asked; None: as the server has it."""

    @abstractmethod
    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """One model call. Closing or cancelling the generator ends the call at the provider.

        Raises:
            ModelError: `retryable` says whether the same call may succeed later; raised before the first event or
                between events.
        """

    async def aclose(self) -> None:  # noqa: B027 - most providers have nothing to close
        """Lets go of connections. The provider is not used afterwards."""
