"""`KeptSnapshots`: keeps no files, but says which would be kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from orchestrator.errors import CorralError, NotFound


class KeptSnapshots:
    """Snapshots of the environments in `environments`, and of no others."""

    def __init__(self, *environments: str) -> None:
        self.environments = set(environments)
        self.kept: list[str] = []
        """In order; without those whose version could not be stored."""
        self.spared: list[str] = []

    @asynccontextmanager
    async def preserved(self, project_id: str, environment_id: str) -> AsyncGenerator[str, None]:
        if environment_id not in self.environments:
            raise NotFound(f"Environment {environment_id!r} not found.")
        name = f"base-{len(self.kept)}"
        self.kept.append(name)
        try:
            yield name
        except CorralError:
            self.kept.remove(name)
            raise

    @contextmanager
    def sparing(self, snapshot: str) -> Generator[None, None, None]:
        self.spared.append(snapshot)
        yield
