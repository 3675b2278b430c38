"""The suite of models, for a model that is recorded, and for what was recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import ModelError
from orchestrator.models.cassettes import Header
from orchestrator.models.port import ModelEvent, ModelProvider, ModelRequest
from orchestrator.models.recording import Recordings
from orchestrator.models.replayed import ReplayedModel
from orchestrator.models.scripted import ScriptedModel
from orchestrator.policy.redaction import Scrubber
from tests.conformance.test_scripted_model import TestScriptedModel

PROJECT = "prj_0123456789abcdef"


class _Numbered(ModelProvider):
    """Each request of the suite is a run's only one; in one recording they are turns of their own."""

    def __init__(self, inner: ModelProvider) -> None:
        self._inner = inner

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        stream = self._inner.stream(replace(request, turn=0))
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()


@pytest.fixture(autouse=True)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.instance.folder = tmp_path


class TestRecordedModel(TestScriptedModel):
    folder: Path

    def provider(self) -> ModelProvider:
        header = Header(interaction="v1_x", agent="general", model="scripted")
        return Recordings(self.folder).of(ScriptedModel(), PROJECT, header, {})


class TestReplayedModel(TestScriptedModel):
    """Everything but waiting, which a recording has none of: it is asked for what was never recorded."""

    folder: Path

    @pytest.fixture(autouse=True)
    def recorded(self, folder: None) -> None:
        header = Header(interaction="v1_x", agent="general", model="scripted")
        asked = [
            self.says(),
            self.calls_two(),
            self.fails(retryable=True),
            self.fails(retryable=False),
            self.breaks(),
        ]

        async def record() -> None:
            model = Recordings(self.folder).of(_Numbered(ScriptedModel()), PROJECT, header, {})
            for each in asked:
                try:
                    async for _ in model.stream(each):
                        pass
                except ModelError:
                    pass

        asyncio.run(record())

    def provider(self) -> ModelProvider:
        return ReplayedModel(self.folder).within(PROJECT, Scrubber())

    def says(self) -> ModelRequest:
        return self._turn(0, super().says())

    def calls_two(self) -> ModelRequest:
        return self._turn(1, super().calls_two())

    def fails(self, *, retryable: bool) -> ModelRequest:
        return self._turn(2 + retryable, super().fails(retryable=retryable))

    def breaks(self) -> ModelRequest:
        return self._turn(4, super().breaks())

    async def test_cancelling_a_waiting_call_takes_effect_at_once(self) -> None:
        with pytest.raises(ModelError, match="it has no such model call"):
            async for _ in self.provider().stream(self._turn(5, self.waits())):
                pass

    @staticmethod
    def _turn(number: int, request: ModelRequest) -> ModelRequest:
        return replace(request, model="replay:v1_x.jsonl", turn=number)
