"""Accepting a create call: everything is checked before anything is stored, then one transaction and the run begins."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from orchestrator import ids, moments
from orchestrator.agents.registry import AgentDefinition, AgentRegistry
from orchestrator.clock import Clock, rfc3339
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.sources import check_inline
from orchestrator.policy.variables import check_variables
from orchestrator.runs.context import find_parent, open_calls
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.profiles import Profiles
from orchestrator.store.port import EnvironmentRow, InteractionRow, NewEvent, Store
from orchestrator.wire import events
from orchestrator.wire.base import encode_json
from orchestrator.wire.environments import EnvironmentSpec, InlineSource
from orchestrator.wire.interactions import Interaction, InteractionRequest, dump_request
from orchestrator.wire.steps import FunctionResult


@dataclass(frozen=True, slots=True)
class _Place:
    """The environment of a run."""

    environment_id: str | None
    """None: it has none."""
    new: EnvironmentRow | None = None
    """To be stored with the interaction."""
    base: str | None = None
    """What the template of a new one is made of."""


class Intake:
    """Turns requests into interactions."""

    def __init__(
        self,
        store: Store,
        environments: Environments,
        supervisor: Supervisor,
        agents: AgentRegistry,
        models: ModelRegistry,
        clock: Clock,
        profiles: Profiles,
        *,
        generation: int,
    ) -> None:
        self._store = store
        self._environments = environments
        self._supervisor = supervisor
        self._agents = agents
        self._models = models
        self._clock = clock
        self._profiles = profiles
        self._generation = generation

    async def accept(self, project_id: str, request: InteractionRequest) -> InteractionRow:
        """Stores a new interaction and starts its run.

        Raises:
            InvalidRequest, NotFound, LimitExceeded: the caller's fault; nothing was stored.
        """
        with _named("agent" if request.agent is not None else "model"):
            agent = self._agents.resolve(request.target)
        with _named("agent_config.model"):
            self._models.resolve(request.agent_model or agent.model)
        self._supervisor.check_room(project_id)
        parent = None
        if request.previous_interaction_id is not None:
            parent = await find_parent(self._store, project_id, request.previous_interaction_id)
        await self._check_answers(request, parent)
        inherited = parent.environment_id if parent is not None else None
        async with self._place(project_id, request.environment, inherited, agent) as place:
            now = self._clock.now()
            interaction_id = ids.new_interaction_id(parent.id if parent is not None else None)
            row = InteractionRow(
                id=interaction_id,
                project_id=project_id,
                conversation=ids.conversation_of(interaction_id),
                previous_id=parent.id if parent is not None else None,
                environment_id=place.environment_id,
                agent=request.target,
                status="in_progress",
                is_background=request.background,
                generation=self._generation,
                request=encode_json(dump_request(request)).decode(),
                created=now,
                updated=now,
            )
            await self._store.create_interaction(row, _first_events(row), place.new, place.base)
            moments.passed("interaction.stored")
            self._supervisor.start(row)
        return row

    async def _check_answers(self, request: InteractionRequest, parent: InteractionRow | None) -> None:
        """Results of functions must be of calls that wait for one."""
        results = [(at, step) for at, step in enumerate(request.input or ()) if isinstance(step, FunctionResult)]
        if not results:
            return
        if parent is None:
            raise InvalidRequest("Invalid value at 'previous_interaction_id': needed to tell whose call is answered.")
        waiting = set()
        if parent.status == "requires_action":
            waiting = open_calls(await self._store.read(parent.id))
        for at, step in results:
            if step.call_id not in waiting:
                raise InvalidRequest(
                    f"Invalid value at 'input[{at}].call_id': no call {step.call_id!r} of interaction {parent.id} "
                    "waits for a result."
                )
            waiting.remove(step.call_id)

    @asynccontextmanager
    async def _place(
        self, project_id: str, spec: EnvironmentSpec | None, inherited: str | None, agent: AgentDefinition
    ) -> AsyncGenerator[_Place, None]:
        """Where the run works. A chained call that names no environment goes on in its parent's.

        A new one has the agent's profile and begins with its base, and is stored with the interaction or not at all;
        one that exists stays as it was made, whichever agent works in it.
        """
        if spec is None:
            if inherited is not None:
                with _named("previous_interaction_id"):
                    inherited = (await self._environments.find(project_id, inherited)).id
            yield _Place(inherited)
            return
        check_variables(spec.env)
        if spec.environment_id is not None:
            with _named("environment"):
                known = await self._environments.find(project_id, spec.environment_id)
            await self._environments.change(known, spec)
            yield _Place(known.id)
            return
        check_inline([source for source in spec.sources if isinstance(source, InlineSource)])
        profile = self._profiles.of(agent.bounds)
        async with self._environments.drafted(project_id, spec, profile=profile, base=agent.base) as (new, base):
            yield _Place(new.id, new, base)


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Puts the field's path into what is said about its value."""
    try:
        yield
    except (InvalidRequest, NotFound) as error:
        raise type(error)(f"Invalid value at '{field}': {error.message}") from error


def _first_events(row: InteractionRow) -> list[NewEvent]:
    created = rfc3339(row.created)
    interaction = Interaction(
        id=row.id,
        status="in_progress",
        agent=row.agent,
        created=created,
        updated=created,
        environment_id=row.environment_id,
    )
    first: tuple[events.PublicEvent, ...] = (
        events.InteractionCreated(interaction=interaction),
        events.InteractionStatusUpdate(interaction_id=row.id, status="in_progress"),
    )
    return [NewEvent(event.event_type, events.encode(event, seq)) for seq, event in enumerate(first, 1)]
