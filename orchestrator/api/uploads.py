"""Routes of uploads into environments: in one request, or resumable in the two ways that clients know.

    one request   PUT the bytes
    resumable     X-Goog-Upload-Protocol: resumable; commands start, upload, finalize, query, cancel (reference, 7.8)
    the older     uploadType=resumable, then PUT with Content-Range; 308 says how far it has come

Bytes go on into the sandbox as they arrive; nothing waits here but what the connection holds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices
from starlette.requests import ClientDisconnect

from orchestrator.api import errors
from orchestrator.api.auth import key_of
from orchestrator.api.files import file_path, public
from orchestrator.api.parameters import OnlyKnown, check_parameters
from orchestrator.api.services import Services, TheCaller, TheServices, caller_of
from orchestrator.errors import CallerError, CorralError, InvalidRequest, NotSupported, Unauthenticated
from orchestrator.sandboxes.files import Target, shown
from orchestrator.sandboxes.uploads import Upload
from orchestrator.wire.base import quote

router = APIRouter(tags=["files"], dependencies=[OnlyKnown])
pieces = APIRouter(tags=["files"])
misplaced = APIRouter(tags=["files"], dependencies=[OnlyKnown])

_STATUS, _URL, _RECEIVED = "x-goog-upload-status", "x-goog-upload-url", "x-goog-upload-size-received"
_STALLED_S = 120.0
"""A sender that sends nothing for so long has left."""
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")
_COUNT = re.compile(r"[0-9]{1,18}")


class _Body:
    """The bytes of a request as they come. One that is cut off ends early, and `is_cut` says so."""

    def __init__(self, request: Request) -> None:
        self.is_cut = False
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = self._request.stream()
        try:
            while True:
                async with asyncio.timeout(_STALLED_S):
                    piece = await anext(stream, None)
                if piece is None:
                    return
                yield piece
        except (ClientDisconnect, TimeoutError):
            self.is_cut = True


@router.post("/environments/{environment_id}/files", response_model=None)
@router.put("/environments/{environment_id}/files", response_model=None)
async def begin_at_root(
    request: Request,
    environment_id: str,
    caller: TheCaller,
    services: TheServices,
    overwrite: Annotated[bool, Query()] = False,
    extract: Annotated[bool, Query()] = False,
    upload_type: Annotated[str | None, Query(validation_alias=AliasChoices("uploadType"))] = None,
) -> Response:
    """As an upload to a path; the root takes no file."""
    raise InvalidRequest("An upload needs a path, such as 'workspace/data.csv'.")


@router.post("/environments/{environment_id}/files/{path:path}", response_model=None)
@router.put("/environments/{environment_id}/files/{path:path}", response_model=None)
async def begin(
    request: Request,
    environment_id: str,
    path: str,
    caller: TheCaller,
    services: TheServices,
    overwrite: Annotated[bool, Query()] = False,
    extract: Annotated[bool, Query()] = False,
    upload_type: Annotated[str | None, Query(validation_alias=AliasChoices("uploadType"))] = None,
) -> Response:
    """Uploads a file, or begins to. With `extract` it is an archive that is unpacked in the folder of that path."""
    row = await services.environments.find(caller.project_id, environment_id.removeprefix("environments/"))
    target = Target(file_path(path), overwrite, extract)
    protocol = (request.headers.get("x-goog-upload-protocol") or upload_type or "media").lower()
    if protocol not in ("resumable", "raw", "media"):
        raise NotSupported(f"Not supported: uploads as {quote(protocol)}.")
    if protocol != "resumable":
        return await _at_once(request, services, caller.project_id, row.id, target)
    is_older = "x-goog-upload-protocol" not in request.headers
    commands = _commands(request)
    if not is_older and commands != ["start"]:
        raise InvalidRequest("Invalid value at 'X-Goog-Upload-Command': a resumable upload begins with 'start'.")
    name = "x-upload-content-length" if is_older else "x-goog-upload-header-content-length"
    upload = await services.uploads.begin(caller.project_id, row.id, target, _count(request, name))
    version = request.url.path.split("/")[2]
    url = f"{request.base_url}upload/{version}/uploads/{upload.id}"
    return JSONResponse({}, headers={"location": url} if is_older else {_STATUS: "active", _URL: url})


async def _at_once(
    request: Request, services: Services, project_id: str, environment_id: str, target: Target
) -> Response:
    uploads = services.uploads
    upload = await uploads.begin(project_id, environment_id, target)
    body = _Body(request)
    try:
        await uploads.add(upload, 0, body)
        if body.is_cut:
            raise InvalidRequest("The request ended before its body did.")
        await uploads.finish(upload)
    except BaseException:
        await asyncio.shield(uploads.cancel(upload))
        raise
    uploads.forget(upload)
    return _written(upload, {})


async def sender_of(request: Request) -> str | None:
    """The project of the caller; None for one that shows no key at all. The address of an upload, 192 random bits, is a
    key to it: clients send nothing else with the bytes.

    Raises `Unauthenticated` for a key that is none, `PermissionDenied`.
    """
    try:
        sender = (await caller_of(request)).project_id
    except Unauthenticated:
        if key_of(request) is not None:
            raise
        sender = None
    check_parameters(request)
    return sender


TheSender = Annotated[str | None, Depends(sender_of)]


@pieces.post("/uploads/{upload_id}", response_model=None)
@pieces.put("/uploads/{upload_id}", response_model=None)
async def go_on(request: Request, upload_id: str, sender: TheSender, services: TheServices) -> Response:
    """A piece of a resumable upload, its end, or how far it has come."""
    try:
        upload = services.uploads.find(sender, upload_id)
    except CorralError as error:
        return _refused(error, None)
    try:
        if "x-goog-upload-command" in request.headers:
            return await _command(request, services, upload)
        return await _older(request, services, upload)
    except CallerError as error:
        return _refused(error, upload)


@pieces.delete("/uploads/{upload_id}", response_model=None)
async def cancel(upload_id: str, sender: TheSender, services: TheServices) -> JSONResponse:
    """Gives a resumable upload up."""
    await services.uploads.cancel(services.uploads.find(sender, upload_id))
    return JSONResponse({})


@misplaced.post("/environments/{environment_id}/files/{path:path}", response_model=None)
@misplaced.put("/environments/{environment_id}/files/{path:path}", response_model=None)
async def misplace(environment_id: str, path: str, caller: TheCaller) -> Response:
    """Refused: uploads go to the same path below `/upload`."""
    raise InvalidRequest(f"Uploads go to '/upload/…/files/{shown(file_path(path))[1:-1]}'.")


async def _command(request: Request, services: Services, upload: Upload) -> Response:
    commands = _commands(request)
    if commands == ["query"]:
        status = "active" if upload.written is None else "final"
        return JSONResponse({}, headers={_STATUS: status, _RECEIVED: str(upload.received_bytes)})
    if commands == ["cancel"]:
        await services.uploads.cancel(upload)
        return JSONResponse({}, headers={_STATUS: "cancelled"})
    if not commands or commands not in (["upload"], ["upload", "finalize"], ["finalize"]):
        raise InvalidRequest(f"Invalid value at 'X-Goog-Upload-Command': {quote(', '.join(commands))}.")
    if "upload" in commands:
        offset = _count(request, "x-goog-upload-offset")
        if offset is None:
            raise InvalidRequest("Missing header 'X-Goog-Upload-Offset'.")
        body = _Body(request)
        await services.uploads.add(upload, offset, body)
        if body.is_cut:
            raise InvalidRequest("The request ended before its body did.")
    if commands[-1] == "finalize":
        await services.uploads.finish(upload)
        return _written(upload, {_STATUS: "final"})
    return JSONResponse({}, headers={_STATUS: "active", _RECEIVED: str(upload.received_bytes)})


async def _older(request: Request, services: Services, upload: Upload) -> Response:
    header = request.headers.get("content-range")
    match = _CONTENT_RANGE.fullmatch(header) if header is not None else None
    if header is not None and match is None:
        raise InvalidRequest("Invalid value at 'Content-Range': expected 'bytes FIRST-LAST/SIZE'.")
    first, _, total = match.groups() if match is not None else ("0", None, None)
    if total not in (None, "*") and upload.total_bytes is None:
        upload.total_bytes = int(total)
    if first is not None:
        body = _Body(request)
        await services.uploads.add(upload, int(first), body)
        if body.is_cut:
            raise InvalidRequest("The request ended before its body did.")
    if upload.written is not None or match is None or upload.received_bytes == upload.total_bytes:
        await services.uploads.finish(upload)
        return _written(upload, {})
    received = upload.received_bytes
    return Response(status_code=308, headers={"range": f"bytes=0-{received - 1}"} if received else {})


def _written(upload: Upload, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"files": [public(entry) for entry in upload.written or ()]}, headers=headers)


def _refused(error: CorralError, upload: Upload | None) -> Response:
    """Without a status the official clients send a piece again; what would fail again says that it is over."""
    answer = errors.answer(error)
    answer.headers[_STATUS] = "cancelled"
    if upload is not None:
        answer.headers[_RECEIVED] = str(upload.received_bytes)
    return answer


def _commands(request: Request) -> list[str]:
    said = request.headers.get("x-goog-upload-command", "")
    return [each.strip().lower() for each in said.split(",") if each.strip()]


def _count(request: Request, name: str) -> int | None:
    """A number in a header; None without the header."""
    value = request.headers.get(name)
    if value is None or _COUNT.fullmatch(value):
        return None if value is None else int(value)
    raise InvalidRequest(f"Invalid value at '{name}': expected a number of bytes.")
