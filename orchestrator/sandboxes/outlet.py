"""The sandbox's way out, as far as the link carries it: connections of its programs, each handed to its gate.

The guest gives each connection to a stream that waits for one; a few always wait. None of this outlives its link: the
next one opens streams anew, and the guest goes on listening meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from orchestrator.errors import CorralError, InvalidRequest, LimitExceeded, SandboxGone, SandboxStartFailed
from orchestrator.sandboxes.channel import Channel
from orchestrator.sandboxes.link import Link

log = structlog.get_logger(__name__)

FIRST_PROTOCOL = 3
"""Guests of earlier releases have no service `accept`."""
ANSWERING_SINCE = 4
"""Guests of earlier releases have no service `listen`: whether they listen shows with the first connection."""
_WAITING = 2
"""Streams that wait at any time: the next is opened when one is taken, which takes less than a millisecond."""
_ANSWER_TIMEOUT_S = 20.0
"""As long as a guest may take for any answer."""
_PAUSE_S = 0.1
"""After a connection that was turned away: a sandbox that opens thousands must not keep the server busy with that."""


class WayOut(Protocol):
    """Where connections are judged and carried on: an `Entry` of `egress`."""

    @property
    def has_room(self) -> bool: ...
    @property
    def unreached_count(self) -> int: ...
    def unreached_since(self, count: int) -> Sequence[str]: ...
    async def serve(self, channel: Channel) -> None: ...


class Outlet:
    """Of one link. `open` begins; it ends with the link. `aclose` waits for that."""

    def __init__(self, link: Link, port: int, way_out: WayOut, on_trouble: Callable[[str], None]) -> None:
        """`on_trouble` is told if a guest of an earlier release cannot listen: then nothing goes out."""
        self._link = link
        self._port = port
        self._way_out = way_out
        self._on_trouble = on_trouble
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Makes the guest listen. Raises `SandboxGone`, and `SandboxStartFailed` if it cannot."""
        if self._link.protocol >= ANSWERING_SINCE:
            await set_up(self._link, "the way out", {"service": "listen", "port": self._port})
        for _ in range(_WAITING):
            self._wait_for_one()

    async def aclose(self) -> None:
        """Ends all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wait_for_one(self) -> None:
        channel = self._link.channel({"service": "accept", "port": self._port})
        task = asyncio.create_task(self._take(channel), name="sandbox-outlet")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, channel: Channel) -> None:
        with contextlib.closing(channel):
            try:
                accepted = await channel.message()
                if accepted is None or not isinstance(accepted.get("accepted"), int):
                    raise SandboxGone("the guest gave a connection that is none")
            except SandboxGone:
                return
            except CorralError as error:
                log.warning("sandbox_no_way_out", reason=error.message)
                self._on_trouble(error.message)
                return
            if is_crowded := not self._way_out.has_room:
                await self._way_out.serve(channel)
                await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(SandboxGone):
                self._wait_for_one()
            if not is_crowded:
                await self._way_out.serve(channel)


async def set_up(link: Link, what: str, request: dict[str, Any]) -> None:
    """Has the guest do what a sandbox cannot begin without. Raises `SandboxGone`, and `SandboxStartFailed` if it
    refuses.
    """
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            await link.ask(request)
    except TimeoutError as error:
        raise SandboxGone("the guest did not answer in time") from error
    except (InvalidRequest, LimitExceeded) as error:
        raise SandboxStartFailed(f"{what} cannot be set up inside: {error.message}", stage="network") from error
