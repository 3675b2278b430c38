"""Routes of environments' files: listing and download. A stopped environment is started for it.

A path in these routes is percent-encoded once more than elsewhere (`application.PlainPaths`): names are bytes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote_to_bytes

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from orchestrator.api.paging import PAGE_LIMIT, PageSize, PageToken
from orchestrator.api.parameters import OnlyKnown
from orchestrator.api.services import Services, TheCaller, TheServices
from orchestrator.errors import CorralError, InvalidRequest, NotFound, NotSupported
from orchestrator.sandboxes import files
from orchestrator.sandboxes.files import ByteRange, Entry, Media, shown
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.wire.files import dump_entry, mime_type

log = structlog.get_logger(__name__)

router = APIRouter(tags=["files"], dependencies=[OnlyKnown])

_PATH_LIMIT_BYTES = 4096
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
_SAFE_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
"""Files are an agent's: no browser may take one for a page of this server."""

_Alt = Annotated[str | None, Query(max_length=100)]


@router.get("/environments/{environment_id}/files", response_model=None)
async def index(
    request: Request,
    environment_id: str,
    caller: TheCaller,
    services: TheServices,
    *,
    alt: _Alt = None,
    recursive: Annotated[bool, Query()] = False,
    page_size: PageSize = PAGE_LIMIT,
    page_token: PageToken = None,
) -> Response:
    """The entries of an environment's root; or a tar, as of a folder."""
    where = await _Where.find(services, caller.project_id, environment_id, b"")
    return await _answer(request, where, alt, recursive, page_size, page_token)


@router.get("/environments/{environment_id}/files/{path:path}", response_model=None)
async def read(
    request: Request,
    environment_id: str,
    path: str,
    caller: TheCaller,
    services: TheServices,
    *,
    alt: _Alt = None,
    recursive: Annotated[bool, Query()] = False,
    page_size: PageSize = PAGE_LIMIT,
    page_token: PageToken = None,
) -> Response:
    """The entry of a file, or those of a folder; with `alt=media` the file itself, or the folder's files as a tar."""
    where = await _Where.find(services, caller.project_id, environment_id, file_path(path))
    return await _answer(request, where, alt, recursive, page_size, page_token)


@router.get("/files/environment-{environment_id}:download", response_model=None)
async def snapshot(
    environment_id: str, caller: TheCaller, services: TheServices, alt: Annotated[Literal["media"], Query()]
) -> Response:
    """All files of an environment as a tar, whose names begin with `./`. An older route."""
    where = await _Where.find(services, caller.project_id, environment_id, b"")
    return await _download(where, is_recursive=True, is_snapshot=True)


def file_path(encoded: str) -> bytes:
    """A path of a route as bytes. Raises `InvalidRequest` for one that names nothing that a file could be."""
    path = unquote_to_bytes(encoded)
    names = path.split(b"/")
    if b"\0" in path or b".." in names or b"." in names or len(path) > _PATH_LIMIT_BYTES:
        raise InvalidRequest(
            f"Invalid path {shown(path)}: expected at most {_PATH_LIMIT_BYTES} bytes without NUL, '.' or '..'."
        )
    return b"/".join(name for name in names if name)


class _Where:
    """A path in an environment of the caller's project."""

    def __init__(self, services: Services, environment_id: str, path: bytes) -> None:
        self.environment_id = environment_id
        self.path = path
        self._services = services

    @classmethod
    async def find(cls, services: Services, project_id: str, environment_id: str, path: bytes) -> _Where:
        row = await services.environments.find(project_id, environment_id.removeprefix("environments/"))
        return cls(services, row.id, path)

    @contextlib.asynccontextmanager
    async def sandbox(self) -> AsyncGenerator[Sandbox, None]:
        """Running for as long as the block lasts."""
        with self._services.environments.hold(self.environment_id):
            try:
                yield await self._services.environments.sandbox(self.environment_id)
            except NotFound as error:
                raise NotFound(f"Environment {self.environment_id!r}: {error.message}") from error


async def _answer(
    request: Request, where: _Where, alt: str | None, is_recursive: bool, page_size: int, page_token: str | None
) -> Response:
    if alt == "media":
        part = _wanted(request.headers.get("range"))
        return await _download(where, is_recursive=is_recursive, part=part)
    if alt not in (None, "json"):
        raise NotSupported("Invalid value at 'alt': only 'json' and 'media' are supported here.")
    return await _list(where, is_recursive, min(page_size, PAGE_LIMIT), page_token)


async def _list(where: _Where, is_recursive: bool, page_size: int, page_token: str | None) -> Response:
    after = _after(page_token)
    async with where.sandbox() as sandbox:
        found, is_complete = await files.entries(
            sandbox, where.path, is_recursive=is_recursive, after=after, limit=page_size
        )
    answer: dict[str, Any] = {"files": [public(entry) for entry in found]}
    if not is_complete and found:
        below = found[-1].path[len(where.path) :].lstrip(b"/")
        answer["next_page_token"] = base64.urlsafe_b64encode(below).decode().rstrip("=")
    return JSONResponse(answer)


def public(entry: Entry) -> dict[str, Any]:
    """An entry as it is answered."""
    dumped = dump_entry(entry.path, entry.kind, entry.size_bytes, entry.created, entry.modified)
    return dumped.model_dump(exclude_none=True)


def _after(page_token: str | None) -> bytes:
    if not page_token:
        return b""
    try:
        after = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True)
        return file_path(quote(after))
    except (binascii.Error, ValueError, InvalidRequest) as error:
        raise InvalidRequest("Invalid value at 'page_token': it was not given here.") from error


def _wanted(header: str | None) -> ByteRange | None:
    """Several ranges, and what cannot be read, are as if nothing was said (RFC 9110, 14.2)."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last, end = (None if each is None else int(each) for each in match.groups())
    if first is None:
        return ByteRange(None, end)
    return None if last is not None and last < first else ByteRange(first, last)


async def _download(
    where: _Where, *, is_recursive: bool, is_snapshot: bool = False, part: ByteRange | None = None
) -> Response:
    stack = contextlib.AsyncExitStack()
    try:
        sandbox = await stack.enter_async_context(where.sandbox())
        prefix = "./" if is_snapshot else ""
        media = await files.media(
            sandbox, where.path, is_recursive=is_recursive, prefix=prefix, part=part, is_snapshot=is_snapshot
        )
        stack.callback(media.close)
    except BaseException:
        await stack.aclose()
        raise
    return _Download(_pieces(stack, media), *_described(media, where, is_part=part is not None))


def _described(media: Media, where: _Where, *, is_part: bool) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    name = media.entry.path.rpartition(b"/")[2] or where.environment_id.encode()
    if media.count is None:
        name += b".tar"
    headers = {
        **_SAFE_HEADERS,
        "content-type": "application/x-tar" if media.count is None else mime_type(name.decode("utf-8", "replace")),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
    }
    if media.count is None:
        return 200, headers
    headers |= {"content-length": str(media.count), "accept-ranges": "bytes"}
    if not is_part:
        return 200, headers
    last = media.first + media.count - 1
    return 206, {**headers, "content-range": f"bytes {media.first}-{last}/{media.entry.size_bytes}"}


async def _pieces(stack: contextlib.AsyncExitStack, media: Media) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for piece in media:
            yield piece


class _Download(StreamingResponse):
    """Says that something went wrong on the way in the only way that is left: the connection breaks."""

    def __init__(self, content: AsyncGenerator[bytes, None], status: int, headers: dict[str, str]) -> None:
        super().__init__(content, status)
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._content = content

    async def stream_response(self, send: Send) -> None:
        async with contextlib.aclosing(self._content):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for piece in self._content:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except CorralError as error:
                log.info("download_broken", reason=error.message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
