"""Routes of environments: create, fork, list, read, delete. Most are created with an interaction."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from orchestrator.api.body import read_json
from orchestrator.api.paging import PAGE_LIMIT, PageSize, PageToken, page_of
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.clock import rfc3339
from orchestrator.errors import naming
from orchestrator.policy.credentials import namings
from orchestrator.policy.sources import check_sources
from orchestrator.policy.variables import check_variables
from orchestrator.sandboxes.specs import read_spec
from orchestrator.store.records import EnvironmentRow, InteractionFilter
from orchestrator.wire.base import parse
from orchestrator.wire.environments import EnvironmentCreate, EnvironmentResource, EnvironmentSpec, dump_environment
from orchestrator.wire.sources import public_sources

router = APIRouter(tags=["environments"], dependencies=[OnlyKnown])

_UNENDED = ("in_progress", "requires_action")


@router.post("/environments", response_model=None)
async def create(request: Request, caller: TheCaller, services: TheServices) -> JSONResponse:
    """A new environment, or with `from_environment` a fork of one with its files as they are now."""
    wanted = parse(EnvironmentCreate, await read_json(request, services.request_limit_bytes))
    await services.credentials.check(caller.project_id, namings(wanted.network, wanted.env))
    check_variables(wanted.env, "env")
    check_sources(wanted.sources, wanted.network, "sources")
    if wanted.from_environment is None:
        spec = EnvironmentSpec(sources=wanted.sources, network=wanted.network, env=wanted.env)
        spec = await services.agents.skills.pinned(spec, "sources")
        row = await services.environments.create(caller.project_id, spec)
    else:
        with naming("from_environment"):
            parent = await services.environments.find(caller.project_id, wanted.from_environment)
        row = await services.environments.fork(parent, wanted.network, wanted.env)
    return JSONResponse(_public(services, row))


@router.get("/environments", response_model=None)
async def index(
    caller: TheCaller,
    services: TheServices,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> JSONResponse:
    """The project's environments, newest first."""
    find = partial(services.store.environments, caller.project_id)
    rows, last = await page_of(find, min(page_size, PAGE_LIMIT), page_token)
    answer: dict[str, Any] = {"environments": [_public(services, row) for row in rows if row.status != "deleting"]}
    if last is not None:
        answer["next_page_token"] = last.id
    return JSONResponse(answer)


@router.get("/environments/{environment_id}", response_model=None)
async def read(environment_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """One environment. How much it holds is looked up if its sandbox runs; else it is what it was at its end."""
    row = await services.environments.find(caller.project_id, environment_id)
    return JSONResponse(_public(services, await services.environments.measured(row)))


@router.delete("/environments/{environment_id}", response_model=None)
async def delete(environment_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """Removes the environment with its sandbox and files; interactions that run or wait in it are cancelled first."""
    row = await services.environments.find(caller.project_id, environment_id, include_deleting=True)
    for status in _UNENDED:
        wanted = InteractionFilter(environment_id=row.id, status=status)
        left = await services.store.interactions(caller.project_id, wanted, limit=PAGE_LIMIT)
        await asyncio.gather(*(services.supervisor.cancel(each.id) for each in left))
    await services.environments.delete(row)
    return JSONResponse({})


def _public(services: Services, row: EnvironmentRow) -> dict[str, Any]:
    spec = read_spec(row)
    expires = services.environments.expires(row)
    resource = EnvironmentResource(
        id=row.id,
        status="expired" if row.status == "lost" else "active",
        created=rfc3339(row.created),
        updated=rfc3339(row.updated),
        last_accessed=rfc3339(row.last_accessed),
        expires=rfc3339(expires) if expires is not None else None,
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        network=spec.network,
        sandbox_network=services.environments.reach(spec.network),
        sources=None,
    )
    sources = public_sources(spec.sources)
    return dump_environment(resource, extra={"sources": sources} if sources else None)
