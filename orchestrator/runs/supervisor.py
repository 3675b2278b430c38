"""Who runs what: starts runs, waits for them, cancels them, takes up those that a crash or restart left, lets go at
the end.

Owns one task per run. The broad catch of the run boundary is here: a mistake of ours fails one interaction, not the
server.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter

import structlog

from orchestrator.agents.registry import AgentRegistry
from orchestrator.clock import Clock
from orchestrator.errors import ConfigError, CorralError, LeaseLost, LimitExceeded, LogDamaged, StoreError
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.limits import Limits
from orchestrator.runs.context import read_history, read_request
from orchestrator.runs.ending import Ending
from orchestrator.runs.loop import Brain, Loop
from orchestrator.runs.recorder import Recorder
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.store.port import InteractionRow, Store
from orchestrator.tools.mediator import Mediator
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.interactions import TERMINAL_STATUSES, InteractionError, Status

log = structlog.get_logger(__name__)

_PAGE = 200
_FIRST_STORE_WAIT_S = 0.5
_LONGEST_STORE_WAIT_S = 30.0


class Supervisor:
    """All runs of this server."""

    def __init__(
        self,
        store: Store,
        environments: Environments,
        agents: AgentRegistry,
        models: ModelRegistry,
        limits: Limits,
        clock: Clock,
        *,
        generation: int,
        max_concurrent_runs: int,
        max_runs_per_project: int,
    ) -> None:
        self._store = store
        self._environments = environments
        self._agents = agents
        self._models = models
        self._limits = limits
        self._clock = clock
        self._generation = generation
        self._max_runs_per_project = max_runs_per_project
        self._slots = asyncio.Semaphore(max_concurrent_runs)
        self._projects: Counter[str] = Counter()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._is_closing = False

    async def open(self) -> None:
        """Takes up every run that is not ended: the server that had it is gone, its lease with it."""
        after: str | None = None
        while rows := await self._store.interactions(None, status="in_progress", after=after, limit=_PAGE):
            for row in rows:
                log.info("run_taken_up", interaction_id=row.id)
                self.start(row)
            after = rows[-1].id

    async def aclose(self) -> None:
        """Lets go of all runs. What they wrote is stored; the next server takes them up."""
        self._is_closing = True
        self._environments.let_go()
        tasks = list(self._tasks.values())
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

    def start(self, row: InteractionRow) -> None:
        """Begins a run; it lives on whoever leaves."""
        # The row holds the whole request; a run that waits for its turn keeps the id only.
        task = asyncio.create_task(self._supervise(row.id, row.environment_id), name=f"run-{row.id}")
        self._tasks[row.id] = task
        self._projects[row.project_id] += 1
        task.add_done_callback(functools.partial(self._forget, row.id, row.project_id))

    async def wait(self, interaction_id: str) -> None:
        """Returns when the run has ended. Cancelling the wait leaves the run alone."""
        task = self._tasks.get(interaction_id)
        if task is not None:
            await asyncio.wait([task])

    async def cancel(self, interaction_id: str) -> None:
        """Ends a run as `cancelled` and waits until that is written; nothing if it does not run."""
        task = self._tasks.get(interaction_id)
        if task is not None and not task.done():
            if interaction_id not in self._cancelled:
                self._cancelled.add(interaction_id)
                # A task that has not had its first step yet would end without a word.
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])

    def _forget(self, interaction_id: str, project_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(interaction_id, None)
        self._cancelled.discard(interaction_id)
        self._projects[project_id] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("run_lost", interaction_id=interaction_id, exc_info=error)

    async def _supervise(self, interaction_id: str, environment_id: str | None) -> None:
        """Runs until the end is written, however often the database has to be waited for."""
        with structlog.contextvars.bound_contextvars(interaction_id=interaction_id, environment_id=environment_id):
            wait_s = 0.0
            while True:
                try:
                    await asyncio.sleep(wait_s)
                    await self._attempt(interaction_id)
                    return
                except asyncio.CancelledError:
                    if self._is_closing or interaction_id not in self._cancelled:
                        raise
                    wait_s = 0.0  # now the end is written
                except LeaseLost as error:
                    log.warning("run_lease_lost", reason=error.message)
                    return
                except StoreError as error:
                    # What was stored is whole; the run is rebuilt from it when the database takes writes again.
                    wait_s = min(2 * wait_s, _LONGEST_STORE_WAIT_S) or _FIRST_STORE_WAIT_S
                    log.error("run_not_stored", reason=error.message, again_in_s=wait_s)

    async def _attempt(self, interaction_id: str) -> None:
        if interaction_id in self._cancelled:
            row = await self._claimed(interaction_id)
            log.info("run_ended", status=await (await self._ending(row)).write("cancelled"))
            return
        async with self._slots:
            row = await self._claimed(interaction_id)
            if row.status not in TERMINAL_STATUSES:
                log.info("run_ended", status=await self._run(row))

    async def _run(self, row: InteractionRow) -> Status:
        try:
            if row.environment_id is not None:
                self._environments.prepare(row.environment_id)
            return await (await self._prepare(row)).run()
        except CorralError as failure:
            if isinstance(failure, LeaseLost | StoreError) and not isinstance(failure, LogDamaged):
                raise
            log.warning("run_failed", code=failure.code, reason=failure.message)
            error = InteractionError(code=failure.code, message=failure.message)
        except Exception:
            log.exception("run_broken")
            error = InteractionError(
                code="internal", message="The server failed while it ran this interaction; its log has the details."
            )
        finally:
            if row.environment_id is not None:
                self._environments.touch(row.environment_id)
        return await (await self._ending(row)).write("failed", error=error)

    async def _claimed(self, interaction_id: str) -> InteractionRow:
        await self._store.claim(interaction_id, self._generation)
        row = await self._store.interaction(None, interaction_id)
        if row is None:
            raise LeaseLost(f"interaction {interaction_id} was deleted")
        return row

    async def _ending(self, row: InteractionRow) -> Ending:
        """What it takes to end a run whose own loop cannot: only its log, and of that what can be read."""
        stored = await self._store.read(row.id)
        recorder = Recorder(self._store, row.id, self._generation, stored, passes_over_damage=True)
        return Ending(row, recorder, self._clock)

    async def _prepare(self, row: InteractionRow) -> Loop:
        request = read_request(row)
        agent = self._agents.resolve(row.agent)
        model, provider = self._models.resolve(request.agent_model or agent.model)
        declared = agent.tools if request.tools is None else request.tools
        has_environment = row.environment_id is not None
        toolbox = Toolbox.choose(declared, has_environment=has_environment)
        recorder = Recorder(self._store, row.id, self._generation, await self._store.read(row.id))
        history = await read_history(self._store, row, request)
        sandbox = functools.partial(self._sandbox, row)
        limits = agent.bounds.limits(self._limits)
        mediator = Mediator(toolbox, sandbox, limits, recorder, self._clock)
        brain = Brain(agent, model, provider)
        ending = Ending(row, recorder, self._clock)
        return Loop(
            request,
            history,
            brain,
            toolbox,
            mediator,
            recorder,
            ending,
            limits,
            has_environment=has_environment,
        )

    async def _sandbox(self, row: InteractionRow) -> Sandbox:
        if row.environment_id is None:
            raise ConfigError("a tool was called in a run without an environment")
        return await self._environments.sandbox(row.environment_id)
