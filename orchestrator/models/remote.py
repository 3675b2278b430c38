"""Models of providers, through `pydantic_ai.direct`: Gemini, everything that speaks the OpenAI chat format, Anthropic.

Imports `models`, `wire` and `errors`; pydantic-ai and the providers' libraries only when the first model is asked, in a
thread, since that takes seconds. They do not try again themselves: `runs.turn` has the one policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ModelError
from orchestrator.models.port import MODALITIES, ModelEvent, ModelProvider, ModelRequest, ToolSpec, TurnEnd, Usage
from orchestrator.models.prices import Prices
from orchestrator.models.vendors import GEMINI, OPENAI_URL, VENDORS, is_chat
from orchestrator.wire.generation import GenerationConfig

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import RequestUsage

    from orchestrator.models.backends import Backend

_ANY_OBJECT: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where models of a provider are, and how they are spoken to."""

    name: str
    """What models of it are named after: `name:model`."""
    kind: str
    """Of `models.vendors`."""
    base_url: str
    key: str = ""
    """Empty where none is needed."""
    context_limit_tokens: int | None = None
    """Beyond which conversations are shortened; None: as for all."""

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.kind!r}, {self.base_url!r})"


class RemoteModel(ModelProvider):
    """All models of one endpoint."""

    def __init__(self, endpoint: Endpoint, prices: Prices | None = None) -> None:
        self._endpoint = endpoint
        self.context_limit_tokens = endpoint.context_limit_tokens
        self._prices = prices or Prices()
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        backend = await self._open()
        from orchestrator.models import faults

        has_begun = False
        error: ModelError | None = None
        try:
            async with aclosing(self._told(backend, request)) as events:
                async for event in events:
                    has_begun = True
                    yield event
        except faults.FOREIGN as foreign:
            key = self._endpoint.key
            error = faults.translated(foreign, self._endpoint.name, secret=key, has_begun=has_begun)
        if error is not None:
            # Raised out here: as a consequence it would drag along what the provider said, perhaps with the key in it.
            raise error

    async def aclose(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.aclose()

    async def _told(self, backend: Backend, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        from pydantic_ai.direct import model_request_stream

        from orchestrator.models.messages import messages_of
        from orchestrator.models.parts import Translation

        kind = VENDORS[self._endpoint.kind].format
        model = backend.model(request.model.partition(":")[2])
        translation = Translation(kind)
        messages = messages_of(request.history, kind, system=model.system, model=request.model)
        tools, settings = request.tools, self._settings(request.generation)
        if not tools and (request.answer_schema is None or kind not in GEMINI):
            # Providers refuse to read calls of tools of which none is declared.
            tools = _called(messages)
            settings |= {"tool_choice": "none"} if tools else {}
        async with model_request_stream(
            model,
            messages,
            model_settings=settings,
            model_request_parameters=_parameters(request, tools, model, kind),
            instrument=False,
        ) as stream:
            async for each in stream:
                for event in translation.take(each):
                    yield event
            for event in translation.finish():
                yield event
            end = _end(stream, self._endpoint.name)
            yield replace(end, usage=self._priced(request.model, stream, end.usage))

    def _priced(self, model: str, stream: StreamedResponse, usage: Usage) -> Usage:
        if stream.usage.unmeasured_requests:
            return usage  # nothing was told, which is not the same as that nothing was used
        terms = {name: value for name, value in (stream.provider_details or {}).items() if isinstance(value, str)}
        return replace(usage, cost_usd=self._prices.cost_usd(model, self._endpoint.base_url, usage, terms))

    async def _open(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                self._backend = await asyncio.to_thread(self._make)
            return self._backend

    def _make(self) -> Backend:
        from orchestrator.models import faults, messages, parts  # noqa: F401 - their first import is slow, too
        from orchestrator.models.backends import Backend

        self._prices.load()
        return Backend(self._endpoint)

    def _settings(self, generation: GenerationConfig | None) -> ModelSettings:
        kind = VENDORS[self._endpoint.kind].format
        config = generation or GenerationConfig()
        settings: dict[str, Any] = {
            "max_retries": 0,
            "max_tokens": config.max_output_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": None if config.top_k is None else int(config.top_k),
            "seed": config.seed,
            "stop_sequences": config.stop_sequences,
            "thinking": config.thinking_level,
        }
        if kind in GEMINI and config.thinking_level is None and config.thinking_summaries != "none":
            settings["thinking"] = True  # for Gemini it only means that thoughts are shown
        if kind == "anthropic":
            settings["cache"] = True  # a run sends its conversation again with every turn
            del settings["seed"]
        if is_chat(self._endpoint.kind):
            top_k = settings.pop("top_k")
            if top_k is not None and self._endpoint.base_url != OPENAI_URL:
                settings["extra_body"] = {"top_k": top_k}
        given: Any = {name: value for name, value in settings.items() if value is not None}
        return given  # type: ignore[no-any-return]  # a TypedDict that is made from names


def _called(messages: Sequence[ModelMessage]) -> tuple[ToolSpec, ...]:
    """The tools that a conversation has calls of, as far as they can be told from it."""
    names = {part.tool_name for message in messages for part in message.parts if part.part_kind == "tool-call"}
    return tuple(ToolSpec(name, "Not offered any more.", _ANY_OBJECT) for name in sorted(names))


def _parameters(request: ModelRequest, offered: Sequence[ToolSpec], model: Model, kind: str) -> ModelRequestParameters:
    from pydantic_ai.messages import InstructionPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.output import OutputObjectDefinition
    from pydantic_ai.tools import ToolDefinition

    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters)
        for tool in offered
    ]
    form: dict[str, Any] = {}
    schema, profile = request.answer_schema, model.profile
    can_combine = kind not in GEMINI or not tools or profile.get("google_supports_tool_combination", False)
    can_hold = can_combine and profile.get("supports_json_schema_output", False)
    if isinstance(schema, dict) and schema.get("type") == "object" and can_hold:
        form = {"output_mode": "native", "output_object": OutputObjectDefinition(json_schema=schema, name="answer")}
    return ModelRequestParameters(
        function_tools=tools,
        instruction_parts=[InstructionPart(content=request.system)] if request.system else None,
        **form,
    )


def _end(stream: StreamedResponse, provider: str) -> TurnEnd:
    """Raises `ModelError` for an answer that is none."""
    details = stream.provider_details or {}
    if stream.finish_reason == "content_filter":
        why = details.get("refusal") or details.get("block_reason") or details.get("finish_reason") or "no reason given"
        raise ModelError(f"The model provider {provider!r} refuses to answer: {why}", code="model_refused")
    if not details.get("finish_reason"):
        raise ModelError(f"The answer of {provider!r} broke off.", code="model_stream_broken", retryable=True)
    if stream.finish_reason == "error":
        message = f"The answer of {provider!r} failed: {details['finish_reason']}"
        raise ModelError(message, code="model_stream_broken", retryable=True)
    return TurnEnd(_usage(stream), is_cut=stream.finish_reason == "length")


def _usage(stream: StreamedResponse) -> Usage:
    """pydantic-ai counts thoughts as output and tools as input, as some providers do; here they are apart."""
    given = stream.usage
    thoughts = given.output_reasoning_tokens or given.details.get("thoughts_tokens", 0)
    tool_use = given.details.get("tool_use_prompt_tokens", 0)
    return Usage(
        input_tokens=max(0, given.input_tokens - tool_use),
        output_tokens=max(0, given.output_tokens - thoughts),
        thought_tokens=thoughts,
        cached_tokens=given.cache_read_tokens,
        tool_use_tokens=tool_use,
        cache_write_tokens=given.cache_write_tokens,
        input_by_modality=_by_modality(given, "prompt", audio=given.input_audio_tokens),
        output_by_modality=_by_modality(given, "candidates", audio=given.output_audio_tokens),
        cached_by_modality=_by_modality(given, "cache", audio=given.cache_audio_read_tokens),
        tool_use_by_modality=_by_modality(given, "tool_use_prompt"),
    )


def _by_modality(given: RequestUsage, part: str, *, audio: int = 0) -> dict[str, int]:
    """Gemini tells all modalities; servers of OpenAI's format tell audio alone."""
    told = {name: given.details.get(f"{name}_{part}_tokens", 0) for name in MODALITIES}
    return {name: tokens for name, tokens in told.items() if tokens} or ({"audio": audio} if audio else {})
