"""A run's log as its writer sees it: one end, and everything that a later holder of the run needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest

from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TurnEnd,
)
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.runs.ending import Ending
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.turn import Turn
from orchestrator.store.sqlite import SqliteStore
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire import events
from orchestrator.wire.interactions import Interaction
from orchestrator.wire.tools import CodeExecutionTool
from tests.fakes.clock import ManualClock
from tests.fakes.rows import interaction_row

REQUEST = ModelRequest(model="fake", system="", history=(), tools=(), turn=0)


async def nothing_to_stop(calls: Mapping[str, str]) -> None:
    raise AssertionError(calls)


class OneCall(ModelProvider):
    """Calls one tool, for ten tokens."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        yield CallStart("code_execution")
        yield CallDelta('{"language": "bash", "code": "true"}')
        yield TurnEnd(ModelUsage(input_tokens=7, output_tokens=3))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(tmp_path / "corral.db", ManualClock())
    await store.open()
    yield store
    await store.aclose()


@pytest.mark.anyio
async def test_usage_of_ended_turns_outlives_the_holder_of_the_run(store: SqliteStore) -> None:
    recorder = await _recorder(store)
    toolbox = Toolbox.choose([CodeExecutionTool()], has_environment=True)
    (call,) = await Turn(recorder, toolbox, metrics=Metrics()).play(OneCall(), REQUEST)
    await recorder.flush()
    later = Recorder(store, recorder.interaction_id, 1, await store.read(recorder.interaction_id))
    assert later.usage == recorder.usage
    assert later.usage.total_tokens == 10
    assert later.called == {call.id}


@pytest.mark.anyio
async def test_cancel_that_comes_after_the_end_changes_nothing(store: SqliteStore) -> None:
    recorder = await _recorder(store)
    row = await store.interaction(None, recorder.interaction_id)
    assert row is not None
    ending = Ending(row, recorder, ManualClock(), nothing_to_stop)
    assert recorder.ended is None
    ended = Interaction(id=row.id, status="completed")
    recorder.emit(events.InteractionCompleted(interaction=ended), status="completed")
    assert recorder.ended == "completed"
    assert await ending.write("cancelled") == "completed"
    stored = await store.read(row.id)
    assert [event.kind for event in stored] == ["interaction.completed"]


async def _recorder(store: SqliteStore) -> Recorder:
    project = await store.default_project()
    row = interaction_row(project.id, request='{"agent": "general", "input": "x"}')
    await store.create_interaction(row, [])
    return Recorder(store, row.id, 1, [])
