"""What a model gets to read: the conversation so far, rebuilt from the store. No state."""

from __future__ import annotations

import json
from collections.abc import Sequence

from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.store.port import InteractionRow, Store
from orchestrator.wire.events import fold
from orchestrator.wire.interactions import TERMINAL_STATUSES, InteractionRequest, parse_interaction_request
from orchestrator.wire.steps import FunctionCall, FunctionResult, Step

_CHAIN_LIMIT = 500
"""Interactions of one conversation that are read back; compaction shortens what the model sees."""


def read_request(row: InteractionRow) -> InteractionRequest:
    """The canonical request of a stored interaction."""
    return parse_interaction_request(json.loads(row.request))


async def find_parent(store: Store, project_id: str, interaction_id: str) -> InteractionRow:
    """The interaction to chain onto.

    Raises:
        NotFound: it is unknown to the project. InvalidRequest: it still runs.
    """
    row = await store.interaction(project_id, interaction_id)
    if row is None:
        raise NotFound(f"Invalid value at 'previous_interaction_id': Interaction {interaction_id!r} not found.")
    if row.status not in TERMINAL_STATUSES:
        raise InvalidRequest(
            f"Invalid value at 'previous_interaction_id': interaction {interaction_id} is still in progress."
        )
    return row


async def read_history(store: Store, row: InteractionRow, request: InteractionRequest) -> list[Step]:
    """All steps of the conversation before `row`'s own run, oldest first, the input of its `request` last."""
    chain: list[InteractionRow] = []
    previous = row.previous_id
    while previous is not None and len(chain) < _CHAIN_LIMIT:
        parent = await store.interaction(row.project_id, previous)
        if parent is None:
            break  # deleted since: what came after it still stands
        chain.append(parent)
        previous = parent.previous_id
    steps: list[Step] = []
    for each in reversed(chain):
        steps += read_request(each).input or []
        stored = await store.read(each.id)
        steps += fold((event.kind, event.body) for event in stored)
    return with_all_results([*steps, *(request.input or [])])


def with_all_results(steps: Sequence[Step]) -> list[Step]:
    """The steps with an error result after each function call that never got one: providers insist on pairs."""
    answered = {step.call_id for step in steps if isinstance(step, FunctionResult)}
    complete: list[Step] = []
    for step in steps:
        complete.append(step)
        if isinstance(step, FunctionCall) and step.id not in answered:
            complete.append(FunctionResult(call_id=step.id, name=step.name, result="no result", is_error=True))
    return complete
