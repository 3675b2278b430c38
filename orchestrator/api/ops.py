"""Routes for operators: what is there now, and the logs of an environment or interaction as they grow. Not of the
public wire.

A key sees its own project, an operator's key all of them; so does single-user mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from orchestrator import __version__
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.clock import rfc3339
from orchestrator.errors import NotFound, PermissionDenied
from orchestrator.store.port import Store
from orchestrator.store.records import Event, InteractionFilter
from orchestrator.telemetry.metrics import CONTENT_TYPE
from orchestrator.wire.base import encode_json

router = APIRouter(tags=["operators"])

_LIMIT = 1000
_POLL_S = 0.5
_LAST_KINDS = frozenset({"interaction.completed"})


@router.get("/healthz", response_model=None)
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok", "version": __version__})


@router.get("/readyz", response_model=None)
async def readyz(services: TheServices) -> JSONResponse:
    """The server can take work: the store would keep it. 503 if not, and while the server stops."""
    await services.store.check()
    is_closing = services.closing.is_set()
    return JSONResponse({"status": "closing" if is_closing else "ready"}, 503 if is_closing else 200)


@router.get("/ops/ps", response_model=None, dependencies=[OnlyKnown])
async def ps(caller: TheCaller, services: TheServices) -> JSONResponse:
    """Environments and running interactions."""
    store = services.store
    running = await store.interactions(caller.scope, InteractionFilter(status="in_progress"), limit=_LIMIT)
    by_environment: dict[str | None, list[str]] = {}
    for row in running:
        by_environment.setdefault(row.environment_id, []).append(row.id)
    environments = [
        {
            "id": row.id,
            "project": row.project_id,
            "status": row.status,
            "since": rfc3339(row.stage_since or row.created),
            "created": rfc3339(row.created),
            "last_accessed": rfc3339(row.last_accessed),
            "running": by_environment.get(row.id, []),
        }
        for row in await store.environments(caller.scope, limit=_LIMIT)
    ]
    interactions = [
        {
            "id": row.id,
            "project": row.project_id,
            "agent": row.agent,
            "environment_id": row.environment_id,
            "created": rfc3339(row.created),
        }
        for row in running
    ]
    return JSONResponse({"environments": environments, "interactions": interactions})


@router.get("/metrics", response_model=None, dependencies=[OnlyKnown])
async def metrics(caller: TheCaller, services: TheServices) -> Response:
    """Counters of the whole server, in Prometheus' text format. For an operator's key: they are of all projects."""
    if not caller.is_operator:
        raise PermissionDenied("Metrics are of all projects: they need an operator's key.")
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)


@router.get("/ops/logs/{log_id}", response_model=None, dependencies=[OnlyKnown])
async def logs(
    log_id: str,
    caller: TheCaller,
    services: TheServices,
    follow: Annotated[bool, Query()] = False,
    kind: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Everything that is stored about an interaction, or about an environment and all that ran in it, one JSON
    object a line; with `kind` only entries of that kind, or of all kinds below it: `network` for what went out.

    With `follow` the answer goes on as things happen: to the end of the interaction, or until the reader leaves.
    """
    if await services.store.interaction(caller.scope, log_id) is not None:
        lines = _interaction_lines(services, log_id, kind, follow=follow)
    elif await services.store.environment(caller.scope, log_id) is not None:
        lines = _environment_lines(services, caller.scope, log_id, kind, follow=follow)
    else:
        raise NotFound(f"No environment or interaction {log_id!r}.")
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"cache-control": "no-cache"})


async def _interaction_lines(
    services: Services, log_id: str, kind: str, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    if not follow:
        yield _lines(log_id, await services.store.read(log_id), kind)
        return
    async with _tailing(services.store, log_id) as queue:
        while (batch := await _next(queue, services.closing)) is not None:
            yield _lines(log_id, batch[1], kind)
            if any(event.kind in _LAST_KINDS for event in batch[1]):
                return


async def _environment_lines(
    services: Services, scope: str | None, environment_id: str, kind: str, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    store = services.store
    if not follow:
        found: list[tuple[Event, str]] = [(event, environment_id) for event in await store.read(environment_id)]
        for row in await store.interactions(scope, InteractionFilter(environment_id=environment_id), limit=_LIMIT):
            found += [(event, row.id) for event in await store.read(row.id)]
        found.sort(key=lambda pair: (pair[0].at, pair[1], pair[0].seq))
        yield b"".join(_lines(log_id, [event], kind) for event, log_id in found)
        return
    async with _tailing(store, environment_id, scope=scope) as queue:
        while (batch := await _next(queue, services.closing)) is not None:
            yield _lines(*batch, kind)


Batch = tuple[str, list[Event]]


@contextlib.asynccontextmanager
async def _tailing(
    store: Store, log_id: str, *, scope: str | None = None
) -> AsyncGenerator[asyncio.Queue[Batch | None], None]:
    """Follows a log, and for an environment every log of what runs in it, into one short queue."""
    queue: asyncio.Queue[Batch | None] = asyncio.Queue(maxsize=16)
    followed: set[str] = set()

    async def follow(one: str) -> None:
        async for batch in store.tail(one):
            await queue.put((one, batch))
        if one == log_id:
            await queue.put(None)

    async def discover(group: asyncio.TaskGroup) -> None:
        while True:
            wanted = InteractionFilter(environment_id=log_id)
            for row in reversed(await store.interactions(scope, wanted, limit=_LIMIT)):
                if row.id not in followed:
                    followed.add(row.id)
                    group.create_task(follow(row.id))
            await asyncio.sleep(_POLL_S)

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow(log_id))
                group.create_task(discover(group))
        finally:
            # Whatever ended it, the reader must not wait for more; when it has left, nobody reads the queue.
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    task = asyncio.create_task(run(), name=f"logs-{log_id}")
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _next(queue: asyncio.Queue[Batch | None], closing: asyncio.Event) -> Batch | None:
    """The next batch; None at the end, or when the server closes."""
    waiting = asyncio.ensure_future(queue.get())
    shutdown = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait([waiting, shutdown], return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        shutdown.cancel()


def _lines(log_id: str, batch: list[Event], kind: str) -> bytes:
    lines: list[Any] = [
        {"at": rfc3339(event.at), "log": log_id, "seq": event.seq, "kind": event.kind, "body": json.loads(event.body)}
        for event in batch
        if not kind or event.kind == kind or event.kind.startswith(f"{kind}.")
    ]
    return b"".join(encode_json(line) + b"\n" for line in lines)
