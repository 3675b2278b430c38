"""The one table from errors to HTTP status, and the shape of an error answer (reference, section 5)."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import errors
from orchestrator.wire.errors import error_body

log = structlog.get_logger(__name__)

STATUS: dict[type[errors.CorralError], int] = {
    errors.InvalidRequest: 400,
    errors.NotSupported: 400,
    errors.BodyTooLarge: 413,
    errors.OutOfRange: 416,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.LimitExceeded: 429,
    errors.EngineUnavailable: 503,
    errors.ImageMissing: 503,
    errors.SandboxError: 502,
    errors.LogDamaged: 500,
    errors.StoreError: 503,
    errors.CorralError: 500,
}
"""The nearest base class counts."""

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def status_of(error: errors.CorralError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def answer(error: errors.CorralError) -> JSONResponse:
    """The error as an answer."""
    status = status_of(error)
    headers = {"retry-after": "1"} if error.retryable else {}
    if isinstance(error, errors.OutOfRange):
        headers["content-range"] = f"bytes */{error.size_bytes}"
    return JSONResponse(error_body(error.code, error.message), status, headers=headers)


def stopping() -> JSONResponse:
    """What a request gets that the server's end cuts off."""
    body = error_body("unavailable", "The server stops; ask again when it is back.")
    return JSONResponse(body, 503, headers={"retry-after": "1"})


def install(app: FastAPI) -> None:
    """Makes `app` answer every failure in the one shape."""

    @app.exception_handler(errors.CorralError)
    async def expected(_request: HTTPConnection, error: errors.CorralError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(WebSocketRequestValidationError)
    @app.exception_handler(RequestValidationError)
    async def misused(
        _request: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError
    ) -> JSONResponse:
        # Bodies are parsed by `wire`; what FastAPI checks are parameters of the path and the query.
        fault = error.errors()[0]
        message = f"Invalid value at '{fault['loc'][-1]}': {fault['msg']}."
        return answer(errors.InvalidRequest(message))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            404: f"No such path: {request.url.path}",
            405: f"{request.method} is not possible on {request.url.path}",
        }.get(error.status_code, str(error.detail))
        code = _CODES.get(error.status_code, "invalid_request")
        headers = {"allow": ", ".join(_possible(app, request))} if error.status_code == 405 else error.headers
        return JSONResponse(error_body(code, message), error.status_code, headers=headers)


def _possible(app: FastAPI, request: Request) -> list[str]:
    """The methods of all routes of the path; the framework names those of the first."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)
    ]


class Telling:
    """A `send` that remembers whether the answer has begun: after that there is no other one."""

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


class LastResort:
    """Answers mistakes of ours. The framework would do so outside of all that names requests and lets pages read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = Telling(send)
        try:
            await self._app(scope, receive, telling)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log.error("request_broken", path=scope["path"], exc_info=error)
            if telling.has_begun:
                raise
            body = error_body("internal", "The server failed; its log has the details.")
            await JSONResponse(body, 500)(scope, receive, send)
