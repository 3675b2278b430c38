"""The route of skills, which is ours: which the server has for sources of type `skill_registry`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from orchestrator.agents.guidance import Unread
from orchestrator.agents.skill_registry import RegisteredSkill
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import TheCaller, TheServices

router = APIRouter(tags=["skills"], dependencies=[OnlyKnown])


@router.get("/skills", response_model=None)
async def index(caller: TheCaller, services: TheServices) -> JSONResponse:
    """The skills of the server by name, also those that cannot be used, with the reason."""
    found = await asyncio.to_thread(services.agents.skills.skills)
    return JSONResponse({"skills": list(map(_public, found))})


def _public(found: RegisteredSkill | Unread) -> dict[str, Any]:
    if isinstance(found, Unread):
        return {"name": found.path.partition("/")[0], "problem": found.reason}
    return {"name": found.skill.name, "description": found.skill.description, "sha256": found.sha256}
