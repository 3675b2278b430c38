"""The providers' formats, over real HTTP: the suite of models, and what each fault of a provider becomes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.config import PriceSettings
from orchestrator.errors import ModelError
from orchestrator.models.port import (
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    ToolSpec,
    TurnEnd,
    Usage,
)
from orchestrator.models.prices import Prices
from orchestrator.models.remote import Endpoint, RemoteModel
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.generation import GenerationConfig
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    Thought,
    UserInput,
)
from tests.conformance.model_suite import ModelSuite, collect, text_of
from tests.fakes.model_servers import (
    CACHED,
    INPUT,
    OUTPUT,
    SERVERS,
    THOUGHT,
    Answer,
    BadRequest,
    Broken,
    Cut,
    Ended,
    Garbage,
    ModelServer,
    Overloaded,
    RateLimited,
    Reply,
    Slow,
    TooLong,
    WrongKey,
)

pytestmark = pytest.mark.anyio

KEY = "canary-0123456789"
SIGNATURE = base64.b64encode(b"\x00signed\xff").decode()
TOOL = ToolSpec("code_execution", "Runs code.", {"type": "object", "properties": {"code": {"type": "string"}}})
ECHO = json.dumps({"language": "bash", "code": 'echo "ä\n"'})
PWD = json.dumps({"language": "bash", "code": "pwd"})
LONG = Answer(thought="Let me see.", signature=SIGNATURE, text=("word " * 15, "and " * 15))
PICTURE = ImageContent(data=base64.b64encode(b"\x89PNG picture!").decode(), mime_type="image/png")
REPLIES: dict[str, Reply] = {
    "says": LONG,
    "calls": Answer(calls=(("code_execution", PWD), ("code_execution", ECHO))),
    "limited": RateLimited("7"),
    "wrong": WrongKey(KEY),
    "breaks": Cut(Answer(text=("abc", "def", "ghi")), 3),
    "ends": Ended(Answer(text=("abc", "def", "ghi")), 3),
    "waits": Slow(20),
    "broken": Broken(),
    "overloaded": Overloaded(),
    "long": TooLong(),
    "bad": BadRequest(),
    "garbage": Garbage(),
}


PRICE = PriceSettings(input_mtok=2, output_mtok=10, cached_input_mtok=Decimal("0.5"), cache_write_mtok=3)
TOLD: dict[str, tuple[dict[str, Any], Usage]] = {
    "gemini": (
        {
            "promptTokenCount": 100,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 60},
                {"modality": "IMAGE", "tokenCount": 30},
                {"modality": "DOCUMENT", "tokenCount": 10},
            ],
            "cachedContentTokenCount": 40,
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 25}, {"modality": "IMAGE", "tokenCount": 15}],
            "toolUsePromptTokenCount": 8,
            "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}],
            "candidatesTokenCount": 30,
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
            "thoughtsTokenCount": 12,
            "totalTokenCount": 150,
        },
        Usage(
            input_tokens=100,
            output_tokens=30,
            thought_tokens=12,
            cached_tokens=40,
            tool_use_tokens=8,
            input_by_modality={"text": 60, "image": 30, "document": 10},
            output_by_modality={"text": 30},
            cached_by_modality={"text": 25, "image": 15},
            tool_use_by_modality={"text": 8},
        ),
    ),
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 42,
            "total_tokens": 142,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 35},
            "completion_tokens_details": {"reasoning_tokens": 12, "audio_tokens": 20},
        },
        Usage(
            input_tokens=100,
            output_tokens=30,
            thought_tokens=12,
            cached_tokens=40,
            input_by_modality={"audio": 35},
            output_by_modality={"audio": 20},
        ),
    ),
    "anthropic": (
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 40,
            "cache_creation_input_tokens": 50,
            "output_tokens": 42,
            "output_tokens_details": {"thinking_tokens": 12},
        },
        Usage(input_tokens=100, output_tokens=30, thought_tokens=12, cached_tokens=40, cache_write_tokens=50),
    ),
}
"""What providers tell, in their words and in ours."""
COSTS = {
    "gemini": Decimal("0.000576"),  # 60 and 8 at 2, 40 at 0.5, 42 at 10
    "openai": Decimal("0.00056"),  # 60 at 2, 40 at 0.5, 42 at 10
    "anthropic": Decimal("0.00061"),  # 10 at 2, 40 at 0.5, 50 at 3, 42 at 10
}


def asks(kind: str, model: str, *, generation: GenerationConfig | None = None) -> ModelRequest:
    said = UserInput(content=[TextContent(text="Go.")])
    return ModelRequest(f"{kind}:{model}", "Be brief.", (said,), (TOOL,), 0, generation=generation)


class Wire(ModelSuite):
    kind = ""

    @pytest.fixture(autouse=True)
    async def world(self) -> AsyncGenerator[None, None]:
        self.server: ModelServer = SERVERS[self.kind](REPLIES)
        async with self.server.running():
            self.model = RemoteModel(Endpoint(self.kind, self.kind, self.server.url, KEY))
            yield
            await self.model.aclose()

    def provider(self) -> ModelProvider:
        return self.model

    def says(self) -> ModelRequest:
        return asks(self.kind, "says")

    def calls_two(self) -> ModelRequest:
        return asks(self.kind, "calls")

    def fails(self, *, retryable: bool) -> ModelRequest:
        return asks(self.kind, "limited" if retryable else "wrong")

    def breaks(self) -> ModelRequest:
        return asks(self.kind, "breaks")

    def waits(self) -> ModelRequest:
        return asks(self.kind, "waits")

    @pytest.mark.parametrize(
        ("model", "code", "retryable"),
        [
            ("limited", "model_rate_limited", True),
            ("wrong", "model_auth", False),
            ("broken", "model_unavailable", True),
            ("overloaded", "model_overloaded", True),
            ("long", "model_context_exceeded", False),
            ("bad", "model_bad_request", False),
            ("garbage", "model_stream_broken", True),
            ("breaks", "model_stream_broken", True),
            ("ends", "model_stream_broken", True),
        ],
    )
    async def test_each_fault_has_a_code(self, model: str, code: str, retryable: bool) -> None:
        with pytest.raises(ModelError) as caught:
            await collect(self.model, asks(self.kind, model))
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
        assert len(self.server.requests) == 1, "the provider's library tried again by itself"

    async def test_the_time_to_come_back_is_passed_on(self) -> None:
        with pytest.raises(ModelError, match=r"Slow down\.") as caught:
            await collect(self.model, asks(self.kind, "limited"))
        assert caught.value.retry_after_s == 7

    async def test_a_key_that_the_provider_repeats_is_not_told(self) -> None:
        with pytest.raises(ModelError, match=r"Incorrect key \[key\] provided") as caught:
            await collect(self.model, asks(self.kind, "wrong"))
        assert KEY not in repr(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
        assert KEY in str(self.server.headers[0])

    async def test_a_provider_that_is_not_there_may_come_back(self) -> None:
        gone = RemoteModel(Endpoint(self.kind, self.kind, "http://127.0.0.1:9", KEY))
        with pytest.raises(ModelError) as caught:
            await collect(gone, asks(self.kind, "says"))
        await gone.aclose()
        assert (caught.value.code, caught.value.retryable) == ("model_unavailable", True)

    async def test_tokens_are_told_apart(self) -> None:
        end = (await collect(self.model, self.says()))[-1]
        thoughts = 0 if self.kind == "anthropic" else THOUGHT
        assert end == TurnEnd(Usage(INPUT, OUTPUT, thoughts, CACHED))

    async def test_tokens_are_told_by_modality_as_far_as_the_provider_does(self) -> None:
        self.server.replies["told"] = Answer(text=("abc",), usage=TOLD[self.kind][0])
        end = (await collect(self.model, asks(self.kind, "told")))[-1]
        assert end == TurnEnd(TOLD[self.kind][1])

    async def test_a_call_costs_what_its_tokens_do(self) -> None:
        own = Prices({f"{self.kind}:told": PRICE})
        self.server.replies["told"] = Answer(text=("abc",), usage=TOLD[self.kind][0])
        model = RemoteModel(Endpoint(self.kind, self.kind, self.server.url, KEY), own)
        try:
            end = (await collect(model, asks(self.kind, "told")))[-1]
        finally:
            await model.aclose()
        assert end == TurnEnd(replace(TOLD[self.kind][1], cost_usd=COSTS[self.kind]))

    async def test_text_and_thoughts_come_as_they_are_said(self) -> None:
        events: list[ModelEvent] = await collect(self.model, self.says())
        assert "".join(event.text for event in events if isinstance(event, ThoughtDelta)) == LONG.thought
        assert [event.text for event in events if isinstance(event, TextDelta)] == list(LONG.text)

    async def test_an_answer_that_had_to_stop_says_so(self) -> None:
        stops = {"gemini": "MAX_TOKENS", "openai": "length", "anthropic": "max_tokens"}
        self.server.replies["cut"] = Answer(text=("abc",), stop=stops[self.kind])
        events = await collect(self.model, asks(self.kind, "cut"))
        assert text_of(events) == "abc"
        assert isinstance(events[-1], TurnEnd)
        assert events[-1].is_cut

    async def test_an_answer_that_the_provider_filters_is_a_refusal(self) -> None:
        stops = {"gemini": "SAFETY", "openai": "content_filter", "anthropic": "refusal"}
        self.server.replies["filtered"] = Answer(text=("abc",), stop=stops[self.kind])
        with pytest.raises(ModelError) as caught:
            await collect(self.model, asks(self.kind, "filtered"))
        assert (caught.value.code, caught.value.retryable) == ("model_refused", False)

    async def test_what_is_asked_for_is_passed_on(self) -> None:
        wanted = GenerationConfig(max_output_tokens=99, temperature=0.5, top_p=0.25, top_k=11, stop_sequences=["END"])
        await collect(self.model, asks(self.kind, "says", generation=wanted))
        sent = json.dumps(self.server.requests[0])
        for value in ("99", "0.5", "0.25", "11", '"END"', "Be brief.", "code_execution", "Go."):
            assert value in sent

    async def test_what_is_said_is_told_before_the_answer_is_over(self) -> None:
        self.server.may_go_on = asyncio.Event()
        told: list[ModelEvent] = []
        async with asyncio.timeout(10):
            async for event in self.model.stream(self.says()):
                told.append(event)
                if text_of(told) == LONG.text[0]:
                    assert not self.server.may_go_on.is_set()
                    self.server.may_go_on.set()
        assert isinstance(told[-1], TurnEnd)
        assert self.server.may_go_on.is_set()

    async def test_models_that_are_known_are_held_to_a_form_and_think_as_long_as_asked(self) -> None:
        name = {"gemini": "gemini-3-flash-preview", "openai": "gpt-5-mini", "anthropic": "claude-sonnet-5"}[self.kind]
        self.server.replies[name] = LONG
        schema = {"type": "object", "properties": {"marker": {"type": "string"}}, "required": ["marker"]}
        wanted = GenerationConfig(thinking_level="low", seed=7)
        request = replace(asks(self.kind, name, generation=wanted), tools=(), answer_schema=schema)
        await collect(self.model, request)
        sent = json.dumps(self.server.requests[-1])
        assert '"marker"' in sent
        assert {"gemini": "thinkingConfig", "openai": '"reasoning_effort": "low"', "anthropic": "thinking"}[
            self.kind
        ] in sent

    async def test_results_with_images_and_failures_reach_the_model(self) -> None:
        steps: list[Step] = [
            CodeExecutionCall(id="a1", arguments=CodeArguments(code="plot()")),
            FunctionCall(id="b1", name="read_file", arguments={"path": "x"}),
            CodeExecutionResult(call_id="a1", result=[TextContent(text="a chart:"), PICTURE]),
            FunctionResult(call_id="b1", result="no such file", is_error=True),
        ]
        await collect(self.model, replace(self.says(), history=(*self.says().history, *steps)))
        sent = json.dumps(self.server.requests[-1])
        assert PICTURE.data is not None
        for told in (PICTURE.data, "a chart:", "no such file", "plot()", "read_file"):
            assert told in sent
        failed = {"gemini": '"error": "no such file"', "openai": "error", "anthropic": '"is_error": true'}[self.kind]
        assert failed in sent

    async def test_what_was_signed_goes_back_to_who_signed_it(self) -> None:
        events = await collect(self.model, self.says())
        signatures = [event.signature for event in events if isinstance(event, ThoughtSignature)]
        thought = Thought(summary=[TextContent(text=LONG.thought)], signature=signatures[0])
        said = ModelOutput(content=[TextContent(text="".join(LONG.text))])
        answer: list[Step] = [said, thought] if self.kind == "gemini" else [thought, said]
        history = (*self.says().history, *answer)
        request = replace(self.says(), history=(*history, UserInput(content=[TextContent(text="More."), PICTURE])))
        await collect(self.model, request)
        sent = json.dumps(self.server.requests[-1])
        assert (SIGNATURE in sent) is (self.kind != "openai")
        assert PICTURE.data is not None
        assert PICTURE.data in sent
        if self.kind != "gemini":
            assert json.dumps(LONG.thought) in sent


class TellsTokensOrNot(Wire):
    async def test_a_call_whose_tokens_are_not_told_has_no_cost(self) -> None:
        self.server.replies["untold"] = Answer(text=("abc",), usage={})
        model = RemoteModel(Endpoint(self.kind, self.kind, self.server.url, KEY), Prices({"untold": PRICE}))
        try:
            end = (await collect(model, asks(self.kind, "untold")))[-1]
        finally:
            await model.aclose()
        assert end == TurnEnd(Usage())


class TestGemini(TellsTokensOrNot):
    kind = "gemini"


class TestOpenAI(TellsTokensOrNot):
    kind = "openai"


class TestAnthropic(Wire):
    kind = "anthropic"


del Wire, TellsTokensOrNot
