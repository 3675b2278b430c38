"""What a model gets to read: the conversation so far, rebuilt from the store. No state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.runs.compaction import Shortened
from orchestrator.runs.transcript import Transcript
from orchestrator.store.port import Store
from orchestrator.store.records import Event, InteractionRow
from orchestrator.tools.forms import AnyCall, AnyResult, arguments_of, form_of_step, result_step, tool_of
from orchestrator.tools.port import ToolResult
from orchestrator.wire.base import encode_json
from orchestrator.wire.events import fold
from orchestrator.wire.interactions import (
    TERMINAL_STATUSES,
    InteractionRequest,
    dump_request,
    parse_interaction_request,
)
from orchestrator.wire.steps import FunctionCall, FunctionResult, ModelOutput, Step, Thought, UserInput
from orchestrator.wire.tools import ToolDeclaration

_CHAIN_LIMIT = 500
"""Interactions of one conversation that are read back; compaction shortens what the model sees."""


_REPLAY_OF = "_replay_of"
"""Beside the fields of a stored request, where no caller can put it: the interaction whose answers a run is given."""


def write_request(request: InteractionRequest, replay_of: str | None = None) -> str:
    """The canonical request as a row holds it."""
    private = {} if replay_of is None else {_REPLAY_OF: replay_of}
    return encode_json({**dump_request(request), **private}).decode()


def read_request(row: InteractionRow) -> InteractionRequest:
    """The canonical request of a stored interaction."""
    fields = json.loads(row.request)
    fields.pop(_REPLAY_OF, None)
    return parse_interaction_request(fields)


def source_of(row: InteractionRow) -> str | None:
    """The id of the interaction that a stored one is the replay of; None: its model is asked."""
    source = json.loads(row.request).get(_REPLAY_OF)
    return None if source is None else str(source)


async def find_parent(store: Store, project_id: str, interaction_id: str) -> InteractionRow:
    """The interaction to chain onto.

    Raises:
        NotFound: it is unknown to the project. InvalidRequest: it still runs.
    """
    row = await store.interaction(project_id, interaction_id)
    if row is None or not row.is_stored:
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
    shortened: Shortened = field(default_factory=Shortened)
    """How far the conversation was shortened for its model by then."""
    tools: list[ToolDeclaration] | None = None
    """What the run is offered where its own request says nothing: answers go on with what their calls were of."""


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
    turns, last_guest, tools = 0, None, None
    shortening: tuple[Transcript, list[Step]] | None = None
    for each in reversed(chain):
        asked = read_request(each)
        given = _whole(asked.input)
        stored = await store.read(each.id)
        transcript = Transcript()
        for event in stored:
            transcript.feed(event.kind, event.body)
        steps += given
        if transcript.shortening is not None:
            shortening = transcript, list(steps)
        steps += transcript.told_later()
        turns = _turns_after(given, turns)
        turns += sum(event.kind == "turn.ended" for event in stored)
        turns -= sum(event.kind == "answer.refused" for event in stored)
        # Only answers go on with what was declared before them (reference, 2.6 and 3.4).
        tools = asked.tools if asked.tools is not None or not _only_answers(given) else tools
        if each.environment_id == row.environment_id:
            last_guest = _last_guest(stored) or last_guest
    given = _whole(request.input)
    complete = with_all_results([*steps, *given])
    return History(
        complete,
        _turns_after(given, turns),
        last_guest,
        Shortened() if shortening is None else _shortened(complete, *shortening),
        tools if _only_answers(given) else None,
    )


def _whole(given: Sequence[Step] | None) -> list[Step]:
    """Without what broke off, which a client that holds its conversation itself gives back."""
    return [step for step in given or () if not (isinstance(step, ModelOutput | Thought) and step.is_partial)]


def _shortened(steps: Sequence[Step], transcript: Transcript, before: Sequence[Step]) -> Shortened:
    """Where in `steps` an earlier run shortened the conversation, of which `before` came before its own steps."""
    noted = transcript.shortening
    if noted is None:
        return Shortened()
    earlier, own = with_all_results(before), transcript.folder.all_steps()
    places = {id(step): place for place, step in enumerate(steps)}

    def place(number: int) -> int:
        step = own[number] if number >= 0 else earlier[max(number, -len(earlier))]
        return places.get(id(step), 0)

    return Shortened(place(noted.begin), place(noted.elided), noted.summary)


def _last_guest(events: Sequence[Event]) -> str | None:
    started = (event.body for event in reversed(events) if event.kind == "tool.started")
    body = next(started, None)
    return None if body is None else str(json.loads(body)["guest"])


def _turns_after(given: Sequence[Step], before: int) -> int:
    """Model calls since the last user input, after that input; `before` it there were so many.

    An input may bring a conversation along that was held elsewhere: what a model said in it between two answers to
    it was one call.
    """
    last = max((at for at, step in enumerate(given) if isinstance(step, UserInput)), default=None)
    if last is not None:
        before, given = 0, given[last + 1 :]
    is_models = [isinstance(step, ModelOutput | Thought | AnyCall) for step in given]
    return before + sum(now and not earlier for earlier, now in pairwise([False, *is_models]))


def _only_answers(given: Sequence[Step]) -> bool:
    return bool(given) and all(isinstance(step, FunctionResult) for step in given)


def open_calls(events: Iterable[Event]) -> dict[str, str]:
    """Ids and names of the function calls in a log that have no result: once the run has ended they wait for the
    client.
    """
    return open_calls_of(fold((event.kind, event.body) for event in events))


def open_calls_of(steps: Sequence[Step]) -> dict[str, str]:
    """The same, of steps."""
    answered = {step.call_id for step in steps if isinstance(step, FunctionResult)}
    return {step.id: step.name for step in steps if isinstance(step, FunctionCall) and step.id not in answered}


def with_all_results(steps: Sequence[Step]) -> list[Step]:
    """The steps with an error result after each call that never got one: providers insist on pairs."""
    answered = {step.call_id for step in steps if isinstance(step, AnyResult)}
    complete: list[Step] = []
    for step in steps:
        complete.append(step)
        if isinstance(step, AnyCall) and step.id not in answered:
            missing = ToolResult("no result", is_error=True)
            complete.append(result_step(form_of_step(step), tool_of(step), step.id, arguments_of(step), missing))
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
