"""The interaction as callers read it: folded from its log, framed by its row. The same bytes at every reading."""

from __future__ import annotations

from typing import Any

from orchestrator.clock import rfc3339
from orchestrator.errors import LogDamaged
from orchestrator.runs.context import read_request
from orchestrator.runs.frame import frame_of
from orchestrator.store.port import Store
from orchestrator.store.records import InteractionRow
from orchestrator.wire.base import dump
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.events import PUBLIC_KINDS, Folder
from orchestrator.wire.interactions import Interaction, InteractionError, InteractionRequest, Usage, dump_interaction
from orchestrator.wire.network import public_network
from orchestrator.wire.sources import public_sources
from orchestrator.wire.steps import Step
from orchestrator.wire.tools import public_tools


async def read_interaction(
    store: Store, row: InteractionRow, *, include_input: bool = False, timeline: bool = True
) -> dict[str, Any]:
    """The wire form of an interaction. `timeline` puts the user's input before the steps (GET does, POST does not).

    Raises:
        LogDamaged: its log cannot be read back; not if the interaction itself says so, having failed of it.
    """
    folder = Folder()
    damage: LogDamaged | None = None
    for event in await store.read(row.id):
        if event.kind in PUBLIC_KINDS:
            try:
                folder.feed(event.kind, event.body)
            except LogDamaged as error:
                damage = damage or error
    if damage is not None and (folder.error or {}).get("code") != damage.code:
        raise damage
    request = read_request(row)
    frame = folder.interaction
    given: list[Step] = list(request.input or [])
    produced = folder.all_steps()
    errors = frame.get("errors") or ([folder.error] if folder.error else [])
    interaction = Interaction(
        **{
            **frame_of(row, row.created),
            "id": row.id if row.is_stored else None,
            "updated": frame.get("updated", rfc3339(row.created)),
        },
        status=folder.status or "in_progress",
        previous_interaction_id=row.previous_id,
        input=given if include_input else None,
        steps=[*given, *produced] if timeline else produced,
        usage=folder.usage or Usage(),
        errors=[InteractionError.model_validate(each) for each in errors] or None,
        **_echo(request),
    )
    return dump_interaction(interaction)


def list_entry(row: InteractionRow) -> dict[str, Any]:
    """The interaction as a listing shows it: what its row has, without steps, usage and what was asked."""
    interaction = Interaction(
        **frame_of(row, row.updated),
        status=row.status,
        previous_interaction_id=row.previous_id,
        labels=dict(row.labels) if row.labels else None,
    )
    return dump_interaction(interaction)


def _echo(request: InteractionRequest) -> dict[str, Any]:
    """What the caller asked for, as far as it may be shown again."""
    return {
        "system_instruction": request.system_instruction,
        "tools": public_tools(request.tools) if request.tools is not None else None,
        "agent_config": dump(request.agent_config) if request.agent_config else None,
        "generation_config": dump(request.generation_config) if request.generation_config else None,
        "response_format": [dump(each) for each in request.response_format] if request.response_format else None,
        "labels": request.labels,
        "environment": _public_environment(request.environment) if request.environment else None,
    }


def _public_environment(spec: EnvironmentSpec) -> dict[str, Any]:
    """The environment without file contents, and without values of variables: they may be secrets."""
    answer: dict[str, Any] = {"type": spec.type}
    if spec.environment_id is not None:
        answer["environment_id"] = spec.environment_id
    if spec.sources:
        answer["sources"] = public_sources(spec.sources)
    if spec.network is not None:
        answer["network"] = public_network(spec.network)
    return answer
