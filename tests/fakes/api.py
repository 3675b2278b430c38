"""The application without sockets, over a store, a supervisor with a fake sandbox, and no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from orchestrator.api.application import create_application
from orchestrator.api.auth import Authenticator
from orchestrator.api.services import Services
from orchestrator.clock import SystemClock
from orchestrator.models.registry import ModelRegistry
from orchestrator.policy.bounds import Bounds
from orchestrator.runs.intake import Intake
from orchestrator.sandboxes.driver import Profile
from orchestrator.sandboxes.environments import Environments, SandboxDefaults
from orchestrator.sandboxes.pool import PoolSettings
from orchestrator.sandboxes.profiles import Profiles
from orchestrator.sandboxes.uploads import Uploads
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.local_driver import IMAGE, LocalDriver
from tests.fakes.runs import RunWorld

LIMIT_BYTES = 10_000


class Api:
    """The application, its parts, and a client of it."""

    def __init__(self, store: SqliteStore, root: Path, host: str = "127.0.0.1") -> None:
        clock = SystemClock()
        self.store = store
        self.world = RunWorld(store)
        pool = PoolSettings(size=0, max_size=0, refill_delay_s=0, memory_limit_bytes=0)
        self.environments = Environments(store, LocalDriver(root), clock, SandboxDefaults(Profile(IMAGE), 5, pool), 1)
        models = ModelRegistry("scripted")
        intake = Intake(
            store,
            self.environments,
            self.world.supervisor,
            self.world.agents,
            models,
            clock,
            Profiles(IMAGE, Bounds()),
            self.world.replies,
            credentials=self.world.credentials,
            generation=1,
        )
        self.services = Services(
            store,
            self.world.agents,
            self.world.credentials,
            self.environments,
            Uploads(self.environments, clock),
            self.world.supervisor,
            intake,
            self.world.replies,
            Authenticator(store, clock, host),
            self.world.metrics,
            LIMIT_BYTES,
        )
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(create_application(self.services), raise_app_exceptions=False),
            base_url="http://127.0.0.1",
        )

    async def error(self, method: str, path: str, **request: Any) -> tuple[int, str, str]:
        """Status, code and message of a refusal, in the one shape."""
        answer = await self.client.request(method, path, **request)
        body = answer.json()
        assert answer.headers["content-type"] == "application/json"
        assert set(body) == {"error"}
        assert {"code", "message"} <= set(body["error"]), body
        return answer.status_code, body["error"]["code"], body["error"]["message"]

    async def create(self, text: str = "hello", **fields: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1beta/interactions", json={"agent": "general", "input": text, **fields})
        assert answer.status_code == 200, answer.text
        created: dict[str, Any] = answer.json()
        return created
