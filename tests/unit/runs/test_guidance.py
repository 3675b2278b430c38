"""What an environment tells its agents: read once, bounded whatever is there, the same for all turns of a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.agents.guidance import Guide, Skill
from orchestrator.errors import EngineUnavailable, SandboxError, SandboxGone
from orchestrator.models.port import CallDelta, CallStart, ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.models.port import Usage as ModelUsage
from orchestrator.policy.limits import Limits
from orchestrator.runs.guidance import PLACES, guidance_of
from orchestrator.sandboxes.outcome import CallError, CallOutcome, Verdict
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.rows import interaction_row
from tests.fakes.runs import PlayedModel, RunWorld, assert_ended_once, bodies, kinds
from tests.fakes.sandboxes import Asked, FakeSandbox, done, outcome

pytestmark = pytest.mark.anyio

SKILL = "---\nname: {name}\ndescription: {description}\n---\n"


def file(path: str, text: str, size_bytes: int | None = None) -> dict[str, Any]:
    size = len(text.encode()) if size_bytes is None else size_bytes
    return {"path": path, "size_bytes": size, "text": text}


def skill(name: str, folder: str = "/.agents/skills", description: str = "Does it.") -> dict[str, Any]:
    return file(f"{folder}/{name}/SKILL.md", SKILL.format(name=name, description=description))


def found(*entries: Any, is_complete: Any = True) -> CallOutcome:
    return done("".join(json.dumps(entry) + "\n" for entry in entries), is_complete=is_complete)


# what an answer means


def test_guides_and_skills_in_the_order_of_places() -> None:
    guidance = guidance_of(
        found(
            file("/.agents/AGENTS.md", "Cite\r\nrows.\x00\n"),
            file("/workspace/AGENTS.md", "Be brief.", size_bytes=1 << 30),
            skill("charts"),
            skill("charts", "/workspace/.agents/skills"),
            {"path": "/.agents/skills/x\n\u202e/SKILL.md", "problem": "not a\nregular file"},
        )
    )
    left_out_bytes = (1 << 30) - len("Be brief.")
    assert guidance.guides == (
        Guide("/.agents/AGENTS.md", "Cite\nrows.\n"),
        Guide("/workspace/AGENTS.md", "Be brief.", left_out_bytes),
    )
    assert guidance.skills == (Skill("charts", "Does it.", "/.agents/skills/charts/SKILL.md"),)
    assert [(each.path, each.reason) for each in guidance.unread] == [
        ("/workspace/.agents/skills/charts/SKILL.md", "left out: /.agents/skills/charts/SKILL.md has the same name"),
        ("/.agents/skills/x\ufffd\ufffd/SKILL.md", "not a regular file"),
    ]


def test_nothing_is_nothing() -> None:
    assert not guidance_of(found())
    assert not guidance_of(found(file("/.agents/AGENTS.md", "\n \x00"), file("/etc/passwd", "root")))


def test_the_limits_hold_whatever_a_sandbox_answers() -> None:
    large = "ä" * 200_000
    guides = [file(path, large) for path in ("/.agents/AGENTS.md", "/workspace/.agents/AGENTS.md")]
    skills = [skill(f"skill-{n}") for n in range(150)]
    guidance = guidance_of(found(*guides, file("/workspace/AGENTS.md", large), *skills))
    sizes = [len(guide.text.encode()) for guide in guidance.guides]
    assert sizes == [64 << 10, 64 << 10, 0]
    assert guidance.guides[2].left_out_bytes == len(large.encode())
    assert len(guidance.skills) == 100
    assert len(guidance.unread) == 50
    assert "there may be 100 skills" in guidance.unread[0].reason
    wide = guidance_of(found(*(skill(f"skill-{n}", description="x" * 10_000) for n in range(50))))
    assert (len(wide.skills), {len(each.reason) for each in wide.unread if len(each.reason) > 200}) == (0, set())


@pytest.mark.parametrize(
    "answer",
    [
        done(b"[\n", is_complete=True),
        done(b"[]\n", is_complete=True),
        done(b"7\n", is_complete=True),
        done(b"\xff\n", is_complete=True),
        done(b"[" * 100_000, is_complete=True),
        found({"path": "/.agents/AGENTS.md", "size_bytes": "many", "text": "x"}),
        found({"path": "/.agents/AGENTS.md"}),
        found(is_complete=False),
        found(is_complete="no"),
        done("{}", is_complete=True, **{}),
        outcome("", exit_code=None, verdict=Verdict.TIMEOUT),
        outcome("", exit_code=None, verdict=Verdict.REFUSED, error=CallError("bad_request", "KeyError: 'excerpts'")),
    ],
)
def test_an_answer_that_makes_no_sense_is_told(answer: CallOutcome) -> None:
    guidance = guidance_of(answer)
    assert len(guidance.unread) == 1
    assert guidance.unread[0].path == "/.agents and /workspace"


# runs


class Reader:
    """A sandbox that has `entries`; of other calls it says what they were."""

    def __init__(self, *entries: Any, faults: Sequence[Exception] = ()) -> None:
        self.answers: list[CallOutcome | Exception] = [*faults, found(*entries)]
        self.sandbox = FakeSandbox(self._answer)

    @property
    def readings(self) -> list[Asked]:
        return [asked for asked in self.sandbox.asked if asked.verb == "excerpts"]

    async def _answer(self, asked: Asked) -> CallOutcome:
        await asyncio.sleep(0)
        if asked.verb != "excerpts":
            return outcome("done\n")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def play(request: ModelRequest) -> Sequence[ModelEvent]:
    if request.turn:
        return [TextDelta("Done."), TurnEnd(ModelUsage())]
    call = json.dumps({"language": "bash", "code": "ls"})
    return [CallStart("code_execution"), CallDelta(call), TurnEnd(ModelUsage())]


def world(store: SqliteStore, reader: Reader, **changes: Any) -> tuple[RunWorld, PlayedModel]:
    model = PlayedModel(play)
    made = RunWorld(store, reader.sandbox, model=model, **changes)
    made.environments.holds = PLACES
    return made, model


async def test_a_run_reads_once_and_all_its_turns_are_told_the_same(store: SqliteStore) -> None:
    reader = Reader(file("/.agents/AGENTS.md", "Cite rows."), skill("charts"), skill("Bad"))
    run, model = world(store, reader)
    row = await run.run("Go.")
    assert row.status == "completed"
    (reading,) = reader.readings
    assert reading.fields["timeout_s"] == 10
    assert reading.call_id in run.sandbox.acknowledged
    first, second = model.requests
    assert first.system == second.system
    assert '<guide path="/.agents/AGENTS.md">\nCite rows.\n</guide>' in first.system
    assert "- charts (/.agents/skills/charts/SKILL.md): Does it." in first.system
    events = await run.log(row.id)
    assert kinds(events)[2:5] == ["run.started", "context.read", "turn.started"]
    (noted,) = bodies(events, "context.read")
    assert noted["guides"] == [{"path": "/.agents/AGENTS.md", "text": "Cite rows.", "left_out_bytes": 0}]
    assert run.environments.looked_at == [False], "asked too late: what is being made may have anything"
    assert_ended_once(events, "completed")


async def test_what_cannot_be_used_is_told_to_model_and_operator(store: SqliteStore, logged: list[Any]) -> None:
    run, model = world(store, Reader(skill("Bad"), {"path": "/workspace/AGENTS.md", "problem": "not a regular file"}))
    assert (await run.run("Go.")).status == "completed"
    assert "- /workspace/AGENTS.md: not a regular file" in model.requests[0].system
    told = [(each["path"], each["log_level"]) for each in logged if each["event"] == "guidance_not_read"]
    assert told == [("/.agents/skills/Bad/SKILL.md", "warning"), ("/workspace/AGENTS.md", "warning")]


async def test_where_nothing_is_nothing_is_noted(store: SqliteStore) -> None:
    run, model = world(store, Reader())
    row = await run.run("Go.")
    assert "context.read" not in kinds(await run.log(row.id))
    assert "Guides" not in model.requests[0].system


async def test_where_nothing_can_be_nobody_looks(store: SqliteStore) -> None:
    reader = Reader(file("/.agents/AGENTS.md", "Cite rows."))
    run, model = world(store, reader)
    run.environments.holds = ()
    await run.run("Go.")
    assert reader.readings == []
    assert "Cite rows." not in model.requests[0].system


async def test_a_model_that_is_asked_without_an_agent_is_told_nothing(store: SqliteStore) -> None:
    reader = Reader(file("/.agents/AGENTS.md", "Cite rows."))
    run, model = world(store, reader)
    row = await run.row("Go.")
    body = {"model": "played", "input": "Go.", "tools": [{"type": "code_execution"}]}
    fields = {"environment_id": row.environment_id, "agent": "played", "is_model": True, "request": json.dumps(body)}
    asked = interaction_row(row.project_id, **fields)
    await store.create_interaction(asked, [])
    assert (await run.finish(asked)).status == "completed"
    assert reader.readings == []
    assert run.environments.looked_at == []
    assert model.requests[0].system.startswith("Facts about this run")


async def test_a_run_that_is_taken_up_goes_on_with_what_it_was_told(store: SqliteStore) -> None:
    run, model = world(store, Reader(file("/.agents/AGENTS.md", "Cite rows.")))
    first = await run.run("Go.")
    whole = await run.log(first.id)
    told = model.requests[0].system
    begin = kinds(whole).index("context.read")
    for length in range(begin, len(whole)):
        reader = Reader(file("/.agents/AGENTS.md", "Changed since."))
        later, again = world(store, reader, generation=2)
        row = await later.row("Go.")
        prefix = [NewEvent(event.kind, event.body) for event in whole[2:length]]
        await store.append(row.id, prefix, generation=1, expected_seq=3)
        await later.finish(row)
        assert (await later.stored(row.id)).status == "completed", length
        is_told = length > begin
        assert len(reader.readings) == (0 if is_told else 1)
        expected = told if is_told else told.replace("Cite rows.", "Changed since.")
        assert {request.system for request in again.requests} <= {expected}, length


async def test_a_run_that_had_begun_without_is_not_told_in_the_middle(store: SqliteStore) -> None:
    run, _ = world(store, Reader())
    whole = await run.log((await run.run("Go.")).id)
    reader = Reader(file("/.agents/AGENTS.md", "New."))
    later, model = world(store, reader, generation=2)
    row = await later.row("Go.")
    length = kinds(whole).index("turn.started") + 1
    prefix = [NewEvent(event.kind, event.body) for event in whole[2:length]]
    await store.append(row.id, prefix, generation=1, expected_seq=3)
    await later.finish(row)
    assert reader.readings == []
    assert "New." not in model.requests[0].system


async def test_a_link_that_is_cut_is_no_end_of_it(store: SqliteStore) -> None:
    reader = Reader(file("/.agents/AGENTS.md", "Cite rows."), faults=[SandboxGone("cut"), SandboxGone("cut again")])
    run, model = world(store, reader)
    assert (await run.run("Go.")).status == "completed"
    assert "Cite rows." in model.requests[0].system
    assert len({asked.call_id for asked in reader.readings}) == 3


@pytest.mark.parametrize("error", [EngineUnavailable("it does not answer"), SandboxGone("it was removed")])
async def test_without_a_sandbox_the_run_fails_as_for_a_tool_call(store: SqliteStore, error: SandboxError) -> None:
    model = PlayedModel(play)
    run = RunWorld(store, error, model=model)
    run.environments.holds = PLACES
    row = await run.run("Go.")
    assert row.status == "failed"
    (told,) = bodies(await run.log(row.id), "error")
    assert told["error"]["code"] == error.code
    assert model.requests == []


async def test_what_never_holds_ends_with_its_patience(store: SqliteStore) -> None:
    reader = Reader(faults=[SandboxGone("cut")] * 20)
    run, _ = world(store, reader, limits=Limits(engine_patience_s=0.2))
    assert (await run.run("Go.")).status == "failed"
    assert len(reader.readings) > 1
