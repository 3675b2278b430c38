"""Routes of credentials (reference, 1.2 and 7.5): create, list, read, change, delete; and what is ours: revoke.

Answers have metadata only. What was sent to a credential cannot be read again by anybody.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AliasChoices

from orchestrator.api.body import read_json
from orchestrator.api.paging import PAGE_LIMIT, PageSize, PageToken, page_of
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import TheCaller, TheServices
from orchestrator.clock import rfc3339
from orchestrator.store.records import CredentialRow
from orchestrator.wire.base import dump
from orchestrator.wire.credentials import CredentialResource, parse_credential

router = APIRouter(tags=["credentials"], dependencies=[OnlyKnown])

UpdateMask = Annotated[str | None, Query(validation_alias=AliasChoices("update_mask", "updateMask"))]


@router.post("/credentials", response_model=None)
async def create(request: Request, caller: TheCaller, services: TheServices) -> JSONResponse:
    """A new credential; of `oauth2` a token is asked for before it is kept."""
    wanted = parse_credential(await read_json(request, services.request_limit_bytes))
    return _answer(await services.credentials.create(caller.project_id, wanted))


@router.get("/credentials", response_model=None)
async def index(
    caller: TheCaller,
    services: TheServices,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> JSONResponse:
    """The project's credentials, newest first."""
    find = partial(services.store.credentials, caller.project_id)
    rows, last = await page_of(find, min(page_size, PAGE_LIMIT), page_token)
    answer: dict[str, Any] = {"credentials": [_public(row) for row in rows]}
    if last is not None:
        answer["next_page_token"] = last.uid
    return JSONResponse(answer)


@router.get("/credentials/{credential_id}", response_model=None)
async def read(credential_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """One credential, without what is secret."""
    return _answer(await services.credentials.find(caller.project_id, credential_id))


@router.patch("/credentials/{credential_id}", response_model=None)
async def change(
    credential_id: str, request: Request, caller: TheCaller, services: TheServices, update_mask: UpdateMask = None
) -> JSONResponse:
    """Changes the fields that are given, or those in `update_mask`; of `oauth2` a new token is asked for first."""
    body = await read_json(request, services.request_limit_bytes)
    return _answer(await services.credentials.change(caller.project_id, credential_id, body, update_mask))


@router.post("/credentials/{credential_id}/revoke", response_model=None)
@router.post("/credentials/{credential_id}:revoke", response_model=None)
async def revoke(credential_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """Forgets the secret for good; the id stays taken, and nothing that names it is let out with it any more."""
    return _answer(await services.credentials.revoke(caller.project_id, credential_id))


@router.delete("/credentials/{credential_id}", response_model=None)
async def delete(credential_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """Removes the credential; its id may be given again."""
    await services.credentials.delete(caller.project_id, credential_id)
    return JSONResponse({})


def _answer(row: CredentialRow) -> JSONResponse:
    return JSONResponse(_public(row))


def _public(row: CredentialRow) -> dict[str, Any]:
    resource = CredentialResource.model_validate(
        {
            "id": row.name,
            "type": row.type,
            "status": "revoked" if row.is_revoked else "active",
            "create_time": rfc3339(row.created),
            "update_time": rfc3339(row.updated),
        }
    )
    return dump(resource)
