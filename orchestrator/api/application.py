"""The ASGI application: routes under every version prefix, path clean-up, CORS, a last word at the end."""

from __future__ import annotations

import asyncio
import re
import secrets
from urllib.parse import quote, unquote_to_bytes

import structlog
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import (
    agents,
    credentials,
    environments,
    errors,
    files,
    interactions,
    ops,
    reach,
    skills,
    uploads,
)
from orchestrator.api.services import Services
from orchestrator.errors import StoreError

VERSIONS = ("v1beta", "v1", "v1alpha")
_VERSIONED_TWICE = re.compile(rf"^/(?:{'|'.join(VERSIONS)})/(?=(?:upload/)?(?:{'|'.join(VERSIONS)})/)")
_NAMED_TWICE = re.compile(rf"^((?:/upload)?/(?:{'|'.join(VERSIONS)})/(environments|credentials))/\2(?=/)")
_FILE = re.compile(rb"(/environments/(?:environments/)?[^/]+/files/)(.*)", re.DOTALL)
_ALLOWED_HEADERS = (
    b"authorization, content-type, x-goog-api-key, x-goog-api-client, api-revision, idempotency-key, range, "
    b"x-goog-upload-protocol, x-goog-upload-command, x-goog-upload-offset, x-goog-upload-header-content-length, "
    b"x-goog-upload-header-content-type"
)
_EXPOSED_HEADERS = b"x-goog-upload-url, x-goog-upload-status, x-goog-upload-size-received, content-range"


def create_application(services: Services) -> FastAPI:
    """The application. Whoever made `services` opens and closes them."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.services = services
    for version in VERSIONS:
        app.include_router(interactions.router, prefix=f"/{version}")
        app.include_router(agents.router, prefix=f"/{version}")
        app.include_router(credentials.router, prefix=f"/{version}")
        app.include_router(environments.router, prefix=f"/{version}")
        app.include_router(skills.router, prefix=f"/{version}")
        app.include_router(files.router, prefix=f"/{version}")
        app.include_router(uploads.misplaced, prefix=f"/{version}")
        app.include_router(uploads.router, prefix=f"/upload/{version}")
        app.include_router(uploads.pieces, prefix=f"/upload/{version}")
    app.include_router(ops.router)
    app.include_router(reach.router)
    app.add_api_route("/openapi.json", description, include_in_schema=False)
    errors.install(app)
    app.add_middleware(errors.LastResort)
    app.add_middleware(CrossOrigin, services=services)
    app.add_middleware(LastWords, closing=services.closing)
    app.add_middleware(PlainPaths)
    app.add_middleware(RequestIds)
    return app


def description() -> Response:
    """What the API is, for tools and people. It holds no secrets and needs no key."""
    from orchestrator.api import openapi

    return Response(openapi.document(), media_type="application/json")


class PlainPaths:
    """Doubled slashes, a slash at the end and a doubled version are not there (reference, 1.2). Never a redirect.

    The version comes twice where somebody's base URL has it and the client adds its own, `environments` or
    `credentials` where an id was given with it. Paths of files are encoded again, so that whatever bytes they are reach
    their route.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path = re.sub(r"/{2,}", "/", _encoded_again(scope))
            path = _VERSIONED_TWICE.sub("/", path)
            path = _NAMED_TWICE.sub(r"\1", path)
            scope["path"] = path.rstrip("/") if len(path) > 1 else path
        await self._app(scope, receive, send)


def _encoded_again(scope: Scope) -> str:
    plain: str = scope["path"]
    if "/files/" not in plain:
        return plain
    # The server has decoded it as UTF-8 already, whatever it was.
    raw = re.sub(rb"/{2,}", b"/", unquote_to_bytes(scope.get("raw_path") or quote(plain)))
    found = _FILE.search(raw)
    if found is None:
        return plain
    return raw[: found.end(1)].decode("utf-8", "replace") + quote(found[2])


class RequestIds:
    """A name for each request, in the answer and in every line logged on its way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, named)


class LastWords:
    """Tells callers whose requests are cut off when the server ends, if nothing was told to them yet."""

    def __init__(self, app: ASGIApp, closing: asyncio.Event) -> None:
        self._app = app
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = errors.Telling(send)
        try:
            await self._app(scope, receive, telling)
        except asyncio.CancelledError:
            if scope["type"] != "http" or telling.has_begun or not self._closing.is_set():
                raise
            await errors.stopping()(scope, receive, send)


class CrossOrigin:
    """Lets browsers call from anywhere once API keys protect the server; in single-user mode from nowhere."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = dict(scope["headers"]).get(b"origin") if scope["type"] == "http" else None
        try:
            is_open = origin is not None and not await self._services.authenticator.is_single_user()
        except StoreError as error:
            await errors.answer(error)(scope, receive, send)
            return
        if not is_open:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            headers = [
                (b"access-control-allow-origin", b"*"),
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
                (b"access-control-allow-headers", _ALLOWED_HEADERS),
                (b"access-control-max-age", b"86400"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                headers.append((b"access-control-allow-origin", b"*"))
                headers.append((b"access-control-expose-headers", _EXPOSED_HEADERS))
            await send(message)

        await self._app(scope, receive, allowed)
