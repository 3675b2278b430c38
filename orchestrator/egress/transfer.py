"""One request and its answer, carried between a program and a server. Imports `heads` and `crossing`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import h11

from orchestrator.egress.crossing import Client, Outside, both
from orchestrator.egress.echoes import BodyFilter, Echoes
from orchestrator.egress.heads import incoming, informing
from orchestrator.errors import NetworkError

_PIECE_BYTES = 64 << 10


class StaleError(Exception):
    """A connection that was kept had been closed by the server before it read the request."""


class _AnsweredError(Exception):
    """The answer came before the request was whole."""


@dataclass(slots=True)
class Line:
    """A connection to a server, which may serve further requests to it."""

    outside: Outside
    protocol: h11.Connection
    target: tuple[str, int]
    is_used: bool = False


class Transfer:
    """One request and its answer over one connection. Use `carry` once."""

    def __init__(self, client: Client, protocol: h11.Connection, line: Line, count: Callable[[int, int], None]) -> None:
        self.renew: Callable[[], None] = lambda: None
        self.echoes = Echoes()
        """What the answer must not repeat in its head."""
        self.redacts_bodies = False
        """Nor in its body."""
        self._client = client
        self._protocol = protocol
        self._line = line
        self._count = count
        self._filter: BodyFilter | None = None

    async def carry(self, request: h11.Request, body: AsyncGenerator[bytes, None] | None) -> bool:
        """True: both ends speak another protocol now.

        Raises:
            StaleError: nothing of it was read; it can be carried over another connection, if it has no body.
            NetworkError, CorralError, OSError, h11.ProtocolError: it broke.
        """
        await self._send(request)
        if body is None:
            await self._send(h11.EndOfMessage())
            return await self._answer()
        is_switched: list[bool] = []

        async def answer() -> None:
            is_switched.append(await self._answer())
            if self._line.protocol.our_state is h11.SEND_BODY:
                raise _AnsweredError  # what is left of the request is not wanted

        with contextlib.suppress(_AnsweredError):
            await both(self._send_body(body), answer())
        return is_switched[0]

    async def _send_body(self, body: AsyncGenerator[bytes, None]) -> None:
        async with contextlib.aclosing(body):
            async for piece in body:
                await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: Any) -> None:
        data = self._line.protocol.send(event)
        if data:
            self._count(len(data), 0)
            try:
                await self._line.outside.write(data)
            except OSError as error:
                if self._line.is_used:
                    raise StaleError from error
                raise
            self.renew()

    async def _answer(self) -> bool:
        has_begun = False
        while True:
            event = self._line.protocol.next_event()
            if event is h11.NEED_DATA:
                data = await self._read(has_begun=has_begun)
                has_begun = True
                self._count(0, len(data))
                self._line.protocol.receive_data(data)
                self.renew()
            elif isinstance(event, h11.InformationalResponse):
                await self._give(informing(event, self.echoes))
                if event.status_code == 101:
                    return True
            elif isinstance(event, h11.Response):
                self._look_through(event)
                await self._give(incoming(event, self.echoes))
            elif isinstance(event, h11.Data):
                await self._give_body(self._filter.feed(event.data) if self._filter else event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self._filter is not None:
                    await self._give_body(self._filter.end())
                await self._give(h11.EndOfMessage())
                return False
            else:
                raise NetworkError("the server closed the connection without an answer")

    def _look_through(self, answer: h11.Response) -> None:
        """Prepares for the body of `answer`."""
        if not self.redacts_bodies or not self.echoes:
            return
        encodings = [value for name, value in answer.headers if name == b"content-encoding"]
        if any(value.lower() != b"identity" for value in encodings):
            raise NetworkError("the answer is encoded, and cannot be looked through for what must not come back")
        self._filter = self.echoes.filter()

    async def _read(self, *, has_begun: bool) -> bytes:
        """What comes next. Nothing at all from a connection that was kept: it is stale."""
        try:
            data = await self._line.outside.reader.read(_PIECE_BYTES)
        except OSError as error:
            if self._line.is_used and not has_begun:
                raise StaleError from error
            raise
        if not data and self._line.is_used and not has_begun:
            raise StaleError
        return data

    async def _give_body(self, data: bytes) -> None:
        if data:
            await self._give(h11.Data(data=data))

    async def _give(self, event: Any) -> None:
        data = self._protocol.send(event)
        if data:
            await self._client.write(data)
