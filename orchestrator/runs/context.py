"""What a model gets to read: the conversation so far, rebuilt from the store. No state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.store.port import Event, InteractionRow, Store
from orchestrator.wire.events import fold
from orchestrator.wire.interactions import TERMINAL_STATUSES, InteractionRequest, parse_interaction_request
from orchestrator.wire.steps import FunctionCall, FunctionResult, Step, UserInput

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


@dataclass(frozen=True, slots=True)
class History:
    """A conversation as the next run in it finds it."""

    steps: list[Step]
    """Oldest first, the run's own input last."""
    turns: int = 0
    """Model calls since the last user input, where that is an earlier interaction's."""
    last_guest: str | None = None
    """The guest that had the latest call in the run's environment, if there was any."""


async def read_history(store: Store, row: InteractionRow, request: InteractionRequest) -> History:
    """The conversation before `row`'s own run, with the input of its `request`."""
    chain: list[InteractionRow] = []
    previous = row.previous_id
    while previous is not None and len(chain) < _CHAIN_LIMIT:
        parent = await store.interaction(row.project_id, previous)
        if parent is None:
            break  # deleted since: what came after it still stands
        chain.append(parent)
        previous = parent.previous_id
    steps: list[Step] = []
    turns, last_guest = 0, None
    for each in reversed(chain):
        given = read_request(each).input or []
        stored = await store.read(each.id)
        steps += given
        steps += fold((event.kind, event.body) for event in stored)
        turns = 0 if _begins_anew(given) else turns
        turns += sum(event.kind == "turn.ended" for event in stored)
        if each.environment_id == row.environment_id:
            last_guest = _last_guest(stored) or last_guest
    given = request.input or []
    return History(with_all_results([*steps, *given]), 0 if _begins_anew(given) else turns, last_guest)


def _last_guest(events: Sequence[Event]) -> str | None:
    started = (event.body for event in reversed(events) if event.kind == "tool.started")
    body = next(started, None)
    return None if body is None else str(json.loads(body)["guest"])


def _begins_anew(given: Sequence[Step]) -> bool:
    """Whether the user said something, and not only answered calls."""
    return any(isinstance(step, UserInput) for step in given)


def open_calls(events: Iterable[Event]) -> set[str]:
    """Ids of the function calls in a log that have no result: once the run has ended they wait for the client."""
    steps = fold((event.kind, event.body) for event in events)
    answered = {step.call_id for step in steps if isinstance(step, FunctionResult)}
    return {step.id for step in steps if isinstance(step, FunctionCall)} - answered


def with_all_results(steps: Sequence[Step]) -> list[Step]:
    """The steps with an error result after each function call that never got one: providers insist on pairs."""
    answered = {step.call_id for step in steps if isinstance(step, FunctionResult)}
    complete: list[Step] = []
    for step in steps:
        complete.append(step)
        if isinstance(step, FunctionCall) and step.id not in answered:
            complete.append(FunctionResult(call_id=step.id, name=step.name, result="no result", is_error=True))
    return complete


def spent_s(events: Sequence[Event], longest_wait_s: float) -> float:
    """The time for which holders of a run have worked on it so far, by its log.

    Not counted is what lies between one holder's last event and the next one's first. The clock may have jumped in
    between: no two events of one holder are taken to be further apart than `longest_wait_s`, or to go back in time.
    """
    begin = next((at for at, event in enumerate(events) if event.kind == "run.started"), len(events))
    gaps = (
        (later.at - earlier.at).total_seconds()
        for earlier, later in pairwise(events[begin:])
        if later.kind != "run.started"
    )
    return sum(min(max(0.0, gap_s), longest_wait_s) for gap_s in gaps)
