"""Hooks in runs: a denied call is not made, and a run that is taken up asks no hook twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runs.guidance import PLACES, guidance_of
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import SqliteStore
from orchestrator.wire.steps import CodeExecutionResult
from tests.fakes.runs import RunWorld, assert_matched, bash, bodies, kinds, scripted
from tests.fakes.sandboxes import Asked, FakeSandbox, done, outcome

pytestmark = pytest.mark.anyio

ALLOW, DENY = '{"decision": "allow"}', '{"decision": "deny", "reason": "No."}'
STORY = scripted({"calls": [bash("ls")]}, {"text": "Done: {{last}}"})


def hooks_file(event: str, *answers: str) -> str:
    rules = [{"matcher": "code", "hooks": [{"type": "command", "command": answer} for answer in answers]}]
    return json.dumps({"g": {event: rules}})


def inside(text: str, guest_id: str = "guest-1") -> FakeSandbox:
    """A sandbox with that hooks.json, whose hooks answer what their command is."""
    line = json.dumps({"path": "/.agents/hooks.json", "size_bytes": len(text), "text": text}) + "\n"

    async def answer(asked: Asked) -> CallOutcome:
        await asyncio.sleep(0)
        if asked.verb == "excerpts":
            return done(line, is_complete=True)
        return outcome(asked.what if asked.verb == "execute" else f"output of {asked.what}")

    return FakeSandbox(answer, guest_id)


def world(store: SqliteStore, sandbox: FakeSandbox, **changes: Any) -> RunWorld:
    made = RunWorld(store, sandbox, **changes)
    made.environments.holds = PLACES
    return made


async def result_of(run: RunWorld, interaction_id: str) -> CodeExecutionResult:
    steps = await run.steps(interaction_id)
    assert_matched(steps)
    (result,) = (step for step in steps if isinstance(step, CodeExecutionResult))
    return result


async def test_a_denied_call_is_not_made_and_the_model_reads_why(store: SqliteStore) -> None:
    run = world(store, inside(hooks_file("pre_tool_execution", ALLOW, DENY)))
    row = await run.run(STORY)
    assert row.status == "completed"
    result = await result_of(run, row.id)
    assert (result.is_error, result.result) == (True, "a hook of this environment denied the call: No.")
    assert [asked.verb for asked in run.sandbox.asked] == ["excerpts", "execute", "execute"]
    assert "tool.started" not in kinds(await run.log(row.id))


async def test_hooks_are_asked_before_the_call_is_written_down(store: SqliteStore) -> None:
    run = world(store, inside(hooks_file("pre_tool_execution", ALLOW)))
    row = await run.run(STORY)
    order = [kind for kind in kinds(await run.log(row.id)) if kind.startswith(("hook.", "tool."))]
    assert order == ["hook.started", "hook.ended", "tool.started", "tool.output", "tool.ended"]


async def test_a_result_that_is_withheld_is_not_shown(store: SqliteStore) -> None:
    run = world(store, inside(hooks_file("post_tool_execution", DENY)))
    result = await result_of(run, (await run.run(STORY)).id)
    assert result.is_error
    assert isinstance(result.result, str)
    assert "was made, but" in result.result
    assert "output of ls" not in result.result


@pytest.mark.parametrize("event", ["pre_tool_execution", "post_tool_execution"])
async def test_taken_up_from_everywhere_no_hook_is_asked_twice(tmp_path: Path, store: SqliteStore, event: str) -> None:
    text = hooks_file(event, ALLOW, ALLOW)
    run = world(store, inside(text))
    first = await run.run(STORY)
    whole = await run.log(first.id)
    for length in range(kinds(whole).index("context.read") + 1, len(whole)):
        prefix = whole[2:length]
        sandbox = inside(text)
        if "tool.started" in kinds(prefix) and "tool.ended" not in kinds(prefix):
            (started,) = bodies(prefix, "tool.started")
            await sandbox.remember(started["call_id"], outcome("output of ls"))
        later = world(store, sandbox, generation=2)
        row = await later.row(STORY)
        await store.append(row.id, [NewEvent(event.kind, event.body) for event in prefix], generation=1, expected_seq=3)
        await later.finish(row)
        assert (await later.stored(row.id)).status == "completed", length
        answered = [each["hook_id"] for each in bodies(prefix, "hook.ended")]
        assert not set(answered) & set(sandbox.carried_out), length
        ended = [each["hook_id"] for each in bodies(await later.log(row.id), "hook.ended")]
        assert len(ended) == len(set(ended)) == 2, length


async def test_a_cancel_stops_the_hook_inside(store: SqliteStore) -> None:
    text = hooks_file("pre_tool_execution", ALLOW)
    asked_now = asyncio.Event()
    quick = inside(text)

    async def answer(asked: Asked) -> CallOutcome:
        if asked.verb == "execute":
            asked_now.set()
            await asyncio.Event().wait()
        return await quick._carry_out(asked)

    run = world(store, FakeSandbox(answer))
    row = await run.row(STORY)
    run.supervisor.start(row)
    async with asyncio.timeout(20):
        await asked_now.wait()
        await run.supervisor.cancel(row.id)
    assert (await run.stored(row.id)).status == "cancelled"
    (hook_id,) = (each["hook_id"] for each in bodies(await run.log(row.id), "hook.started"))
    assert run.sandbox.stopped == [hook_id]
    assert run.sandbox.running == []


def test_what_cannot_be_used_is_told_and_holds_nothing() -> None:
    def read(text: str, size_bytes: int | None = None) -> Any:
        entry = {"path": "/.agents/hooks.json", "size_bytes": size_bytes or len(text), "text": text}
        return guidance_of(done(json.dumps(entry) + "\n", is_complete=True))

    for guidance, told in (
        (read("{"), "Malformed JSON"),
        (read("{}", size_bytes=1 << 20), "more than 256 KiB"),
        (read('{"g": {"post_tool_execution": [{"hooks": [{"type": "http"}]}]}}'), "'url'"),
    ):
        assert told in guidance.unread[0].reason
        assert len(guidance.hooks) == 1
    assert read("{}").unread == ()
