"""Routes for operators into a running sandbox: figures, terminals, ports, file watches. Not of the public wire.

As with all operators' routes a key reaches its own project, an operator's key all of them; anything else is not there.
What is refused before a WebSocket opens is answered as everywhere, with a status and an error body; what breaks later
is told as a last text frame with the same body. All of it ends when the server closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from orchestrator.api import sse
from orchestrator.api.auth import Caller
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.errors import Conflict, CorralError, InvalidRequest, NotFound
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.reach import Terminal, Watch
from orchestrator.store.records import EnvironmentRow
from orchestrator.wire.base import encode_json
from orchestrator.wire.errors import error_body
from orchestrator.wire.events import DONE_FRAME, HEARTBEAT_FRAME, sse_frame

router = APIRouter(prefix="/ops/environments/{environment_id}", tags=["operators"], dependencies=[OnlyKnown])

_HEARTBEAT_S = 15.0
_NORMAL, _INTERNAL_ERROR, _GOING_AWAY = 1000, 1011, 1001
_Size = Annotated[int, Query(ge=1, le=1000)]


@router.get("/usage", response_model=None)
async def usage(environment_id: str, caller: TheCaller, services: TheServices) -> JSONResponse:
    """What the sandbox uses and may use; null is what its platform does not tell. Starts nothing: 409 if none runs."""
    row = await _find(services, caller, environment_id)
    # One that is paused is not made to go on for this, either.
    sandbox = await services.environments.running(environment_id) if row.status == "active" else None
    if sandbox is None:
        raise Conflict(f"Environment {environment_id!r} has no running sandbox.")
    return JSONResponse(dataclasses.asdict(await sandbox.usage()))


@router.get("/watch", response_model=None)
async def watch(
    environment_id: str,
    caller: TheCaller,
    services: TheServices,
    path: Annotated[list[str] | None, Query(max_length=64)] = None,
    recursive: Annotated[bool, Query()] = True,
) -> StreamingResponse:
    """Changes of files as server-sent events, from the first byte of the answer on. `path` names folders below the
    working directory, by default that itself.
    """
    frames = _watch(services, caller, environment_id, path or ["."], is_recursive=recursive)
    # A generator that was never begun would leave the watch open if the caller has left by now.
    await anext(frames)
    return StreamingResponse(frames, media_type="text/event-stream", headers=sse.HEADERS)


@router.websocket("/terminal")
async def terminal(
    websocket: WebSocket,
    environment_id: str,
    caller: TheCaller,
    services: TheServices,
    *,
    rows: _Size = 24,
    cols: _Size = 80,
    command: Annotated[list[str] | None, Query()] = None,
    cwd: Annotated[str | None, Query()] = None,
    term: Annotated[str, Query(max_length=100)] = "xterm-256color",
) -> None:
    """A terminal: binary frames are keys and screen. Text in: {"resize": {"rows", "cols"}}; text out, at the end:
    {"exit": {"exit_code", "signal"}}. `command`, once for each word, runs instead of a login shell.
    """
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(_in_use(services, caller, environment_id))
        made = sandbox.terminal(command or [], rows=rows, cols=cols, cwd=cwd, env={"TERM": term})
        stack.enter_context(contextlib.closing(made))
        await websocket.accept()

        async def show() -> None:
            async for screen in made:
                await websocket.send_bytes(screen)
            await _say(websocket, {"exit": dataclasses.asdict(await made.wait())})

        await _converse(services, websocket, show, made.write, lambda text: _resize(made, text))


def _resize(made: Terminal, text: dict[str, Any]) -> None:
    match text:
        case {"resize": {"rows": int(rows), "cols": int(cols)}}:
            made.resize(rows, cols)
        case _:
            raise InvalidRequest("A terminal takes the text frame {'resize': {'rows', 'cols'}}.")


@router.websocket("/ports/{port}")
async def connection(
    websocket: WebSocket, environment_id: str, port: int, caller: TheCaller, services: TheServices
) -> None:
    """A connection to a port inside: binary frames are its bytes; the text frame {"end": true} ends one direction.
    409 `connection_refused` or `connection_timeout` if nobody answers there.
    """
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(_in_use(services, caller, environment_id))
        made = stack.enter_context(contextlib.closing(await sandbox.connect(port)))
        await websocket.accept()
        has_ended = asyncio.Event()

        def end(text: dict[str, Any]) -> None:
            if text != {"end": True}:
                raise InvalidRequest("A connection takes the text frame {'end': true}.")
            made.end()
            has_ended.set()

        async def pass_on() -> None:
            while data := await made.read():
                await websocket.send_bytes(data)
            await _say(websocket, {"end": True})
            await has_ended.wait()

        await _converse(services, websocket, pass_on, made.write, end)


async def _find(services: Services, caller: Caller, environment_id: str) -> EnvironmentRow:
    row = await services.store.environment(caller.scope, environment_id)
    if row is None or row.status == "deleting":
        raise NotFound(f"Environment {environment_id!r} not found.")
    return row


@contextlib.asynccontextmanager
async def _in_use(services: Services, caller: Caller, environment_id: str) -> AsyncGenerator[Sandbox, None]:
    """The environment's sandbox, started if it does not run, and left running for as long as the block lasts."""
    await _find(services, caller, environment_id)
    with services.environments.hold(environment_id):
        yield await services.environments.sandbox(environment_id)


async def _watch(
    services: Services, caller: Caller, environment_id: str, paths: list[str], *, is_recursive: bool
) -> AsyncGenerator[bytes, None]:
    async with _in_use(services, caller, environment_id) as sandbox:
        made = await sandbox.watch(paths, is_recursive=is_recursive)
        async with contextlib.aclosing(_frames(made, services.closing)) as frames:
            async for frame in frames:
                yield frame


async def _converse(
    services: Services,
    websocket: WebSocket,
    send_all: Callable[[], Awaitable[None]],
    on_bytes: Callable[[bytes], Awaitable[None]],
    on_text: Callable[[dict[str, Any]], None],
) -> None:
    """Both directions, until `send_all` is done, the caller has left, something breaks, or the server closes."""

    async def receive_all() -> None:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if message.get("bytes") is not None:
                await on_bytes(message["bytes"])
            else:
                on_text(_object(message["text"]))

    tasks = [asyncio.ensure_future(each) for each in (send_all(), receive_all(), services.closing.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        code = _GOING_AWAY if tasks[2] in done else _NORMAL
    except CorralError as error:
        await _say(websocket, error_body(error.code, error.message))
        code = _INTERNAL_ERROR
    except WebSocketDisconnect:
        return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the caller has left
        await websocket.close(code)


async def _say(websocket: WebSocket, message: dict[str, Any]) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.send_text(encode_json(message).decode())


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"A text frame is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidRequest("A text frame is not a JSON object.")
    return value


async def _frames(made: Watch, closing: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """An empty frame at once, then events as they come."""
    events = aiter(made)
    shutdown = asyncio.ensure_future(closing.wait())
    waiting = asyncio.ensure_future(anext(events, None))
    try:
        yield b""
        yield HEARTBEAT_FRAME
        while True:
            await asyncio.wait([waiting, shutdown], timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if shutdown.done():
                return
            if not waiting.done():
                yield HEARTBEAT_FRAME
                continue
            event = waiting.result()
            if event is None:
                yield DONE_FRAME
                return
            yield sse_frame(event.kind.value, encode_json(dataclasses.asdict(event)))
            waiting = asyncio.ensure_future(anext(events, None))
    except CorralError as error:
        yield sse_frame("error", encode_json(error_body(error.code, error.message)))
    finally:
        # First: whoever cancels a stream that its reader has left cancels every wait of ours, too.
        made.close()
        shutdown.cancel()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
