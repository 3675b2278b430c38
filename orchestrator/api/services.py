"""What the routes work with, made by the composition root and kept on the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from orchestrator.agents.catalogue import Catalogue
from orchestrator.api.auth import Authenticator, Caller
from orchestrator.credentials.vault import Vault
from orchestrator.egress.addresses import OwnAddresses
from orchestrator.runs.intake import Intake
from orchestrator.runs.replies import Replies
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.environments import Environments
from orchestrator.sandboxes.uploads import Uploads
from orchestrator.store.port import Store
from orchestrator.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Services:
    """The floors below, ready to use."""

    store: Store
    agents: Catalogue
    credentials: Vault
    environments: Environments
    uploads: Uploads
    supervisor: Supervisor
    intake: Intake
    replies: Replies
    authenticator: Authenticator
    metrics: Metrics
    request_limit_bytes: int
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: streams end."""
    own: OwnAddresses = field(default_factory=OwnAddresses)
    """Told of the port that the server listens on: nothing inside may reach it."""


async def services_of(request: HTTPConnection) -> Services:
    """The services of the application that serves the request."""
    services: Services = request.app.state.services
    return services


async def caller_of(request: HTTPConnection) -> Caller:
    """The authenticated caller. Raises `Unauthenticated`, `PermissionDenied`."""
    return await (await services_of(request)).authenticator.caller(request)


TheServices = Annotated[Services, Depends(services_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
