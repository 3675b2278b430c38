"""Routes of interactions (reference, 1.2): create, read, stream, cancel, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from orchestrator.api import sse
from orchestrator.api.auth import Caller
from orchestrator.api.body import read_json
from orchestrator.api.offer import check_offered
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.errors import NotFound
from orchestrator.runs.record import read_interaction
from orchestrator.store.port import InteractionRow
from orchestrator.wire.interactions import TERMINAL_STATUSES, parse_interaction_request

router = APIRouter(tags=["interactions"], dependencies=[OnlyKnown])


@router.post("/interactions", response_model=None)
async def create(request: Request, caller: TheCaller, services: TheServices) -> Response:
    """Creates an interaction: runs it to its end, streams it, or (`background`) answers at once."""
    wanted = parse_interaction_request(await read_json(request, services.request_limit_bytes))
    check_offered(wanted)
    row = await services.intake.accept(caller.project_id, wanted)
    if wanted.stream:
        return _stream(services, row, after=0)
    if not wanted.background:
        await services.supervisor.wait(row.id, unless=services.closing)
    return JSONResponse(await read_interaction(services.store, row, timeline=False))


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
        return _stream(services, row, after=await sse.starting_point(services.store, row, last_event_id))
    return JSONResponse(await read_interaction(services.store, row, include_input=include_input))


@router.post("/interactions/{interaction_id}/cancel", response_model=None)
@router.post("/interactions/{interaction_id}:cancel", response_model=None)
async def cancel(interaction_id: str, caller: TheCaller, services: TheServices) -> Response:
    """Ends a running interaction as `cancelled`; one that has ended stays as it is."""
    row = await _find(services, caller, interaction_id)
    await services.supervisor.cancel(row.id)
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
    if row is None:
        raise NotFound(f"Interaction {interaction_id!r} not found.")
    return row


def _stream(services: Services, row: InteractionRow, *, after: int) -> StreamingResponse:
    frames = sse.stream(services.store, row, after=after, closing=services.closing)
    return StreamingResponse(frames, media_type="text/event-stream", headers=sse.HEADERS)
