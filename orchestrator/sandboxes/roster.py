"""Who is there: the linked sandboxes of a server by environment, and one lock for each environment.

The lock keeps what begins, changes or ends an environment's sandbox apart; calls need none. Holds no rows and asks no
platform.
"""

from __future__ import annotations

import asyncio

from orchestrator.sandboxes.handle import Sandbox


class Roster:
    """The sandboxes that this server has a link to."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, Sandbox] = {}
        self._paused: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, environment_id: str) -> asyncio.Lock:
        """Held by whoever changes what embodies the environment."""
        return self._locks.setdefault(environment_id, asyncio.Lock())

    def is_busy(self, environment_id: str) -> bool:
        """Whether somebody holds the lock."""
        lock = self._locks.get(environment_id)
        return lock is not None and lock.locked()

    def ready(self, environment_id: str) -> Sandbox | None:
        """The sandbox, if a call can begin in it right now."""
        sandbox = self._sandboxes.get(environment_id)
        is_ready = sandbox is not None and sandbox.is_connected and environment_id not in self._paused
        return sandbox if is_ready else None

    def linked(self, environment_id: str) -> Sandbox | None:
        """The sandbox that was last linked: it may be paused, and its link may have ended by itself."""
        return self._sandboxes.get(environment_id)

    def add(self, environment_id: str, sandbox: Sandbox) -> None:
        """It runs, and its link is open."""
        self._sandboxes[environment_id] = sandbox
        self._paused.discard(environment_id)

    def set_paused(self, environment_id: str, is_paused: bool) -> None:
        """A paused sandbox keeps its link."""
        (self._paused.add if is_paused else self._paused.discard)(environment_id)

    async def drop(self, environment_id: str) -> None:
        """It runs no more: closes its link, if there is one."""
        self._paused.discard(environment_id)
        sandbox = self._sandboxes.pop(environment_id, None)
        if sandbox is not None:
            await sandbox.aclose()

    def forget(self, environment_id: str) -> None:
        """The environment is gone; called by whoever had its lock."""
        self._locks.pop(environment_id, None)

    def environment_of(self, sandbox_id: str) -> str | None:
        """Whose sandbox that is, if it is linked."""
        found = (each for each, sandbox in self._sandboxes.items() if sandbox.ref.sandbox_id == sandbox_id)
        return next(found, None)

    @property
    def sandboxes(self) -> list[Sandbox]:
        """All that were linked."""
        return list(self._sandboxes.values())
