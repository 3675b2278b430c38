"""Which model answers a run: the one that its request or its agent names, a recording, or an earlier run's answers; and
whether it is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from orchestrator.agents.registry import AgentDefinition
from orchestrator.errors import NotFound
from orchestrator.models.cassettes import Header
from orchestrator.models.port import ModelProvider
from orchestrator.models.recording import Recordings
from orchestrator.models.registry import ModelRegistry
from orchestrator.models.replayed import NAME as REPLAY
from orchestrator.models.replayed import Playback, ReplayedModel
from orchestrator.policy.redaction import Scrubber
from orchestrator.runs.context import source_of
from orchestrator.runs.loop import Brain
from orchestrator.runs.reenactment import cassette_of
from orchestrator.sandboxes.specs import read_spec, variables_of
from orchestrator.store.port import Store
from orchestrator.store.records import InteractionRow
from orchestrator.telemetry.metrics import Metrics
from orchestrator.wire.interactions import InteractionRequest


class Brains:
    """Finds the model of each run anew, from what is stored: a run that is taken up has the same."""

    def __init__(
        self, store: Store, models: ModelRegistry, metrics: Metrics, recordings: Recordings | None = None
    ) -> None:
        """`recordings`: where runs are recorded; None: they are not."""
        self._store = store
        self._models = models
        self._metrics = metrics
        self._recordings = recordings

    async def of(self, row: InteractionRow, request: InteractionRequest, agent: AgentDefinition) -> Brain:
        """The model of the run of `row`.

        Raises:
            NotFound: there is no such model, or the interaction that is replayed is gone. LogDamaged: its log is.
        """
        source = source_of(row)
        if source is not None:
            model, provider = f"{REPLAY}:{source}", await self._reenacted(row.project_id, source)
        else:
            model, provider = self._models.resolve(request.agent_model or agent.model)
        recordings = self._recordings if row.is_stored else None
        if isinstance(provider, ReplayedModel) or recordings is not None:
            variables = await self._variables(row)
            if isinstance(provider, ReplayedModel):
                provider = provider.within(row.project_id, Scrubber(variables))
            if recordings is not None:
                header = Header(interaction=row.id, agent=row.agent, model=model)
                provider = recordings.of(provider, row.project_id, header, variables)
        return Brain(agent, model, provider, self._metrics)

    async def _reenacted(self, project_id: str, source: str) -> ModelProvider:
        if await self._store.interaction(project_id, source) is None:
            raise NotFound(f"Interaction {source!r}, which is replayed, was deleted.")
        log = await self._store.read(source)
        return Playback(await asyncio.to_thread(cassette_of, source, log), source)

    async def _variables(self, row: InteractionRow) -> Mapping[str, str]:
        if row.environment_id is None:
            return {}
        environment = await self._store.environment(None, row.environment_id)
        return {} if environment is None else variables_of(read_spec(environment))
