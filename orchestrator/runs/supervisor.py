"""Who runs what: starts runs, waits for them, cancels them, takes up those that a crash or restart left, lets go at
the end.

Owns one task per run, and one that looks for runs without a task. The broad catch of the run boundary is here: a
mistake of ours fails one interaction, not the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from orchestrator import moments
from orchestrator.agents.catalogue import Catalogue
from orchestrator.agents.facts import facts_of
from orchestrator.agents.registry import AgentDefinition
from orchestrator.clock import Clock
from orchestrator.egress.posting import Posted, Poster
from orchestrator.errors import (
    ConfigError,
    CorralError,
    LeaseLost,
    LimitExceeded,
    LogDamaged,
    NetworkError,
    NotFound,
    SandboxError,
    StoreError,
)
from orchestrator.models.recording import Recordings
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.limits import Limits
from orchestrator.runs.brains import Brains
from orchestrator.runs.context import History, read_history, read_request, spent_s
from orchestrator.runs.ending import Ending
from orchestrator.runs.guidance import PLACES, read_guidance
from orchestrator.runs.loop import Loop
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.slots import Slots
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.specs import read_spec
from orchestrator.store.port import Store
from orchestrator.store.records import InteractionRow, RunKey
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.gate import Gate
from orchestrator.tools.mediator import Mediator
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.interactions import TERMINAL_STATUSES, InteractionError, InteractionRequest, Status
from orchestrator.wire.tools import ToolDeclaration

log = structlog.get_logger(__name__)

_SWEEP_S = 30.0
_TRIES = 5
"""So often a run is begun again that was lost by a mistake of ours; then it is ended, and if that fails, too, left."""
_STOP_PATIENCE_S = 12.0
"""Longer than a guest takes to end a call that does not want to. What it cannot end by then is ended when a link to it
is next opened."""
_STOP_AGAIN_S = 0.2
_FIRST_STORE_WAIT_S = 0.5
_LONGEST_STORE_WAIT_S = 10.0


class Supervisor:
    """All runs of this server."""

    def __init__(
        self,
        store: Store,
        environments: Environments,
        agents: Catalogue,
        models: ModelRegistry,
        limits: Limits,
        clock: Clock,
        *,
        generation: int,
        slots: Slots,
        max_runs_per_project: int,
        metrics: Metrics,
        poster: Poster,
        recordings: Recordings | None = None,
    ) -> None:
        self._store = store
        self._environments = environments
        self._agents = agents
        self._brains = Brains(store, models, metrics, recordings)
        self._limits = limits
        self._clock = clock
        self._generation = generation
        self._max_runs_per_project = max_runs_per_project
        self._slots = slots
        self._metrics = metrics
        self._poster = poster
        self._projects: Counter[str] = Counter()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._losses: Counter[str] = Counter()
        """How often a run's task ended without the run's end."""
        self._spent_s: dict[str, float] = {}
        """For how long runs have been worked on, where the log need not know: its last events may not be stored."""
        self._left: set[str] = set()
        """Runs that an earlier holder left: most of them wait for their model, and a sandbox can wait for a call."""
        self._sweeping: asyncio.Task[None] | None = None
        self._is_closing = False
        environments.claims = self.claims

    async def open(self) -> None:
        """Takes up every run that is not ended: the server that had it is gone, its lease with it."""
        await self._take_up()
        self._sweeping = asyncio.create_task(self._sweep(), name="runs-sweep")

    async def aclose(self) -> None:
        """Lets go of all runs. What they wrote is stored; the next server takes them up."""
        self._is_closing = True
        self._environments.let_go()
        tasks = [*self._tasks.values(), *([self._sweeping] if self._sweeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> list[str]:
        """Ids of interactions that run or wait for their turn."""
        return list(self._tasks)

    def check_room(self, project_id: str) -> None:
        """Raises `LimitExceeded` if the project has as many runs, waiting ones included, as it may."""
        if self._projects[project_id] >= self._max_runs_per_project:
            raise LimitExceeded(
                f"The project has {self._max_runs_per_project} interactions that run or wait; try again later."
            )

    def start(self, row: InteractionRow | RunKey) -> None:
        """Begins a run, unless it is under way; it lives on whoever leaves."""
        if row.id in self._tasks:
            return
        if row.is_cancelling:
            self._cancelled.add(row.id)
        # The row holds the whole request; a run that waits for its turn keeps the id only.
        key = RunKey(row.id, row.project_id, row.environment_id, row.is_cancelling, row.tier)
        task = asyncio.create_task(self._supervise(key), name=f"run-{row.id}")
        self._tasks[row.id] = task
        self._projects[row.project_id] += 1
        task.add_done_callback(functools.partial(self._forget, row.id, row.project_id))

    async def wait(self, interaction_id: str, *unless: asyncio.Event) -> None:
        """Returns when the run has ended, or one of `unless` is set. Cancelling the wait leaves the run alone."""
        task = self._tasks.get(interaction_id)
        if task is None:
            return
        waiting = [asyncio.ensure_future(event.wait()) for event in unless]
        try:
            await asyncio.wait([task, *waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def cancel(self, interaction_id: str) -> None:
        """Ends a run as `cancelled` and waits until that is written; nothing if it has ended.

        The wish is stored first: if this server dies before it is done, the next one does it.
        """
        try:
            if not await self._store.request_cancel(interaction_id):
                return
            moments.passed("cancel.stored")
        except StoreError as error:
            # It holds as long as this server lives, and nobody is told that it was done before it is.
            log.error("cancel_not_stored", interaction_id=interaction_id, reason=error.message)
        if interaction_id not in self._tasks:
            row = await self._store.interaction(None, interaction_id)
            if row is None or row.status in TERMINAL_STATUSES:
                return
            self.start(row)
        task = self._tasks[interaction_id]
        if interaction_id not in self._cancelled:
            self._cancelled.add(interaction_id)
            # A task that has not had its first step yet would end without a word.
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        moments.passed("cancel.ended")

    async def claims(self, environment_id: str) -> set[str]:
        """Ids of the environment's calls whose results are still wanted, by the logs of its runs: everything else that
        a guest has is left over.
        """
        claimed: set[str] = set()
        for key in await self._store.run_keys("in_progress"):
            if key.environment_id == environment_id:
                claimed.update((await self._readable(key.id)).in_flight)
        return claimed

    async def _take_up(self) -> None:
        keys = await self._store.run_keys("in_progress")
        self._losses = Counter({key.id: self._losses[key.id] for key in keys})
        for key in keys:
            if key.id not in self._tasks and self._losses[key.id] <= _TRIES:
                log.info("run_taken_up", interaction_id=key.id)
                self._left.add(key.id)
                self.start(key)

    async def _sweep(self) -> None:
        """Begins again what is in progress and has no task: its own was lost by a mistake of ours."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self._take_up()
            except StoreError as error:
                log.warning("runs_not_swept", reason=error.message)

    def _forget(self, interaction_id: str, project_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(interaction_id, None)
        self._cancelled.discard(interaction_id)
        self._spent_s.pop(interaction_id, None)
        self._left.discard(interaction_id)
        self._projects[project_id] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._losses[interaction_id] += 1
            log.error("run_lost", interaction_id=interaction_id, exc_info=error)

    async def _supervise(self, key: RunKey) -> None:
        """Runs until the end is written, however often the database has to be waited for."""
        interaction_id, environment_id = key.id, key.environment_id
        with structlog.contextvars.bound_contextvars(interaction_id=interaction_id, environment_id=environment_id):
            wait_s = 0.0
            while True:
                try:
                    await asyncio.sleep(wait_s)
                    await self._attempt(key)
                    self._losses.pop(interaction_id, None)
                    return
                except asyncio.CancelledError:
                    if self._is_closing or interaction_id not in self._cancelled:
                        raise
                    wait_s = 0.0  # now the end is written
                except LeaseLost as error:
                    self._losses[interaction_id] += 1
                    log.warning("run_lease_lost", reason=error.message)
                    return
                except StoreError as error:
                    # What was stored is whole; the run is rebuilt from it when the database takes writes again.
                    wait_s = min(2 * wait_s, _LONGEST_STORE_WAIT_S) or _FIRST_STORE_WAIT_S
                    log.error("run_not_stored", reason=error.message, again_in_s=wait_s)

    async def _attempt(self, key: RunKey) -> None:
        if key.id in self._cancelled:
            row = await self._claimed(key.id)
            self._note_end(await (await self._ending(row)).write("cancelled"))
            return
        async with self._slots.slot(key.project_id, key.tier):
            row = await self._claimed(key.id)
            if row.status not in TERMINAL_STATUSES:
                self._note_end(await self._run(row))

    def _note_end(self, status: Status) -> None:
        log.info("run_ended", status=status)
        self._metrics.interaction_ended(status)

    async def _run(self, row: InteractionRow) -> Status:
        error = InteractionError(
            code="internal", message="The server failed while it ran this interaction; its log has the details."
        )
        try:
            if self._losses[row.id] < _TRIES:
                has_guidance = await self._may_have_guidance(row)
                with self._holding(row):
                    return await self._go(row, has_guidance=has_guidance)
        except CorralError as failure:
            if isinstance(failure, LeaseLost | StoreError) and not isinstance(failure, LogDamaged):
                raise
            log.warning("run_failed", code=failure.code, reason=failure.message)
            error = InteractionError(code=failure.code, message=failure.message)
        except Exception:
            log.exception("run_broken")
        return await (await self._ending(row)).write("failed", error=error)

    async def _may_have_guidance(self, row: InteractionRow) -> bool:
        """Whether the environment may tell its agents something. Asked before the sandbox is got ready: in a new one
        there is what its sources put there.
        """
        if row.environment_id is None or row.is_model:
            return False
        return await self._environments.may_hold(row.environment_id, PLACES)

    async def _go(self, row: InteractionRow, *, has_guidance: bool) -> Status:
        loop = await self._prepare(row, has_guidance=has_guidance)
        begun = self._clock.monotonic()
        try:
            return await loop.run()
        finally:
            self._spent_s[row.id] = loop.spent_s + self._clock.monotonic() - begun

    @contextlib.contextmanager
    def _holding(self, row: InteractionRow) -> Iterator[None]:
        """Keeps the sandbox from resting; a new run's is got ready while the model still thinks."""
        if row.environment_id is None:
            yield
            return
        with self._environments.hold(row.environment_id, row.id):
            if row.id not in self._left:
                self._environments.prepare(row.environment_id)
            yield

    async def _claimed(self, interaction_id: str) -> InteractionRow:
        await self._store.claim(interaction_id, self._generation)
        moments.passed("run.claimed")
        row = await self._store.interaction(None, interaction_id)
        if row is None:
            raise LeaseLost(f"interaction {interaction_id} was deleted")
        return row

    async def _ending(self, row: InteractionRow) -> Ending:
        """What it takes to end a run whose own loop cannot: only its log, and of that what can be read."""
        return Ending(row, await self._readable(row.id), self._clock, functools.partial(self._stop, row))

    async def _readable(self, interaction_id: str) -> Recorder:
        stored = await self._store.read(interaction_id)
        return Recorder(self._store, interaction_id, self._generation, stored, passes_over_damage=True)

    async def _stop(self, row: InteractionRow, calls: Mapping[str, str]) -> None:
        """Ends calls of a run inside, if the guest that has them is there. Nothing is started for that."""
        if row.environment_id is None:
            return
        # A link that is cut just now is no reason to leave a process behind; no end is waited for without end.
        again = AsyncRetrying(retry=retry_if_exception_type(SandboxError), wait=wait_fixed(_STOP_AGAIN_S))
        try:
            async with asyncio.timeout(_STOP_PATIENCE_S):
                await again(self._stop_inside, row.environment_id, calls)
            moments.passed("cancel.stopped")
        except TimeoutError:
            log.warning("calls_not_stopped", calls=list(calls))

    async def _stop_inside(self, environment_id: str, calls: Mapping[str, str]) -> None:
        with contextlib.suppress(NotFound):  # the environment is being deleted, and all that is in it
            sandbox = await self._environments.running(environment_id)
            if sandbox is not None:
                left = [call_id for call_id, guest in calls.items() if guest == sandbox.guest_id]
                await asyncio.gather(*(sandbox.stop(call_id) for call_id in left))

    async def _prepare(self, row: InteractionRow, *, has_guidance: bool) -> Loop:
        request = read_request(row)
        agent = AgentDefinition(row.agent, model=row.agent) if row.is_model else await self._agents.recorded(row)
        brain = await self._brains.of(row, request, agent)
        stored = await self._store.read(row.id)
        recorder = Recorder(self._store, row.id, self._generation, stored)
        history = await read_history(self._store, row, request)
        has_environment = row.environment_id is not None
        reached = await self._environments.reached(row.environment_id) if row.environment_id is not None else None
        toolbox = _toolbox(request, history, agent, has_environment=has_environment)
        sandbox = functools.partial(self._sandbox, row)
        limits = agent.bounds.limits(self._limits)
        ending = Ending(row, recorder, self._clock, functools.partial(self._stop, row))
        gate = None
        if row.environment_id is not None:
            post = functools.partial(self._post, row.environment_id)
            hooks = recorder.hooks
            gate = Gate(lambda: recorder.guidance.hooks, hooks, sandbox, limits, recorder, row.environment_id, post)
        last_guest = recorder.last_guest or history.last_guest
        mediator = Mediator(toolbox, sandbox, limits, recorder, self._clock, last_guest, gate)
        return Loop(
            request,
            history,
            brain,
            toolbox,
            mediator,
            recorder,
            ending,
            limits,
            facts=facts_of(self._environments.image, *reached) if reached is not None else {},
            read_guidance=functools.partial(read_guidance, sandbox, limits.engine_patience_s) if has_guidance else None,
            spent_s=max(spent_s(stored, limits.call_timeout_s), self._spent_s.get(row.id, 0.0)),
        )

    async def _post(
        self,
        environment_id: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> Posted:
        """Under the rules that the environment has now."""
        if (row := await self._store.environment(None, environment_id)) is None:
            raise NetworkError("the environment is gone", code="network_refused")
        return await self._poster.post(
            read_spec(row).network,
            url,
            headers,
            body,
            timeout_s=timeout_s,
            limit_bytes=limit_bytes,
            project_id=row.project_id,
        )

    async def _sandbox(self, row: InteractionRow) -> Sandbox:
        if row.environment_id is None:
            raise ConfigError("a tool was called in a run without an environment")
        return await self._environments.sandbox(row.environment_id)


def _toolbox(
    request: InteractionRequest, history: History, agent: AgentDefinition, *, has_environment: bool
) -> Toolbox:
    if request.generation_config is not None and request.generation_config.tool_choice == "none":
        return Toolbox(())  # not even what needs no declaration
    return Toolbox.choose(_declared(request, history, agent), has_environment=has_environment)


def _declared(request: InteractionRequest, history: History, agent: AgentDefinition) -> Sequence[ToolDeclaration]:
    """What a run may use: what its request says, else what the calls it answers were of, else what its agent has."""
    if request.tools is not None:
        return request.tools
    return agent.tools if history.tools is None else history.tools
