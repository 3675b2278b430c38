"""Who runs what: starts runs, waits for them, cancels them, takes up those that a crash or restart left, lets go at
the end.

Owns one task per run. The broad catch of the run boundary is here: a mistake of ours fails one interaction, not the
server.
"""

from __future__ import annotations

import asyncio
import functools

import structlog

from orchestrator.agents.registry import AgentRegistry
from orchestrator.clock import Clock
from orchestrator.errors import ConfigError, CorralError, LeaseLost, StoreError
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.limits import Limits
from orchestrator.runs.context import read_history, read_request
from orchestrator.runs.loop import Brain, Loop
from orchestrator.runs.recorder import Recorder
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.store.port import InteractionRow, Store
from orchestrator.tools.mediator import Mediator
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.interactions import InteractionError, Status

log = structlog.get_logger(__name__)

_PAGE = 200


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
    ) -> None:
        self._store = store
        self._environments = environments
        self._agents = agents
        self._models = models
        self._limits = limits
        self._clock = clock
        self._generation = generation
        self._slots = asyncio.Semaphore(max_concurrent_runs)
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
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> list[str]:
        """Ids of interactions that run or wait for their turn."""
        return list(self._tasks)

    def start(self, row: InteractionRow) -> None:
        """Begins a run; it lives on whoever leaves."""
        task = asyncio.create_task(self._supervise(row), name=f"run-{row.id}")
        self._tasks[row.id] = task
        task.add_done_callback(functools.partial(self._forget, row.id))

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
                task.cancel()
            await asyncio.wait([task])

    def _forget(self, interaction_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(interaction_id, None)
        self._cancelled.discard(interaction_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("run_lost", interaction_id=interaction_id, exc_info=error)

    async def _supervise(self, row: InteractionRow) -> None:
        loop: Loop | None = None
        with structlog.contextvars.bound_contextvars(interaction_id=row.id, environment_id=row.environment_id):
            try:
                async with self._slots:
                    if row.environment_id is not None:
                        self._environments.prepare(row.environment_id)
                    loop = await self._prepare(row)
                    status = await loop.run()
                    log.info("run_ended", status=status)
            except asyncio.CancelledError:
                if self._is_closing or row.id not in self._cancelled:
                    raise
                log.info("run_ended", status=await self._end(row, loop, None))
            except LeaseLost as error:
                log.warning("run_lease_lost", reason=error.message)
            except StoreError as error:
                log.error("run_not_stored", reason=error.message)
            except CorralError as error:
                await self._end(row, loop, InteractionError(code=error.code, message=error.message))
            except Exception:
                log.exception("run_broken")
                message = "The server failed while it ran this interaction; its log has the details."
                await self._end(row, loop, InteractionError(code="internal", message=message))

    async def _end(self, row: InteractionRow, loop: Loop | None, error: InteractionError | None) -> Status:
        """Writes the end of a run that did not write its own; returns the status that it has then."""
        if loop is None:
            loop = await self._prepare(row)
        return await loop.cancelled() if error is None else await loop.failed(error)

    async def _prepare(self, row: InteractionRow) -> Loop:
        await self._store.claim(row.id, self._generation)
        request = read_request(row)
        agent = self._agents.resolve(row.agent)
        config = request.agent_config
        wanted = config.model if isinstance(config, AntigravityConfig) and config.model else agent.model
        model, provider = self._models.resolve(wanted)
        declared = agent.tools if request.tools is None else request.tools
        toolbox = Toolbox.choose(declared, has_environment=row.environment_id is not None)
        recorder = Recorder(self._store, row.id, self._generation, await self._store.read(row.id))
        history = await read_history(self._store, row)
        sandbox = functools.partial(self._sandbox, row)
        mediator = Mediator(toolbox, sandbox, self._limits, recorder, self._clock)
        brain = Brain(agent, model, provider)
        return Loop(row, history, brain, toolbox, mediator, recorder, self._limits, self._clock)

    async def _sandbox(self, row: InteractionRow) -> Sandbox:
        if row.environment_id is None:
            raise ConfigError("a tool was called in a run without an environment")
        return await self._environments.sandbox(row.environment_id)


def is_ended(status: str) -> bool:
    """Whether a stored status is final."""
    return status != "in_progress"
