"""Routes of agents (reference, 1.2, 6.1 and 11.1): create, list, read, delete; and what is ours: change, versions,
roll-back.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from orchestrator.agents.catalogue import read_agent
from orchestrator.agents.registry import AgentDefinition, AgentRegistry
from orchestrator.api.auth import Caller
from orchestrator.api.body import read_json
from orchestrator.api.offer import check_agent
from orchestrator.api.paging import PAGE_LIMIT, PageSize, PageToken, naming_token
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.clock import rfc3339
from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.policy.credentials import namings
from orchestrator.store.records import AgentRow
from orchestrator.wire.agents import (
    AgentCreate,
    AgentParts,
    AgentResource,
    AgentRollback,
    AgentVersion,
    parse_change,
    public_agent,
)
from orchestrator.wire.base import dump, parse
from orchestrator.wire.tools import public_tools

router = APIRouter(tags=["agents"], dependencies=[OnlyKnown])

_OF_SERVER = "server/"
"""Begins the page tokens among the server's own agents, which come last."""


@router.post("/agents", response_model=None)
async def create(request: Request, caller: TheCaller, services: TheServices) -> JSONResponse:
    """A new agent, as its version 1."""
    wanted = parse(AgentCreate, await read_json(request, services.request_limit_bytes))
    check_agent(wanted)
    await _check_credentials(services, caller, wanted)
    return JSONResponse(_whole(await services.agents.create(caller.project_id, wanted)))


@router.get("/agents", response_model=None)
async def index(
    caller: TheCaller,
    services: TheServices,
    page_size: PageSize = 50,
    page_token: PageToken = None,
    parent: Annotated[str | None, Query()] = None,
) -> JSONResponse:
    """The project's agents, newest first, then those of the server."""
    if parent:
        raise NotSupported("Not supported: 'parent'; a key sees the agents of its project.")
    size = min(page_size, PAGE_LIMIT)
    shown: list[tuple[str, dict[str, Any]]] = []
    if not (page_token or "").startswith(_OF_SERVER):
        with naming_token():
            rows = await services.store.agents(caller.project_id, after=page_token or None, limit=size + 1)
        shown = [(row.uid, _listed(row)) for row in rows]
        page_token = None
    if len(shown) <= size:
        shown += _of_server(services.agents.registry, (page_token or "").removeprefix(_OF_SERVER))
    return _page("agents", shown, size)


@router.get("/agents/{agent_id}", response_model=None)
async def read(agent_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """One agent in its latest version, with the contents of its files; of the server also by an alias."""
    row = await services.store.agent(caller.project_id, agent_id)
    if row is not None:
        return JSONResponse(_whole(row))
    registry = services.agents.registry
    return JSONResponse(_servers_own(registry, registry.resolve(agent_id)))


@router.patch("/agents/{agent_id}", response_model=None)
async def change(agent_id: str, request: Request, caller: TheCaller, services: TheServices) -> JSONResponse:
    """Changes the fields that are given, null takes one away; a new version, unless nothing changes."""
    fields = parse_change(await read_json(request, services.request_limit_bytes))
    parts = {name: value for name, value in fields.items() if name in AgentParts.model_fields}
    changed = AgentParts.model_construct(**parts)
    check_agent(changed)
    await _check_credentials(services, caller, changed)
    return JSONResponse(_whole(await services.agents.change(caller.project_id, agent_id, fields)))


@router.delete("/agents/{agent_id}", response_model=None)
async def delete(agent_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """Removes the definition with its versions. What ran can still be read, what runs goes on."""
    await services.agents.delete(caller.project_id, agent_id)
    return JSONResponse({})


@router.get("/agents/{agent_id}/versions", response_model=None)
async def versions(
    agent_id: str, caller: TheCaller, services: TheServices, page_size: PageSize = 50, page_token: PageToken = None
) -> JSONResponse:
    """The agent's versions, the latest first."""
    if page_token and not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 9):
        raise InvalidRequest("Invalid value at 'page_token': it was not given here.")
    latest = await services.agents.find(caller.project_id, agent_id)
    size = min(page_size, PAGE_LIMIT)
    before = int(page_token) if page_token else None
    rows = await services.store.agent_versions(latest.uid, before=before, limit=size + 1)
    return _page("agentVersions", [(str(row.version), _versioned(row, _listed(row))) for row in rows], size)


@router.get("/agents/{agent_id}/versions/{version}", response_model=None)
async def read_version(agent_id: str, version: int, caller: TheCaller, services: TheServices) -> JSONResponse:
    """One version, with the contents of its files."""
    row = await services.agents.find(caller.project_id, agent_id, version)
    return JSONResponse(_versioned(row, _whole(row)))


@router.post("/agents/{agent_id}/rollback", response_model=None)
@router.post("/agents/{agent_id}:rollback", response_model=None)
async def roll_back(agent_id: str, request: Request, caller: TheCaller, services: TheServices) -> JSONResponse:
    """A new version that is like an earlier one."""
    wanted = parse(AgentRollback, await read_json(request, services.request_limit_bytes))
    return JSONResponse(_whole(await services.agents.roll_back(caller.project_id, agent_id, wanted.version)))


async def _check_credentials(services: Services, caller: Caller, agent: AgentParts) -> None:
    if (base := agent.base_environment) is not None:
        wanted = namings(base.network, base.env, "base_environment")
        await services.credentials.check(caller.project_id, wanted)


def _page(field: str, shown: list[tuple[str, dict[str, Any]]], size: int) -> JSONResponse:
    answer: dict[str, Any] = {field: [entry for _, entry in shown[:size]]}
    if len(shown) > size:
        answer["next_page_token"] = answer["nextPageToken"] = shown[size - 1][0]
    return JSONResponse(answer)


def _whole(row: AgentRow) -> dict[str, Any]:
    return _answer(row, public_agent(read_agent(row), with_contents=True))


def _listed(row: AgentRow) -> dict[str, Any]:
    return _answer(row, json.loads(row.summary))


def _answer(row: AgentRow, shown: dict[str, Any]) -> dict[str, Any]:
    times = {"created": rfc3339(row.created), "updated": rfc3339(row.updated)}
    return dump(AgentResource(**shown, owner="project", version=row.version, **times))


def _versioned(row: AgentRow, shown: dict[str, Any]) -> dict[str, Any]:
    return dump(AgentVersion(**shown, name=f"agents/{row.name}/versions/{row.version}"))


def _of_server(registry: AgentRegistry, after: str) -> list[tuple[str, dict[str, Any]]]:
    return [(_OF_SERVER + agent.id, _servers_own(registry, agent)) for agent in registry.agents if agent.id > after]


def _servers_own(registry: AgentRegistry, agent: AgentDefinition) -> dict[str, Any]:
    """Without what it is told, which is the operator's."""
    resource = AgentResource(
        id=agent.id,
        description=agent.description or None,
        tools=public_tools(agent.tools),
        owner="server",
        aliases=registry.aliases_of(agent.id) or None,
    )
    return dump(resource)
