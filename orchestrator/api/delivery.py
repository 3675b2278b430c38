"""Whether a caller gets the answer to its create call: the connection is watched from the call to the answer's end.

A client that repeats the call is then told apart from one that wants a second run (`orchestrator.runs.replies`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from orchestrator.api import sse
from orchestrator.runs.replies import Replies
from orchestrator.store.records import InteractionRow
from orchestrator.wire.events import DONE_FRAME


@asynccontextmanager
async def watched(request: Request) -> AsyncGenerator[asyncio.Event, None]:
    """An event that is set when the caller's connection is gone. The request's body must have been read."""
    left = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left.set()

    watching = asyncio.create_task(watch(), name="caller")
    try:
        yield left
    finally:
        watching.cancel()


class AnswerOfCreate(JSONResponse):
    """An interaction as the answer to the call that created it."""

    def __init__(self, content: dict[str, Any], row: InteractionRow, replies: Replies) -> None:
        super().__init__(content)
        self._row = row
        self._replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with watched(Request(scope, receive)) as left:
            # So that the watch sees what has happened already.
            await asyncio.sleep(0)
            if left.is_set():
                self._replies.lost(self._row)
                return
            try:
                await super().__call__(scope, receive, send)
            except BaseException:
                self._replies.lost(self._row)
                raise
            self._replies.delivered(self._row)


class StreamOfCreate(StreamingResponse):
    """The stream of an interaction as the answer to the call that created it.

    Who has its beginning has its name and can come back for the rest. What is not stored has no name: it counts as
    delivered when all of it is.
    """

    def __init__(self, frames: AsyncIterator[bytes], row: InteractionRow, replies: Replies) -> None:
        self._row = row
        self._replies = replies
        self._is_delivered = False
        super().__init__(self._told(frames), media_type="text/event-stream", headers=sse.HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._is_delivered:
                self._replies.lost(self._row)

    async def _told(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        frame = b""
        async for frame in frames:
            yield frame
            if self._row.is_stored and not self._is_delivered:
                # Whoever has left by now is noticed here, and not before: the next step of the stream is cancelled.
                await asyncio.sleep(0)
                self._deliver()
        if frame.endswith(DONE_FRAME):  # a server that closes ends its streams before
            self._deliver()

    def _deliver(self) -> None:
        if not self._is_delivered:
            self._is_delivered = True
            self._replies.delivered(self._row)
