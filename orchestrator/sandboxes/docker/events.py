"""The engine's events: the containers that end, as they do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

import docker.errors
import requests.exceptions

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.docker.container import INSTANCE_LABEL, SANDBOX_LABEL

CHECK_INTERVAL_S = 15.0
_DEATHS = ("die", "died")
"""What the engine says, and what Podman wants to be asked for."""


def open_stream(api: Any, instance: str, since: str | None) -> Any:
    """The SDK's stream of ends of containers of one owner, from `since` on by the engine's clock. Blocks."""
    filters = {"type": "container", "event": list(_DEATHS), "label": f"{INSTANCE_LABEL}={instance}"}
    return api.events(since=since, filters=filters, decode=True)


async def ends(stream: Any, check: Callable[[], Awaitable[None]]) -> AsyncGenerator[str, None]:
    """The sandboxes whose containers end. Closes the stream.

    `check` is called from time to time while nothing comes: a stream may be over without a word.

    Raises:
        EngineUnavailable: the stream broke off.
    """
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    def pump(events: Iterable[Any]) -> None:
        try:
            for event in events:
                attributes = (event.get("Actor") or {}).get("Attributes") or {}
                loop.call_soon_threadsafe(seen.put_nowait, str(attributes.get(SANDBOX_LABEL, "")))
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
            pass  # the engine went away, or we closed the stream
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(seen.put_nowait, None)

    # A thread of its own, daemon: it may wait for days, and a shutdown must not wait for it.
    threading.Thread(target=pump, args=(stream,), name="engine-events", daemon=True).start()
    try:
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    sandbox_id = await seen.get()
            except TimeoutError:
                await check()
                continue
            if sandbox_id is None:
                raise EngineUnavailable("the engine's event stream ended")
            yield sandbox_id
    finally:
        with contextlib.suppress(docker.errors.DockerException, OSError):
            stream.close()
