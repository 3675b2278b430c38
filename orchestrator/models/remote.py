"""Models of providers, through `pydantic_ai.direct`: Gemini, everything that speaks the OpenAI chat format, Anthropic.

Imports `models`, `wire` and `errors`; pydantic-ai and the providers' libraries only when the first model is asked, in a
thread, since that takes seconds. They do not try again themselves: `runs.turn` has the one policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ModelError
from orchestrator.models.port import MODALITIES, ModelEvent, ModelProvider, ModelRequest, TurnEnd, Usage
from orchestrator.models.prices import Prices
from orchestrator.wire.generation import GenerationConfig

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import RequestUsage

ADDRESSES = {
    "gemini": "https://generativelanguage.googleapis.com",
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
}
"""Where the providers themselves are. Always passed on, so that no library looks for another in the environment."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where models of a provider are, and how they are spoken to."""

    name: str
    """What models of it are named after: `name:model`."""
    kind: str
    """`gemini`, `openai` or `anthropic`."""
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
        self._http: httpx2.AsyncClient | None = None
        self._provider: Any = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        await self._open()
        from orchestrator.models import faults

        has_begun = False
        error: ModelError | None = None
        try:
            async with aclosing(self._told(request)) as events:
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
        http, self._http, self._provider = self._http, None, None
        if http is not None:
            await http.aclose()

    async def _told(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        from pydantic_ai.direct import model_request_stream

        from orchestrator.models.messages import messages_of
        from orchestrator.models.parts import Translation

        kind = self._endpoint.kind
        model = self._model(request.model.partition(":")[2])
        translation = Translation(kind)
        async with model_request_stream(
            model,
            messages_of(request.history, kind),
            model_settings=self._settings(request.generation),
            model_request_parameters=_parameters(request, model, kind),
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

    async def _open(self) -> None:
        async with self._opening:
            if self._provider is None:
                self._http, self._provider = await asyncio.to_thread(self._make)

    def _make(self) -> tuple[httpx2.AsyncClient, Any]:
        from pydantic_ai._http import create_async_httpx2_client

        from orchestrator.models import faults, messages, parts  # noqa: F401 - first use is slow: here, in a thread

        self._prices.load()
        http = create_async_httpx2_client()
        end = self._endpoint
        if end.kind == "gemini":
            import pydantic_ai.models.google
            from pydantic_ai.providers.google import GoogleProvider

            return http, GoogleProvider(api_key=end.key, base_url=end.base_url, http_client=http)
        if end.kind == "anthropic":
            import pydantic_ai.models.anthropic
            from pydantic_ai.providers.anthropic import AnthropicProvider

            return http, AnthropicProvider(api_key=end.key, base_url=end.base_url, http_client=http)
        import pydantic_ai.models.openai  # noqa: F401
        from pydantic_ai.providers.openai import OpenAIProvider
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        if end.base_url == ADDRESSES["openai"]:
            return http, OpenAIProvider(api_key=end.key, base_url=end.base_url, http_client=http)
        compatible = OpenAICompatibleProvider("openai", api_key=end.key, base_url=end.base_url, http_client=http)
        return http, compatible

    def _model(self, name: str) -> Model:
        if self._endpoint.kind == "gemini":
            from pydantic_ai.models.google import GoogleModel

            return GoogleModel(name, provider=self._provider)
        if self._endpoint.kind == "anthropic":
            from pydantic_ai.models.anthropic import AnthropicModel

            return AnthropicModel(name, provider=self._provider)
        from pydantic_ai.models.openai import OpenAIChatModel

        return OpenAIChatModel(name, provider=self._provider)

    def _settings(self, generation: GenerationConfig | None) -> ModelSettings:
        kind = self._endpoint.kind
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
        if kind == "gemini" and config.thinking_level is None and config.thinking_summaries != "none":
            settings["thinking"] = True  # for Gemini it only means that thoughts are shown
        if kind == "anthropic":
            settings["cache"] = True  # a run sends its conversation again with every turn
            del settings["seed"]
        if kind == "openai":
            top_k = settings.pop("top_k")
            if top_k is not None and self._endpoint.base_url != ADDRESSES["openai"]:
                settings["extra_body"] = {"top_k": top_k}
        given: Any = {name: value for name, value in settings.items() if value is not None}
        return given  # type: ignore[no-any-return]


def _parameters(request: ModelRequest, model: Model, kind: str) -> ModelRequestParameters:
    from pydantic_ai.messages import InstructionPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.output import OutputObjectDefinition
    from pydantic_ai.tools import ToolDefinition

    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.parameters)
        for tool in request.tools
    ]
    form: dict[str, Any] = {}
    schema, profile = request.answer_schema, model.profile
    can_combine = kind != "gemini" or not tools or profile.get("google_supports_tool_combination", False)
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
