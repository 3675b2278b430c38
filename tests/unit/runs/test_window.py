"""Whole runs whose conversation is longer than their model's window."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
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
    Usage,
)
from orchestrator.models.scripted import ScriptedModel
from orchestrator.policy.limits import Limits
from orchestrator.runs.compaction import Summary, tokens_of
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import InteractionRow
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import CodeExecutionCall, CodeExecutionResult, Step, UserInput
from orchestrator.wire.usage import Usage as Tokens
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, assert_matched, bash, bodies, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

LIMIT = 8_000
LIMITS = Limits(context_limit_tokens=LIMIT, max_turns=1_000)


class Listening(ModelProvider):
    """The scripted model, and what it was asked."""

    def __init__(self, summary: Callable[[ModelRequest], str | ModelError] | None = None) -> None:
        self._model = ScriptedModel()
        self._summary = summary
        self.turns: list[ModelRequest] = []
        self.summaries: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        if request.purpose == "compaction":
            self.summaries.append(request)
            if self._summary is not None:
                said = self._summary(request)
                if isinstance(said, ModelError):
                    raise said
                yield TextDelta(said)
                yield TurnEnd(Usage(input_tokens=100, output_tokens=10))
                return
        else:
            self.turns.append(request)
        async for event in self._model.stream(request):
            yield event


async def long_output(asked: Asked) -> CallOutcome:
    return outcome(f"output of {asked.what}\n" + "word " * 200)


def long_script(turns: int) -> str:
    """Written without any space: longer programs are parsed again for every turn."""
    calls = ({"calls": [{"tool": "code_execution", "arguments": {"code": str(number)}}]} for number in range(turns))
    return f"```script\n{json.dumps({'turns': [*calls, {'text': 'Done.'}]}, separators=(',', ':'))}\n```"


def text_of(request: ModelRequest) -> str:
    (step,) = request.history
    assert isinstance(step, UserInput)
    return "".join(block.text for block in step.content if isinstance(block, TextContent))


def assert_whole(read: Sequence[Step]) -> None:
    """Each call with its result, in order, and the program of the script."""
    assert_matched([step for step in read if not isinstance(step, UserInput)])
    assert isinstance(read[0], Summary) or type(read[0]) is UserInput


def summaries_in(read: Sequence[Step]) -> list[Summary]:
    return [step for step in read if isinstance(step, Summary)]


async def test_five_hundred_steps_in_a_window_of_eight_thousand_tokens(store: SqliteStore) -> None:
    model = Listening()
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    script = long_script(250)
    row = await world.run(script)
    assert row.status == "completed"
    steps = await world.steps(row.id)
    assert len(steps) == 501
    whole = [step for step in steps if isinstance(step, CodeExecutionResult)]
    assert all(str(step.result).count("word") == 200 for step in whole)  # the log has everything
    assert [asked.what for asked in world.sandbox.asked] == [str(number) for number in range(250)]
    program = tokens_of([UserInput(content=[TextContent(text=script)])])
    sizes = [tokens_of(request.history) for request in model.turns]
    assert len(sizes) == 251
    assert max(sizes) <= LIMIT + program
    assert max(sizes[200:]) <= max(sizes[50:200]) * 1.1  # it does not creep up
    for request in model.turns:
        assert_whole(request.history)
        last = next(step for step in reversed(request.history) if type(step) is UserInput)
        assert last.content == [TextContent(text=script)]
    assert model.summaries
    assert all(tokens_of(request.history) <= LIMIT for request in model.summaries)
    assert [request.turn for request in model.turns] == list(range(251))


async def test_the_log_says_what_was_done_and_readers_do_not_see_it(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(long_output), model=Listening(lambda _: "All is well."), limits=LIMITS)
    row = await world.run(long_script(80))
    log = await world.log(row.id)
    assert_ended_once(log, "completed")
    notes = bodies(log, "context.shortened")
    assert notes
    assert notes[-1]["summary"] == "All is well."
    assert "All is well." not in str(await world.steps(row.id))
    (completed,) = bodies(log, "interaction.completed")
    turns = [json.loads(event.body) for event in log if event.kind == "turn.ended"]
    total = Tokens.model_validate(completed["interaction"]["usage"])
    own = [turn["counted_tokens"] for turn in turns]
    assert total == Tokens.model_validate(turns[-1]["usage"])
    assert total.total_input_tokens == sum(own) + 100 * len([note for note in notes if note["summary"]])
    stops = [stop["step_usage"] for stop in bodies(log, "step.stop") if "step_usage" in stop]
    assert total.total_input_tokens == sum(stop["total_input_tokens"] for stop in stops)  # no summary is forgotten


async def test_the_next_interaction_goes_on_with_the_summary(store: SqliteStore) -> None:
    model = Listening(lambda request: f"Summary {len(model.summaries)}.")
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    first = await world.run(long_script(60))
    written = len(model.summaries)
    assert written
    model.turns.clear()
    second = await world.run(scripted({"text": "Here."}), previous_id=first.id)
    assert second.status == "completed"
    (request,) = model.turns
    (summary,) = summaries_in(request.history)
    assert f"Summary {written}." in str(summary)
    assert_whole(request.history)
    assert len(model.summaries) == written
    assert tokens_of(request.history) <= LIMIT


async def test_a_long_chain_of_short_interactions_is_bounded_too(store: SqliteStore) -> None:
    model = Listening()
    world = RunWorld(store, model=model, limits=LIMITS)
    previous: InteractionRow | None = None
    for number in range(30):
        text = scripted({"text": f"Answer {number}. " + "talk " * 400})
        previous = await world.run(text, previous_id=previous.id if previous else None)
        assert previous.status == "completed"
    assert max(tokens_of(request.history) for request in model.turns) <= LIMIT * 1.3
    assert len(summaries_in(model.turns[-1].history)) == 1
    assert len(model.summaries) < 10


async def test_the_earlier_summary_is_told_to_whoever_writes_the_next(store: SqliteStore) -> None:
    model = Listening(lambda _: f"Memory {len(model.summaries)}.")
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    await world.run(long_script(150))
    assert len(model.summaries) > 1
    first, second, *_ = map(text_of, model.summaries)
    assert "Memory" not in first
    assert "[call of code_execution]" in first
    assert "Memory 1." in second


@pytest.mark.parametrize("code", ["model_refused", "model_bad_request"])
async def test_a_summary_that_is_refused_is_done_without(store: SqliteStore, code: str) -> None:
    model = Listening(lambda _: ModelError("no", code=code))
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    row = await world.run(long_script(80))
    assert row.status == "completed"
    assert "not known any more" in str(summaries_in(model.turns[-1].history))


async def test_a_model_that_cannot_be_asked_for_a_summary_fails_the_run(store: SqliteStore) -> None:
    model = Listening(lambda _: ModelError("no key", code="model_auth"))
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    row = await world.run(long_script(80))
    assert row.status == "failed"
    (error,) = bodies(await world.log(row.id), "error")
    assert error["error"]["code"] == "model_auth"


async def test_a_summary_is_asked_for_again_if_that_may_help(store: SqliteStore) -> None:
    failures = iter([ModelError("busy", code="model_overloaded", retryable=True)])
    model = Listening(lambda _: next(failures, "Fine."))
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    row = await world.run(long_script(60))
    assert row.status == "completed"
    assert [request.attempt for request in model.summaries[:2]] == [0, 1]


def narrow(limit_tokens: int) -> Callable[[ModelRequest], list[ModelEvent | Exception]]:
    """A model whose window is smaller than anybody has said."""

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        if tokens_of(request.history) > limit_tokens:
            return [ModelError("too long", code="model_context_exceeded")]
        if request.purpose == "compaction":
            return [TextDelta("Short."), TurnEnd()]
        if request.turn < 60:
            return [CallStart("code_execution"), CallDelta('{"code": "ls", "language": "bash"}'), TurnEnd()]
        return [TextDelta("done"), TurnEnd()]

    return play


async def test_a_provider_that_can_read_less_is_found_out(store: SqliteStore) -> None:
    model = PlayedModel(narrow(5_000))
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=Limits(max_turns=100))
    row = await world.run("go")
    assert row.status == "completed"
    exceeded = bodies(await world.log(row.id), "context.exceeded")
    assert 1 <= len(exceeded) <= 3
    taken = [request for request in model.requests if tokens_of(request.history) <= 5_000]
    assert len(taken) >= 61


async def test_a_request_that_cannot_be_shorter_fails_with_what_the_provider_says(store: SqliteStore) -> None:
    world = RunWorld(store, model=PlayedModel(narrow(500)))
    row = await world.run("w" * 8_000)
    assert row.status == "failed"
    (error,) = bodies(await world.log(row.id), "error")
    assert error["error"]["code"] == "model_context_exceeded"


async def test_what_the_provider_counts_is_believed(store: SqliteStore) -> None:
    """Texts that take more tokens than usual are shortened earlier."""

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        usage = Usage(input_tokens=3 * tokens_of(request.history))
        if request.purpose == "compaction":
            return [TextDelta("Short."), TurnEnd(usage)]
        if request.turn < 40:
            call: list[ModelEvent | Exception] = [CallStart("code_execution")]
            return [*call, CallDelta('{"code": "ls", "language": "bash"}'), TurnEnd(usage)]
        return [TextDelta("done"), TurnEnd(usage)]

    model = PlayedModel(play)
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    row = await world.run("go")
    assert row.status == "completed"
    assert max(tokens_of(request.history) for request in model.requests) <= LIMIT / 3 * 1.2


async def test_a_limit_of_the_provider_wins(store: SqliteStore) -> None:
    model = Listening()
    model.context_limit_tokens = 4_000
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    await world.run(long_script(30))
    assert max(tokens_of(request.history) for request in model.turns) <= 5_000


async def test_refused_answers_do_not_move_the_cut(store: SqliteStore) -> None:
    form = [{"type": "text", "mime_type": "application/json", "schema": {"type": "object"}}]
    turns: list[dict[str, Any]] = [{"calls": [bash(f"echo {number}")]} for number in range(60)]
    model = Listening()
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    script = scripted(*turns, {"text": "no", "again": ["still no", "{}"]})
    row = await world.run(script, request={"response_format": form})
    assert row.status == "completed"
    for request in model.turns:
        assert_matched([step for step in request.history if not isinstance(step, UserInput)])


async def test_the_next_holder_reads_the_same(store: SqliteStore) -> None:
    """Taken up from the log, in the middle: the same requests from there on."""
    model = Listening(lambda _: "Memory.")
    world = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS)
    row = await world.run(long_script(60))
    log = await world.log(row.id)
    at = [event.kind for event in log].index("context.shortened")
    cut = next(number for number in range(at + 40, len(log)) if log[number].kind == "turn.started")
    asked_before = sum(event.kind == "turn.started" for event in log[:cut])
    later = Listening(lambda _: "Memory.")
    second = RunWorld(store, FakeSandbox(long_output), model=later, limits=LIMITS, generation=2)
    copy = await second.copied(row, log[:cut])
    await second.finish(copy)
    first = later.turns[0]
    before = model.turns[asked_before]
    assert len(first.history) == len(before.history)
    assert summaries_in(first.history) == summaries_in(before.history)
    calls = [step.id for step in before.history if isinstance(step, CodeExecutionCall)]
    assert [step.id for step in first.history if isinstance(step, CodeExecutionCall)] == calls


async def test_a_holder_that_is_lost_around_a_summary_leaves_the_run_whole(store: SqliteStore) -> None:
    world = RunWorld(store, FakeSandbox(long_output), model=Listening(lambda _: "Memory."), limits=LIMITS)
    row = await world.run(long_script(40))
    log = await world.log(row.id)
    at = [event.kind for event in log].index("context.shortened")
    for cut in range(at - 3, at + 4):
        model = Listening(lambda _: "Memory.")
        second = RunWorld(store, FakeSandbox(long_output), model=model, limits=LIMITS, generation=2)
        copy = await second.finish(await second.copied(row, log[:cut]))
        assert copy.status == "completed"
        calls = [step for step in await second.steps(copy.id) if isinstance(step, CodeExecutionCall)]
        assert [int(call.arguments.code) for call in calls if call.arguments.code] == list(range(40))
        for request in model.turns:
            assert_whole(request.history)
            assert tokens_of(request.history) <= LIMIT * 1.4
