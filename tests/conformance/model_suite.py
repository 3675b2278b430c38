"""What every model provider must do. A provider's test module subclasses `ModelSuite` and says how to make it talk.

The suite asks for little, since real models answer as they like: the shape of the stream, and how it ends.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from typing import Any

import pytest

from orchestrator.errors import ModelError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    TurnEnd,
)


async def collect(provider: ModelProvider, request: ModelRequest) -> list[ModelEvent]:
    return [event async for event in provider.stream(request)]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events: list[ModelEvent]) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each call; a fragment outside a call, or arguments that are no object, fail."""
    texts: list[tuple[str, str]] = []
    is_open = False
    for event in events:
        if isinstance(event, CallStart):
            texts.append((event.name, ""))
            is_open = True
        elif isinstance(event, CallDelta):
            assert is_open, "an argument fragment without a call"
            texts[-1] = (texts[-1][0], texts[-1][1] + event.arguments)
        else:
            is_open = False
    calls = [(name, json.loads(text)) for name, text in texts]
    assert all(isinstance(arguments, dict) for _, arguments in calls)
    return calls


@pytest.mark.anyio
class ModelSuite(ABC):
    @abstractmethod
    def provider(self) -> ModelProvider: ...

    @abstractmethod
    def says(self) -> ModelRequest:
        """A request that is answered with at least 100 characters of text, in at least two deltas, and no call."""

    @abstractmethod
    def calls_two(self) -> ModelRequest:
        """A request that is answered with two calls of `code_execution`, bash, one with the code `echo "ä\\n"`."""

    @abstractmethod
    def fails(self, *, retryable: bool) -> ModelRequest:
        """A request that fails, in a way that may or may not pass."""

    @abstractmethod
    def breaks(self) -> ModelRequest:
        """A request whose answer breaks off after its first delta."""

    @abstractmethod
    def waits(self) -> ModelRequest:
        """A request whose answer takes at least ten seconds to begin."""

    async def test_ends_with_one_turn_end_that_has_the_usage(self) -> None:
        events = await collect(self.provider(), self.says())
        assert [type(event) for event in events].count(TurnEnd) == 1
        end = events[-1]
        assert isinstance(end, TurnEnd)
        assert end.usage.output_tokens > 0
        assert end.usage.input_tokens > 0

    async def test_text_comes_in_deltas_that_are_not_empty(self) -> None:
        events = await collect(self.provider(), self.says())
        deltas = [event for event in events if isinstance(event, TextDelta)]
        assert len(deltas) >= 2
        assert all(delta.text for delta in deltas)
        assert len(text_of(events)) >= 100
        assert calls_of(events) == []

    async def test_arguments_are_whole_json_objects(self) -> None:
        calls = calls_of(await collect(self.provider(), self.calls_two()))
        assert [name for name, _ in calls] == ["code_execution"] * 2
        assert 'echo "ä\n"' in [arguments["code"] for _, arguments in calls]

    async def test_streams_do_not_disturb_each_other(self) -> None:
        provider = self.provider()
        alone = text_of(await collect(provider, self.says()))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(collect(provider, self.says())) for _ in range(5)]
        assert [len(text_of(task.result())) >= 100 for task in tasks] == [True] * 5
        assert len(alone) >= 100

    @pytest.mark.parametrize("retryable", [True, False])
    async def test_a_failure_is_a_model_error_that_says_whether_to_retry(self, retryable: bool) -> None:
        with pytest.raises(ModelError) as caught:
            await collect(self.provider(), self.fails(retryable=retryable))
        assert caught.value.retryable is retryable
        assert caught.value.code.startswith("model_")
        assert caught.value.message

    async def test_a_stream_that_breaks_raises_and_has_no_end(self) -> None:
        seen: list[ModelEvent] = []
        with pytest.raises(ModelError) as caught:
            async for event in self.provider().stream(self.breaks()):
                seen.append(event)
        assert caught.value.retryable
        assert seen
        assert not any(isinstance(event, TurnEnd) for event in seen)

    async def test_closing_the_stream_early_ends_it(self) -> None:
        stream = self.provider().stream(self.says())
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_cancelling_a_waiting_call_takes_effect_at_once(self) -> None:
        task = asyncio.create_task(collect(self.provider(), self.waits()))
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await task
