"""What a run has used: its steps add up to it, a cost is whole or not told, a budget ends it between two calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from decimal import Decimal
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.models.port import (
    MODALITIES,
    CallDelta,
    CallStart,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    TurnEnd,
)
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.turn import Turn
from orchestrator.store.records import Event
from orchestrator.store.sqlite import SqliteStore
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.tools import CodeExecutionTool
from orchestrator.wire.usage import Usage
from tests.fakes.clock import ManualClock
from tests.fakes.runs import PlayedModel, RunWorld, bash, bodies, scripted, taken_up
from tests.unit.runs.test_answers import ASKED, GOOD
from tests.unit.runs.test_repeats import errors_of
from tests.unit.runs.test_turn import Log

TOOLS = Toolbox.choose([CodeExecutionTool()], has_environment=True)
CALL: list[ModelEvent] = [CallStart("code_execution"), CallDelta('{"language": "bash", "code": "ls"}')]
MODEL = "played:m"


def told_by_steps(stops: Iterable[dict[str, Any]]) -> Usage:
    own = [Usage.model_validate(stop["step_usage"]) for stop in stops if stop.get("step_usage")]
    return reduce(Usage.plus, own, Usage())


def same(left: Usage, right: Usage) -> bool:
    """Modalities come in the order in which they were first told."""

    def sorted_out(usage: Usage) -> dict[str, Any]:
        fields = usage.model_dump()
        return {
            name: sorted(value, key=lambda part: str(part["modality"])) if isinstance(value, list) else value
            for name, value in fields.items()
        }

    return sorted_out(left) == sorted_out(right)


# sums

counts = st.integers(0, 10**6)
modalities = st.dictionaries(st.sampled_from(MODALITIES), st.integers(1, 10**6), max_size=3)
usages = st.builds(
    ModelUsage,
    input_tokens=counts,
    output_tokens=counts,
    thought_tokens=counts,
    cached_tokens=counts,
    tool_use_tokens=counts,
    input_by_modality=modalities,
    output_by_modality=modalities,
    cached_by_modality=modalities,
    tool_use_by_modality=modalities,
    cost_usd=st.decimals(0, 100, places=10),
)
said: st.SearchStrategy[list[ModelEvent]] = st.sampled_from(
    [[], [ThoughtDelta("Hm.")], [TextDelta("a"), TextDelta("b")], CALL, [TextDelta("I look."), *CALL, *CALL]]
)


@given(st.lists(st.tuples(said, usages), min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_the_steps_tell_is_what_the_run_took(
    turns: list[tuple[list[ModelEvent], ModelUsage]], holds_answer: bool, is_taken_up: bool
) -> None:
    async def play() -> None:
        log = Log()
        recorder = Recorder(log, "v1_x", 1, [])  # type: ignore[arg-type]
        for number, (events, usage) in enumerate(turns):
            model = PlayedModel(lambda _, events=events, usage=usage: [*events, TurnEnd(usage)])  # type: ignore[misc]
            turn = Turn(recorder, TOOLS, metrics=Metrics(), holds_answer=holds_answer)
            await turn.play(model, ModelRequest(MODEL, "", (), (), number))
            turn.close()
            if is_taken_up:
                await recorder.settle()
                stored = [Event(seq, ManualClock().now(), e.kind, e.body) for seq, e in enumerate(log.events, 1)]
                recorder = Recorder(log, "v1_x", 1, stored)  # type: ignore[arg-type]
        if recorder.held:
            recorder.show_held(recorder.held)
            await recorder.flush()
            untold = Usage()
        else:
            untold = recorder.untold or Usage()
        stops = [json.loads(event.body) for event in log.events if event.kind == "step.stop"]
        assert same(told_by_steps(stops).plus(untold), recorder.usage)
        assert recorder.usage.total_input_tokens == sum(usage.input_tokens for _, usage in turns)
        assert recorder.usage.cost_usd == sum(usage.cost_usd or 0 for _, usage in turns)

    asyncio.run(play())


@pytest.mark.anyio
async def test_an_answer_that_was_held_back_tells_what_it_and_those_before_it_took(store: SqliteStore) -> None:
    used = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.25}
    program = scripted({"calls": [bash("ls")], "usage": used}, {"text": "3", "again": [GOOD], "usage": used})
    world = RunWorld(store)
    row = await world.run(program, request=ASKED)
    log = await world.log(row.id)
    stops = bodies(log, "step.stop")
    assert [stop.get("step_usage", {}).get("cost_usd") for stop in stops] == [0.25, None, 0.5]
    (end,) = bodies(log, "interaction.completed")
    assert same(told_by_steps(stops), Usage.model_validate(end["interaction"]["usage"]))
    assert end["interaction"]["usage"]["cost_usd"] == 0.75
    # Whoever takes the run up anywhere tells the same.
    for length in range(1, len(log)):
        if log[length].kind == "turn.ended":
            continue  # the end of a turn and of its last step are stored in one append
        later, again_id = await taken_up(store, log, length, program, request=ASKED)
        again_log = await later.log(again_id)
        assert same(told_by_steps(bodies(again_log, "step.stop")), told_by_steps(stops)), length


# costs


def cost_of(*costs: str | None) -> Any:
    own = [Usage(initial_input_tokens=0, cost_usd=cost) for cost in costs]
    return reduce(Usage.plus, own, Usage()).model_dump()["cost_usd"]


def test_a_cost_is_of_all_calls_or_is_not_told() -> None:
    assert cost_of() is None
    assert cost_of("0.1", "0.2") == 0.3
    assert cost_of("0", "0") == 0
    for costs in (("1", None), (None, "1"), ("1", None, "1"), (None,)):
        assert cost_of(*costs) is None


@given(st.lists(st.decimals(0, 10, places=12), min_size=1, max_size=30))
def test_costs_are_exact_however_often_they_were_stored_on_the_way(costs: list[Decimal]) -> None:
    total = Usage()
    for cost in costs:
        total = total.plus(Usage(initial_input_tokens=0, cost_usd=cost))
        total = Usage.model_validate_json(json.dumps(total.model_dump(exclude_defaults=True)))
    assert total.cost_usd == sum(costs)


# the budget: input, output and thoughts, as the reference counts, and what tools put in; not what was cached


def spends(**usage: int) -> dict[str, Any]:
    return {"calls": [bash("ls")], "usage": usage}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("budget", "usage", "turns"),
    [
        (1000, {"input_tokens": 400}, 3),
        (1200, {"input_tokens": 400}, 3),
        (1201, {"input_tokens": 400}, 4),
        (1000, {"input_tokens": 100, "output_tokens": 100, "thought_tokens": 300}, 2),
        (1000, {"input_tokens": 100, "output_tokens": 100, "tool_use_tokens": 300}, 2),
        # 60,000 read, 59,500 of it from a cache: only 700 count
        (1000, {"input_tokens": 60_000, "cached_tokens": 59_500, "output_tokens": 150, "thought_tokens": 50}, 2),
        (3000, {"input_tokens": 60_000, "cached_tokens": 59_500, "output_tokens": 150, "thought_tokens": 50}, 5),
    ],
)
async def test_a_budget_ends_a_run_between_two_calls(
    store: SqliteStore, budget: int, usage: dict[str, int], turns: int
) -> None:
    world = RunWorld(store)
    request = {"agent_config": {"type": "antigravity", "max_total_tokens": budget}}
    row = await world.run(scripted(*[spends(**usage)] * 9), request=request)
    assert row.status == "incomplete"
    assert [error["code"] for error in await errors_of(world, row)] == ["max_total_tokens"]
    log = await world.log(row.id)
    assert len(bodies(log, "turn.ended")) == turns
    used = bodies(log, "interaction.completed")[0]["interaction"]["usage"]
    assert used["total_input_tokens"] == turns * usage["input_tokens"]
    # The call that was made when the budget was spent is whole, with its result.
    assert bodies(log, "turn.ended")[-1]["calls"]
    assert [step.type for step in await world.steps(row.id)][-1] == "code_execution_result"


# counters


@pytest.mark.anyio
async def test_a_run_is_counted_as_it_is_told(store: SqliteStore) -> None:
    world = RunWorld(store)
    failing = {"error": {"code": "model_overloaded"}, **spends(input_tokens=7, cached_tokens=3)}
    done = {"text": "done", "usage": {"input_tokens": 5, "output_tokens": 2, "thought_tokens": 1, "cost_usd": 0.5}}
    await world.run(scripted(failing, done))
    await world.run(scripted({"error": {"code": "model_auth", "times": 9}}))
    lines = set(world.metrics.render().decode().splitlines())
    assert {
        'corral_model_calls_total{model="played",outcome="ok"} 2.0',
        'corral_model_calls_total{model="played",outcome="model_overloaded"} 1.0',
        'corral_model_calls_total{model="played",outcome="model_auth"} 1.0',
        'corral_model_tokens_total{kind="input",model="played"} 12.0',
        'corral_model_tokens_total{kind="cached",model="played"} 3.0',
        'corral_model_tokens_total{kind="output",model="played"} 2.0',
        'corral_model_tokens_total{kind="thought",model="played"} 1.0',
        'corral_model_cost_usd_total{model="played"} 0.5',
        'corral_interactions_total{status="completed"} 1.0',
        'corral_interactions_total{status="failed"} 1.0',
    } <= lines
