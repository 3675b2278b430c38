"""Accepting a create call: everything is checked before anything is stored, then one transaction and the run begins."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchestrator import ids, moments
from orchestrator.agents.catalogue import Catalogue
from orchestrator.agents.registry import AgentDefinition
from orchestrator.clock import Clock
from orchestrator.credentials.vault import Vault
from orchestrator.errors import Conflict, InvalidRequest, naming
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.bounds import UNBOUND
from orchestrator.policy.credentials import namings
from orchestrator.policy.sources import check_sources
from orchestrator.policy.variables import check_variables
from orchestrator.runs.answers import answer_schema
from orchestrator.runs.context import find_parent, open_calls, read_request, write_request
from orchestrator.runs.frame import frame_of, public_id
from orchestrator.runs.replies import CallerKey, Replies
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.profiles import Profiles
from orchestrator.sandboxes.specs import read_spec
from orchestrator.store.port import Store
from orchestrator.store.records import CreateCall, EnvironmentRow, InteractionRow, NewEvent
from orchestrator.wire import events
from orchestrator.wire.agents import pinned
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.interactions import TERMINAL_STATUSES, Interaction, InteractionRequest
from orchestrator.wire.steps import FunctionCall, FunctionResult


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
        agents: Catalogue,
        models: ModelRegistry,
        clock: Clock,
        profiles: Profiles,
        replies: Replies,
        *,
        credentials: Vault,
        generation: int,
    ) -> None:
        self._store = store
        self._replies = replies
        self._environments = environments
        self._supervisor = supervisor
        self._agents = agents
        self._credentials = credentials
        self._models = models
        self._clock = clock
        self._profiles = profiles
        self._generation = generation

    async def accept(self, project_id: str, caller: CallerKey, request: InteractionRequest) -> InteractionRow:
        """Stores a new interaction and starts its run; or, of a call that repeats another, the other's.

        Raises:
            InvalidRequest, NotFound, LimitExceeded: the caller's fault; nothing was stored.
        """
        async with self._replies.creating(caller, request) as known:
            if isinstance(known, InteractionRow):
                return known
            return await self._create(project_id, request, known)

    async def replay(self, source: InteractionRow) -> InteractionRow:
        """Runs an interaction once more, in an environment of its own: its model's answers are those of then, whatever
        comes of its calls now.

        Raises:
            InvalidRequest, NotFound, Conflict, LimitExceeded: the caller's fault; nothing was stored.
        """
        if source.status not in TERMINAL_STATUSES:
            raise InvalidRequest(f"Interaction {source.id} is still in progress; replay it when it has ended.")
        asked = read_request(source)
        changes: dict[str, object] = {"background": True, "stream": False}
        if (pin := await self._agents.pin_of(source)) is not None:
            changes |= {"agent": pin, "model": None}
        changes["environment"] = await self._afresh(source, asked)
        return await self._create(source.project_id, asked.model_copy(update=changes), None, replay_of=source.id)

    async def _afresh(self, source: InteractionRow, asked: InteractionRequest) -> EnvironmentSpec | None:
        """A new environment like the one that an interaction had, as that was when it was made."""
        if source.environment_id is None:
            return None
        if asked.environment is not None and asked.environment.environment_id is None:
            return asked.environment
        environment = await self._store.environment(source.project_id, source.environment_id)
        if environment is None:
            raise Conflict(
                f"Environment {source.environment_id!r}, in which interaction {source.id} ran, was deleted; "
                "nobody knows what a new one would have to be like."
            )
        return read_spec(environment)

    async def _create(
        self, project_id: str, request: InteractionRequest, call: CreateCall | None, replay_of: str | None = None
    ) -> InteractionRow:
        agent = await self._target(project_id, request, asks_model=replay_of is None)
        answer_schema(request)
        self._supervisor.check_room(project_id)
        parent = None
        if request.previous_interaction_id is not None:
            parent = await find_parent(self._store, project_id, request.previous_interaction_id)
        await self._check_answers(request, parent)
        # A model that is asked about a conversation works nowhere unless it is told where.
        inherited = parent.environment_id if parent is not None and agent is not None else None
        async with self._place(project_id, request.environment, inherited, agent) as place:
            now = self._clock.now()
            interaction_id = ids.new_interaction_id(parent.id if parent is not None else None)
            row = InteractionRow(
                id=interaction_id,
                project_id=project_id,
                conversation=ids.conversation_of(interaction_id),
                previous_id=parent.id if parent is not None else None,
                environment_id=place.environment_id,
                agent=pinned(request.target)[0] if agent is not None else request.target,
                status="in_progress",
                is_background=request.background,
                generation=self._generation,
                request=write_request(request, replay_of),
                created=now,
                updated=now,
                is_model=agent is None,
                is_stored=request.store,
                tier=request.service_tier or "standard",
                labels=request.labels,
                agent_uid=agent.uid if agent is not None else None,
                agent_version=agent.version if agent is not None else None,
            )
            await self._store.create_interaction(row, _first_events(row), place.new, place.base, call)
            moments.passed("interaction.stored")
            self._supervisor.start(row)
        return row

    async def _target(
        self, project_id: str, request: InteractionRequest, *, asks_model: bool
    ) -> AgentDefinition | None:
        """The agent that is asked; None: a model, without one. Either field may name an agent (reference, 2.1).

        A model that is not asked need not be there.
        """
        if request.agent is None and not await self._agents.knows(project_id, request.target):
            if asks_model:
                with naming("model"):
                    self._models.resolve(request.target)
            if request.agent_config is not None:
                raise InvalidRequest("Invalid value at 'agent_config': it is for agents, and 'model' names a model.")
            return None
        with naming("agent" if request.agent is not None else "model"):
            agent = await self._agents.resolve(project_id, request.target)
        if request.generation_config is not None:
            raise InvalidRequest("Invalid value at 'generation_config': it is for models; agents take 'agent_config'.")
        _check_config(request, agent)
        if asks_model:
            with naming("agent_config.model"):
                self._models.resolve(request.agent_model or agent.model)
        return agent

    async def _check_answers(self, request: InteractionRequest, parent: InteractionRow | None) -> None:
        """Results of functions are of calls that wait for one, in the interaction before or in the same input before
        them; and all that wait are answered, or none is.
        """
        given = request.input or ()
        if not any(isinstance(step, FunctionResult) for step in given):
            return
        waiting: dict[str, str] = {}
        if parent is not None and parent.status == "requires_action":
            waiting = open_calls(await self._store.read(parent.id))
        open_before = list(waiting)
        for at, step in enumerate(given):
            if isinstance(step, FunctionCall):
                waiting[step.id] = step.name
            elif isinstance(step, FunctionResult):
                _check_answer(step, f"input[{at}]", waiting, parent)
        left = [call_id for call_id in open_before if call_id in waiting]
        if parent is not None and 0 < len(left) < len(open_before):
            raise InvalidRequest(
                f"Invalid value at 'input': of interaction {parent.id} also {', '.join(map(repr, left))} waits for a "
                "result; send all of them in one input."
            )

    @asynccontextmanager
    async def _place(
        self, project_id: str, spec: EnvironmentSpec | None, inherited: str | None, agent: AgentDefinition | None
    ) -> AsyncGenerator[_Place, None]:
        """Where the run works. A chained call that names no environment goes on in its parent's.

        A new one has the agent's profile and begins with its base, and is stored with the interaction or not at all;
        one that exists stays as it was made, whichever agent works in it.
        """
        if spec is None:
            if inherited is not None:
                with naming("previous_interaction_id"):
                    inherited = (await self._environments.find(project_id, inherited)).id
            yield _Place(inherited)
            return
        check_variables(spec.env)
        if spec.environment_id is not None:
            with naming("environment"):
                known = await self._environments.find(project_id, spec.environment_id)
            await self._check_credentials(project_id, spec)
            await self._environments.change(known, spec)
            yield _Place(known.id)
            return
        check_sources(spec.sources, spec.network)
        spec = await self._agents.skills.pinned(spec)
        profile = self._profiles.of(agent.bounds if agent is not None else UNBOUND)
        base = agent.base if agent is not None else None
        if base is not None:
            # Its files come with the template; rules and variables are the environment's own.
            network = spec.network if spec.network is not None else base.network
            spec = spec.model_copy(update={"network": network, "env": {**base.env, **spec.env}})
            check_variables(spec.env)
            with naming("agent"):
                base = await self._agents.skills.pinned(base, "base_environment.sources")
            base = base.model_copy(update={"env": {}})
        await self._check_credentials(project_id, spec)
        snapshot = agent.base_snapshot if agent is not None else None
        drafted = self._environments.drafted(project_id, spec, profile=profile, base=base, snapshot=snapshot)
        async with drafted as (new, of_template):
            yield _Place(new.id, new, of_template)

    async def _check_credentials(self, project_id: str, spec: EnvironmentSpec) -> None:
        await self._credentials.check(project_id, namings(spec.network, spec.env, "environment"))


def _check_config(request: InteractionRequest, agent: AgentDefinition) -> None:
    """What a project has defined of its agent is not for calls to change (reference, 2.8)."""
    if agent.uid is None or request.agent_config is None:
        return
    for name, value in request.agent_config:
        if name != "type" and value is not None:
            raise InvalidRequest(
                f"Invalid value at 'agent_config.{name}': it is fixed by agent {agent.id!r}; change the agent instead."
            )


def _check_answer(step: FunctionResult, at: str, waiting: dict[str, str], parent: InteractionRow | None) -> None:
    """Takes the call that is answered out of those that wait."""
    name = waiting.get(step.call_id)
    if name is None and parent is None:
        raise InvalidRequest(
            f"Invalid value at '{at}.call_id': no call {step.call_id!r} stands before it in 'input'; to answer a "
            "call of an earlier interaction give 'previous_interaction_id'."
        )
    if name is None and parent is not None:
        raise InvalidRequest(
            f"Invalid value at '{at}.call_id': no call {step.call_id!r} of interaction {parent.id} waits for a result."
        )
    if step.name is None:
        raise InvalidRequest(f"Missing required parameter 'name' at '{at}': call {step.call_id!r} is of {name!r}.")
    if step.name != name:
        raise InvalidRequest(f"Invalid value at '{at}.name': call {step.call_id!r} is of {name!r}.")
    del waiting[step.call_id]


def _first_events(row: InteractionRow) -> list[NewEvent]:
    interaction = Interaction(**frame_of(row, row.created), status="in_progress")
    first: tuple[events.PublicEvent, ...] = (
        events.InteractionCreated(interaction=interaction),
        events.InteractionStatusUpdate(interaction_id=public_id(row), status="in_progress"),
    )
    return [NewEvent(event.event_type, events.encode(event, seq)) for seq, event in enumerate(first, 1)]
