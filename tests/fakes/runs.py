"""Runs without an engine: a real store, the real supervisor and loop, a model and a sandbox as the test wants them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from orchestrator.agents.catalogue import Catalogue
from orchestrator.agents.registry import AgentDefinition, AgentRegistry
from orchestrator.clock import SystemClock
from orchestrator.credentials.exchange import TokenExchange
from orchestrator.credentials.keys import GivenKeys
from orchestrator.credentials.sealing import SealingKey
from orchestrator.credentials.vault import Vault
from orchestrator.egress.posting import Poster
from orchestrator.models.port import ModelEvent, ModelProvider, ModelRequest
from orchestrator.models.recording import Recordings
from orchestrator.models.registry import ModelRegistry
from orchestrator.models.scripted import ScriptedModel
from orchestrator.policy.bounds import UNBOUND, Bounds
from orchestrator.policy.limits import Limits
from orchestrator.policy.network import HostList
from orchestrator.runs.intake import Intake, _first_events
from orchestrator.runs.replies import Replies
from orchestrator.runs.slots import Slots
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.profiles import Profiles
from orchestrator.store.port import Store
from orchestrator.store.records import EnvironmentRow, Event, InteractionRow, NewEvent
from orchestrator.telemetry.metrics import Metrics
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.events import fold
from orchestrator.wire.steps import CodeExecutionCall, CodeExecutionResult, FunctionCall, FunctionResult, Step
from orchestrator.wire.tools import CodeExecutionTool
from tests.fakes.rows import environment_row, interaction_row
from tests.fakes.sandboxes import FakeSandbox
from tests.fakes.snapshots import KeptSnapshots

AGENTS = AgentRegistry(
    {
        "general": AgentDefinition("general", tools=(CodeExecutionTool(),)),
        "lost": AgentDefinition("lost", model="nowhere:model"),
        "brief": AgentDefinition(
            "brief",
            tools=(CodeExecutionTool(),),
            bounds=Bounds(memory_bytes=1 << 30, call_timeout_s=7, run_timeout_s=0.5, output_limit_bytes=2048),
        ),
    },
    {},
)


def scripted(*turns: dict[str, Any]) -> str:
    """The input that makes the scripted model play these turns: JSON is YAML, too."""
    return f"```script\n{json.dumps({'turns': turns})}\n```"


def bash(code: str) -> dict[str, Any]:
    return {"tool": "code_execution", "arguments": {"language": "bash", "code": code}}


class FakeEnvironments:
    """Hands out one sandbox, or fails as the test says."""

    def __init__(self, store: Store, sandbox: FakeSandbox | Exception) -> None:
        self._store = store
        self.given: FakeSandbox | Exception = sandbox
        self.inside: FakeSandbox | None = sandbox if isinstance(sandbox, FakeSandbox) else None
        """What runs, whether it is handed out or not."""
        self.prepared: list[str] = []
        self.has_let_go = False
        self.held: list[str] = []
        self.let: list[str] = []
        self.claims: Callable[[str], Awaitable[set[str]]] | None = None
        self.image = "test"
        self.holds: Sequence[str] = ()
        """Places at which there may be files."""
        self.looked_at: list[bool] = []
        """For each time that somebody asked for those: whether the sandbox was being got ready already."""

    @asynccontextmanager
    async def drafted(
        self, project_id: str, _spec: EnvironmentSpec, **_fields: Any
    ) -> AsyncGenerator[tuple[EnvironmentRow, str | None], None]:
        now = SystemClock().now()
        yield environment_row(project_id, created=now, updated=now), None

    async def find(self, project_id: str, environment_id: str) -> EnvironmentRow:
        row = await self._store.environment(project_id, environment_id)
        assert row is not None
        return row

    async def change(self, _row: EnvironmentRow, _spec: EnvironmentSpec) -> None:
        await asyncio.sleep(0)

    async def may_hold(self, environment_id: str, places: Sequence[str]) -> bool:
        await asyncio.sleep(0)
        self.looked_at.append(environment_id in self.prepared)
        return any(place in self.holds for place in places)

    async def reached(self, _environment_id: str) -> Reached:
        await asyncio.sleep(0)
        return Reached("none", (), (), ())

    @contextmanager
    def hold(self, environment_id: str, interaction_id: str = "") -> Iterator[None]:
        self.held.append(environment_id)
        try:
            yield
        finally:
            self.let.append(environment_id)

    def prepare(self, environment_id: str) -> None:
        self.prepared.append(environment_id)

    def let_go(self) -> None:
        self.has_let_go = True

    async def sandbox(self, environment_id: str) -> Sandbox:
        await asyncio.sleep(0)
        if isinstance(self.given, Exception):
            raise self.given
        return self.given.as_sandbox()

    async def running(self, environment_id: str) -> Sandbox | None:
        await asyncio.sleep(0)
        return self.inside.as_sandbox() if self.inside is not None else None


class PlayedModel(ModelProvider):
    """Plays what `play` gives for each request; an exception among the events is raised in its place."""

    def __init__(self, play: Callable[[ModelRequest], Sequence[ModelEvent | Exception]]) -> None:
        self._play = play
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.requests.append(request)
        for event in self._play(request):
            if isinstance(event, Exception):
                raise event
            yield event


class RunWorld:
    """One project and environment, and a supervisor on them."""

    def __init__(
        self,
        store: Store,
        sandbox: FakeSandbox | Exception | None = None,
        *,
        model: ModelProvider | None = None,
        limits: Limits | None = None,
        generation: int = 1,
        slots: int = 8,
        per_project: int = 50,
        recordings: Recordings | None = None,
    ) -> None:
        self.store = store
        self.sandbox = sandbox if isinstance(sandbox, FakeSandbox) else FakeSandbox()
        self.environments = FakeEnvironments(store, sandbox if sandbox is not None else self.sandbox)
        provider = model or ScriptedModel()
        models = ModelRegistry("played", {"played": lambda: provider})
        self.metrics = Metrics(models.named)
        clock = SystemClock()
        self.agents = Catalogue(store, AGENTS, clock, models.resolve, KeptSnapshots())
        self.supervisor = Supervisor(
            store,
            self.environments,  # type: ignore[arg-type]
            self.agents,
            models,
            limits or Limits(),
            clock,
            generation=generation,
            slots=Slots(slots, slots),
            max_runs_per_project=per_project,
            metrics=self.metrics,
            poster=Poster(HostList()),
            recordings=recordings,
        )
        self.replies = Replies(store, clock, generation, 300.0)
        keys = GivenKeys([SealingKey.new().text])
        self.credentials = Vault(store, keys, TokenExchange(Poster(HostList())), clock)
        self.intake = Intake(
            store,
            self.environments,  # type: ignore[arg-type]
            self.supervisor,
            self.agents,
            models,
            clock,
            Profiles("test", UNBOUND),
            self.replies,
            credentials=self.credentials,
            generation=generation,
        )

    async def row(self, text: str, *, has_environment: bool = True, **changes: Any) -> InteractionRow:
        """A stored interaction whose run has not begun."""
        project = await self.store.default_project()
        now = SystemClock().now()
        environment_id = None
        if has_environment:
            environment = environment_row(project.id, created=now, updated=now)
            await self.store.create_environment(environment)
            environment_id = environment.id
        request = {"agent": "general", "input": text, **changes.pop("request", {})}
        fields = {"environment_id": environment_id, "created": now, "updated": now, **changes}
        row = interaction_row(fields.pop("project_id", project.id), request=json.dumps(request), **fields)
        await self.store.create_interaction(row, _first_events(row))
        return row

    async def run(self, text: str, **changes: Any) -> InteractionRow:
        """A run from start to end; the row as it is then."""
        row = await self.row(text, **changes)
        return await self.finish(row)

    async def finish(self, row: InteractionRow) -> InteractionRow:
        self.supervisor.start(row)
        async with asyncio.timeout(20):
            await self.supervisor.wait(row.id)
        return await self.stored(row.id)

    async def stored(self, interaction_id: str) -> InteractionRow:
        row = await self.store.interaction(None, interaction_id)
        assert row is not None
        return row

    async def copied(self, row: InteractionRow, events: Sequence[Event]) -> InteractionRow:
        """Another interaction of the same request, whose last holder was lost after `events`."""
        now = SystemClock().now()
        fields = {"environment_id": row.environment_id, "created": now, "updated": now}
        copy = interaction_row(row.project_id, request=row.request, **fields)
        await self.store.create_interaction(copy, [NewEvent(event.kind, event.body) for event in events])
        return copy

    async def log(self, interaction_id: str) -> list[Event]:
        return await self.store.read(interaction_id)

    async def steps(self, interaction_id: str) -> list[Step]:
        return fold((event.kind, event.body) for event in await self.log(interaction_id))


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.kind for event in events]


def bodies(events: Sequence[Event], kind: str) -> list[dict[str, Any]]:
    return [json.loads(event.body) for event in events if event.kind == kind]


def without_ids(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps with the ids of calls replaced by their order."""
    order: dict[str, str] = {}
    plain = []
    for step in steps:
        fields = step.model_dump()
        for name in ("id", "call_id"):
            if name in fields:
                fields[name] = order.setdefault(fields[name], f"call {len(order)}")
        plain.append(fields)
    return plain


def assert_matched(steps: Sequence[Step]) -> None:
    """Every call has exactly one result, after it."""
    open_calls: list[str] = []
    for step in steps:
        if isinstance(step, CodeExecutionCall | FunctionCall):
            open_calls.append(step.id)
        elif isinstance(step, CodeExecutionResult | FunctionResult):
            assert step.call_id in open_calls, f"a result without a call, or a second one: {step}"
            open_calls.remove(step.call_id)
    assert open_calls == []


def assert_ended_once(events: Sequence[Event], status: str) -> None:
    """The log's last event is its one end, nothing is left open."""
    found = kinds(events)
    assert found.count("interaction.completed") == 1
    assert found[-1] == "interaction.completed"
    assert json.loads(events[-1].body)["interaction"]["status"] == status
    assert found.count("step.start") == found.count("step.stop")
    begun = [json.loads(event.body)["index"] for event in events if event.kind == "step.start"]
    assert begun == list(range(len(begun)))


def replaced(row: InteractionRow, **changes: Any) -> InteractionRow:
    return dataclasses.replace(row, **changes)


async def taken_up(
    store: Store, whole: Sequence[Event], length: int, program: str, **changes: Any
) -> tuple[RunWorld, str]:
    """A run whose holder was lost after so many events of `whole`, run to its end by the next holder. `changes` are
    those of `RunWorld.row`.
    """
    row = await RunWorld(store).row(program, **changes)
    stored = await store.read(row.id)
    prefix = [NewEvent(event.kind, event.body) for event in whole[len(stored) : length]]
    if prefix:
        await store.append(row.id, prefix, generation=1, expected_seq=len(stored) + 1)
    later = RunWorld(store, FakeSandbox(), generation=2)
    await later.supervisor.open()
    async with asyncio.timeout(20):
        await later.supervisor.wait(row.id)
    await later.supervisor.aclose()
    return later, row.id


def is_in_shown_turn(prefix: Sequence[Event]) -> bool:
    """A turn was under way and had shown something: it is asked again, and what it showed stays."""
    shown = under_way = False
    for event in prefix:
        if event.kind == "turn.started":
            shown, under_way = False, True
        elif event.kind == "turn.ended":
            under_way = False
        elif event.kind == "step.start":
            shown = True
    return under_way and shown
