"""Routes of interactions (reference, 1.2): create, read, stream, cancel, delete; and a list and replays,
which are ours.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from orchestrator.api import sse
from orchestrator.api.auth import Caller
from orchestrator.api.body import read_json
from orchestrator.api.delivery import AnswerOfCreate, StreamOfCreate, watched
from orchestrator.api.errors import stopping
from orchestrator.api.offer import check_offered
from orchestrator.api.paging import PAGE_LIMIT, page_of
from orchestrator.api.parameters import Moment, OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.runs.record import list_entry, read_interaction
from orchestrator.runs.replies import CallerKey
from orchestrator.store.records import InteractionFilter, InteractionRow
from orchestrator.wire.interactions import LABEL_KEY, TERMINAL_STATUSES, Status, parse_interaction_request

router = APIRouter(tags=["interactions"], dependencies=[OnlyKnown])

_KEY_CHARS = 255


@router.post("/interactions", response_model=None)
async def create(
    request: Request,
    caller: TheCaller,
    services: TheServices,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Creates an interaction: runs it to its end, streams it, or (`background`) answers at once.

    A call with the `Idempotency-Key` of an earlier one is answered with that one's interaction; so is an equal call
    whose caller was left without an answer.
    """
    wanted = parse_interaction_request(await read_json(request, services.request_limit_bytes))
    check_offered(wanted)
    row = await services.intake.accept(caller.project_id, _key(caller, idempotency_key), wanted)
    if wanted.stream:
        frames = sse.stream(services.store, row, after=0, closing=services.closing)
        return StreamOfCreate(frames, row, services.replies)
    try:
        if not wanted.background:
            async with watched(request) as left:
                await services.supervisor.wait(row.id, services.closing, left)
                if left.is_set():
                    # Noted before anything else: who comes back at once is to find the run.
                    return AnswerOfCreate({}, row, services.replies)
        told = await read_interaction(services.store, row, timeline=False)
        if not row.is_stored and told["status"] not in TERMINAL_STATUSES:
            # The server closes, and what is not stored has no name by which the caller could ask for the rest.
            services.replies.lost(row)
            return stopping()
        return AnswerOfCreate(told, row, services.replies)
    except BaseException:
        # An error is no answer: a client that tries again means the same run.
        services.replies.lost(row)
        raise


@router.get("/interactions", response_model=None)
async def index(
    caller: TheCaller,
    services: TheServices,
    *,
    page_size: Annotated[int, Query(ge=1)] = 50,
    page_token: Annotated[str | None, Query()] = None,
    status: Annotated[Status | None, Query()] = None,
    agent: Annotated[str | None, Query()] = None,
    environment_id: Annotated[str | None, Query()] = None,
    previous_interaction_id: Annotated[str | None, Query()] = None,
    label: Annotated[list[str] | None, Query()] = None,
    created_from: Annotated[Moment | None, Query()] = None,
    created_before: Annotated[Moment | None, Query()] = None,
) -> JSONResponse:
    """The project's stored interactions, newest first, without their steps; those that fit all filters.

    `agent` is the name that was called, of an agent or model; `label` is `key=value` and may be given several times.
    """
    wanted = InteractionFilter(
        environment_id=environment_id,
        status=status,
        agent=agent,
        previous_id=previous_interaction_id,
        labels=_labels(label or []),
        created_from=created_from,
        created_before=created_before,
        only_stored=True,
    )
    find = partial(services.store.interactions, caller.project_id, wanted)
    rows, last = await page_of(find, min(page_size, PAGE_LIMIT), page_token)
    answer: dict[str, Any] = {"interactions": [list_entry(row) for row in rows]}
    if last is not None:
        answer["next_page_token"] = last.id
    return JSONResponse(answer)


@router.get("/interactions/{interaction_id}", response_model=None)
async def read(
    interaction_id: str,
    caller: TheCaller,
    services: TheServices,
    include_input: Annotated[bool, Query()] = False,
    stream: Annotated[bool, Query()] = False,
    last_event_id: Annotated[str | None, Query()] = None,
) -> Response:
    """The interaction with its whole timeline, or its events from the start or after `last_event_id`."""
    row = await _find(services, caller, interaction_id)
    if stream:
        after = await sse.starting_point(services.store, row, last_event_id)
        frames = sse.stream(services.store, row, after=after, closing=services.closing)
        return StreamingResponse(frames, media_type="text/event-stream", headers=sse.HEADERS)
    return JSONResponse(await read_interaction(services.store, row, include_input=include_input))


@router.post("/interactions/{interaction_id}/cancel", response_model=None)
@router.post("/interactions/{interaction_id}:cancel", response_model=None)
async def cancel(interaction_id: str, caller: TheCaller, services: TheServices) -> Response:
    """Ends a running interaction as `cancelled`; one that has ended stays as it is."""
    row = await _find(services, caller, interaction_id)
    await services.supervisor.cancel(row.id)
    return JSONResponse(await read_interaction(services.store, row, timeline=False))


@router.post("/interactions/{interaction_id}/replay", response_model=None)
async def replay(interaction_id: str, caller: TheCaller, services: TheServices) -> Response:
    """Runs an interaction that has ended once more, in the background: its tools work in a fresh environment, and its
    model's answers are those of then. Ours, not the public wire's.
    """
    row = await services.intake.replay(await _find(services, caller, interaction_id))
    return JSONResponse(await read_interaction(services.store, row, timeline=False))


@router.delete("/interactions/{interaction_id}", response_model=None)
async def delete(interaction_id: str, caller: TheCaller, services: TheServices) -> Response:
    """Removes the record; one that runs is cancelled first. Its environment stays."""
    row = await _find(services, caller, interaction_id)
    if row.status not in TERMINAL_STATUSES:
        await services.supervisor.cancel(row.id)
    await services.store.delete_interaction(row.id)
    return JSONResponse({})


async def _find(services: Services, caller: Caller, interaction_id: str) -> InteractionRow:
    row = await services.store.interaction(caller.project_id, interaction_id)
    if row is None or not row.is_stored:
        raise NotFound(f"Interaction {interaction_id!r} not found.")
    return row


def _key(caller: Caller, idempotency_key: str | None) -> CallerKey:
    if idempotency_key is not None and not (idempotency_key.isprintable() and 0 < len(idempotency_key) <= _KEY_CHARS):
        raise InvalidRequest(f"Invalid value at 'Idempotency-Key': expected 1 to {_KEY_CHARS} printable characters.")
    return CallerKey(caller.name, idempotency_key)


def _labels(given: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or not LABEL_KEY.fullmatch(key):
            raise InvalidRequest(f"Invalid value at 'label': {each!r} is not 'key=value' of a label.")
        if labels.setdefault(key, value) != value:
            raise InvalidRequest(f"Invalid value at 'label': {key!r} is given with several values.")
    return labels
