"""The store of this machine's server, for commands that work on it directly, beside a server that may be running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from orchestrator.config import Settings
    from orchestrator.store.port import Store

T = TypeVar("T")


def with_store(work: Callable[[Store], Awaitable[T]]) -> T:
    """The outcome of `work` on it. Raises what `work` raises, and `ConfigError`, `StoreError`."""
    import asyncio

    from orchestrator.config import Settings

    async def run() -> T:
        async with _open(Settings.load()) as store:
            return await work(store)

    return asyncio.run(run())


def _open(settings: Settings) -> AbstractAsyncContextManager[Store]:
    from orchestrator.app import open_store

    return open_store(settings)
