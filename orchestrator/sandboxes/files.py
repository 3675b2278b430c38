"""An environment's files as people reach them from outside: entries, contents, uploads, how much there is.

Written on the link alone; paths are bytes, relative to `/`, and resolved inside, as the agent's user. Whatever the
guest says is checked here; what makes no sense is `SandboxGone`. Which paths are shown is `policy.sources`' to say.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator import ids
from orchestrator.errors import (
    CallerError,
    Conflict,
    CorralError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    OutOfRange,
    PermissionDenied,
    SandboxGone,
)
from orchestrator.policy.sources import TARGET_ROOTS
from orchestrator.sandboxes.channel import Channel
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Content
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from orchestrator.wire.paths import quote

_ROOTS = [root.lstrip("/") for root in TARGET_ROOTS]
_LASTING = [root for root in _ROOTS if root != "tmp"]
_COUNTED = ["workspace", ".agents"]
"""What the environment's users work with; the home folder has a thousand files of the image's own."""
_LINE_LIMIT_BYTES = 64 * 1024
"""An entry has one path, which the kernel holds below 4 KiB; as JSON a byte may take six."""
_LISTING_LIMIT_BYTES = 64 << 20
"""What an upload tells of all that it wrote."""
_PIECE_TIMEOUT_S = 3600.0
"""What a piece may take: a sender may be slow."""
_MEASURE_S, _MEASURE_LIMIT_S = 1.0, 2.0
_KINDS = frozenset({"file", "directory", "symlink", "other"})
_SIZE_LIMIT = 1 << 63
_AT_ONCE = 32
_OLDER_GUEST = "The sandbox is of an earlier release, which moved no files like this; a fork of the environment does."
_NOT_FOUND = frozenset({"enoent", "enotdir"})
_NOT_ALLOWED = frozenset({"eacces", "eperm", "erofs"})
_IN_THE_WAY = frozenset({"eexist", "enotempty", "eisdir", "is_a_directory"})
_MOVED = frozenset({"exdev", "estale"})
_FULL = frozenset({"enospc", "edquot"})
_WHERE = f"Files are below {', '.join(_ROOTS)}."


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder."""

    path: bytes
    """Relative to `/`."""
    kind: str
    """`file`, `directory`, `symlink` or `other`."""
    size_bytes: int
    created: float
    """Seconds since 1970; when it last changed in any way, where the file system does not tell."""
    modified: float


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Which part of a file: from `first` to `last`, or without `first` the last `last` bytes."""

    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class FilesTotal:
    files: int
    size_bytes: int


class Media:
    """The bytes of a file, or of a folder as a tar: iterate once, and close it."""

    def __init__(
        self,
        sandbox: Sandbox,
        channel: Channel,
        entry: Entry,
        first: int,
        count: int | None,
        rest: bytes,
        about: str,
    ) -> None:
        self.entry = entry
        self.first = first
        self.count = count
        """So many bytes follow; None: nobody knows, it is a tar."""
        self._sandbox = sandbox
        self._channel = channel
        self._rest = rest
        self._about = about

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as fast as they are taken. Raises `SandboxGone`, `CallerError` if it breaks off."""
        left = self.count
        piece, self._rest = self._rest, b""
        while piece or (piece := await self._channel.read()):
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise SandboxGone("the guest sent more than was asked for")
            yield piece
            piece = b""
        await _result(self._channel, self._about)
        if left:
            raise SandboxGone("the guest sent less than it said")

    def close(self) -> None:
        """Lets go."""
        self._channel.close()
        self._sandbox.transfers -= 1


async def entries(
    sandbox: Sandbox, path: bytes, *, is_recursive: bool, after: bytes, limit: int
) -> tuple[list[Entry], bool]:
    """The entry of a file, or those of a folder in the order of their bytes, behind the path `after` below it; whether
    these were the last ones.

    Raises:
        NotFound, InvalidRequest, PermissionDenied: as the path is. LimitExceeded, SandboxGone.
    """
    arguments = {**_where(path), "is_recursive": is_recursive, "after": _text(after), "limit": limit}
    channel = _open(sandbox, "entries", arguments)
    try:
        found: list[Entry] = []
        rest = b""
        while data := await _begun(channel):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_LIMIT_BYTES or len(found) + len(lines) > limit + 1:
                raise SandboxGone("the guest sent more than was asked for")
            found += [_entry(_parsed(line)) for line in lines]
        result = await _result(channel, shown(path))
    finally:
        channel.close()
        sandbox.transfers -= 1
    return found, result.get("is_complete") is True


async def media(
    sandbox: Sandbox,
    path: bytes,
    *,
    is_recursive: bool = False,
    prefix: str = "",
    part: ByteRange | None = None,
    is_snapshot: bool = False,
) -> Media:
    """What is at `path`: of a file its bytes, or `part` of them; of a folder a tar of the files in it, or of all that
    is below, the members' names relative to it behind `prefix`; with `is_snapshot` without `/tmp`, which does not last
    as long as the environment. Close it.

    Raises:
        NotFound, PermissionDenied, SandboxGone. InvalidRequest: neither a file nor a folder. OutOfRange.
    """
    part = part or ByteRange(None, None)
    arguments = {
        **_where(path),
        **({"roots": _LASTING} if is_snapshot else {}),
        "is_recursive": is_recursive,
        "prefix": prefix,
        "first": part.first,
        "last": part.last,
    }
    channel = _open(sandbox, "media", arguments)
    try:
        begun = b""
        while b"\n" not in begun:
            data = await _begun(channel)
            if not data:
                await _result(channel, shown(path))
            if not data or len(begun) > _LINE_LIMIT_BYTES:
                raise SandboxGone("the guest did not say what it sends")
            begun += data
        line, _, rest = begun.partition(b"\n")
        told = _parsed(line)
        first, count = (_size(told["first"]), _size(told["count"])) if "count" in told else (0, None)
        return Media(sandbox, channel, _entry(told.get("entry")), first, count, rest, shown(path))
    except BaseException:
        channel.close()
        sandbox.transfers -= 1
        raise


async def measure(sandbox: Sandbox, patience_s: float) -> FilesTotal | None:
    """How many files there are in `/workspace` and `/.agents` and how large they are together; None if that takes
    longer.

    Raises `SandboxGone`.
    """
    arguments = {"base": "/", "roots": _COUNTED, "patience_s": patience_s}
    result, _ = await _perform(sandbox, "measure", arguments, about="files")
    if result.get("is_complete") is not True:
        return None
    return FilesTotal(_size(result.get("files")), _size(result.get("size_bytes")))


async def measure_soon(sandbox: Sandbox) -> FilesTotal | None:
    """The same within a second or two; None if the sandbox is too busy, has too many files, or goes away."""
    try:
        async with asyncio.timeout(_MEASURE_LIMIT_S):
            return await measure(sandbox, _MEASURE_S)
    except (TimeoutError, CorralError):
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes: a file below one of the roots, or with `is_archive` a folder to unpack it in."""

    path: bytes
    overwrite: bool
    is_archive: bool

    @property
    def arguments(self) -> dict[str, Any]:
        return {**_where(self.path), "overwrite": self.overwrite, "extract": self.is_archive}


async def begin_upload(sandbox: Sandbox, target: Target) -> str:
    """Makes room for an upload; the name that it has until its end.

    Raises:
        InvalidRequest: not a place for files. Conflict: it is there already. PermissionDenied, SandboxGone.
    """
    result, _ = await _perform(sandbox, "begin_upload", target.arguments, about=shown(target.path))
    if not isinstance(name := result.get("temporary"), str):
        raise SandboxGone("the guest's answer cannot be read: no name of an upload")
    return name


async def add_to_upload(sandbox: Sandbox, name: str, offset: int, content: Content, *, about: str) -> int:
    """Writes `content` behind the first `offset` bytes; how many there are then.

    Raises `NotFound` if what was sent before is gone, and as `begin_upload`.
    """
    arguments = {"temporary": name, "offset": offset}
    result, _ = await _perform(
        sandbox, "add_to_upload", arguments, content or b"", about=about, timeout_s=_PIECE_TIMEOUT_S
    )
    return _size(result.get("size_bytes"))


async def end_upload(sandbox: Sandbox, name: str, target: Target) -> list[Entry]:
    """Puts an upload in its place, all of it or nothing; what it has made. Raises as `begin_upload`."""
    arguments = {**target.arguments, "temporary": name}
    _, lines = await _perform(sandbox, "end_upload", arguments, about=shown(target.path), timeout_s=_PIECE_TIMEOUT_S)
    return [_entry(_parsed(line)) for line in lines]


async def drop_upload(sandbox: Sandbox, name: str) -> None:
    """Removes what has come of an upload. May be repeated. Raises `SandboxGone`."""
    await _perform(sandbox, "drop_upload", {"temporary": name}, about="upload")


def shown(path: bytes) -> str:
    """For messages."""
    return quote(path.decode("utf-8", "replace") or "/")


def _where(path: bytes) -> dict[str, Any]:
    return {"base": "/", "roots": _ROOTS, "path": _text(path)}


def _open(sandbox: Sandbox, operation: str, arguments: Mapping[str, Any]) -> Channel:
    """Whoever closes it takes it out of the sandbox's transfers."""
    _count_in(sandbox)
    try:
        return sandbox.link.channel({"service": "get", "operation": operation, "arguments": dict(arguments)})
    except BaseException:
        sandbox.transfers -= 1
        raise


def _count_in(sandbox: Sandbox) -> None:
    # Each is a process inside, which takes of what the agent may have.
    if sandbox.transfers >= _AT_ONCE:
        raise LimitExceeded(f"{_AT_ONCE} transfers of files are under way in this environment.")
    sandbox.transfers += 1


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


async def _perform(
    sandbox: Sandbox,
    operation: str,
    arguments: Mapping[str, Any],
    content: Content = None,
    *,
    about: str,
    timeout_s: float | None = None,
) -> tuple[dict[str, Any], list[bytes]]:
    """What a file operation told, and the whole lines that it wrote."""
    call_id = f"files-{ids.new_sandbox_id()}"
    limit_bytes = 2 * _LISTING_LIMIT_BYTES
    _count_in(sandbox)
    try:
        outcome = await sandbox.file(
            call_id, operation, arguments, content, output_limit_bytes=limit_bytes, timeout_s=timeout_s
        )
    finally:
        sandbox.transfers -= 1
    sandbox.acknowledge(call_id)
    if outcome.result is None:
        _refuse(*_reason(outcome), about)
    return outcome.result, outcome.head.split(b"\n")[:-1]


def _reason(outcome: CallOutcome) -> tuple[str, str]:
    if outcome.verdict is Verdict.DISK_FULL:
        return "enospc", ""
    if outcome.error is not None:
        return outcome.error.code, outcome.error.message
    return outcome.verdict.value, ""


async def _begun(channel: Channel) -> bytes:
    """What has come. Raises `Conflict` if the guest knows no such transfer."""
    try:
        return await channel.read()
    except InvalidRequest as error:
        if "KeyError" in error.message:  # it has looked for what the older transfers need
            raise Conflict(_OLDER_GUEST) from error
        raise


async def _result(channel: Channel, about: str) -> dict[str, Any]:
    match await channel.message():
        case {"result": dict(result)}:
            return result
        case {"error": {"code": str(code), "message": str(message)}}:
            _refuse(code, message, about)
    raise SandboxGone("the guest ended a transfer without an answer")


def _refuse(code: str, message: str, about: str) -> NoReturn:
    """Raises what a guest's refusal means for who asked."""
    raise _refusal(code, message, about)


def _refusal(code: str, message: str, about: str) -> CallerError | SandboxGone:
    if code in _NOT_FOUND:
        return NotFound(f"No file {about}. {_WHERE}")
    if code in _NOT_ALLOWED:
        return PermissionDenied(f"File {about} is not open to the agent's user.")
    if code == "exists":
        name = quote(message.encode("utf-8", "replace").decode())
        return Conflict(f"File {name} is there already; say 'overwrite' to replace it.")
    if code in _IN_THE_WAY:
        return Conflict(f"At {about} is a folder.")
    if code in _MOVED:
        return Conflict(f"The place of {about} was changed meanwhile; try again.")
    if code in _FULL:
        return Conflict("The environment's disk is full.", code="disk_full")
    if code == "lost":
        return NotFound("What was uploaded before is gone; begin again.")
    if code == "bad_range":
        size_bytes = int(message) if re.fullmatch("[0-9]{1,18}", message) else 0
        return OutOfRange(f"File {about} has {size_bytes} bytes.", size_bytes=size_bytes)
    if code == "bad_place":
        return InvalidRequest(f"Invalid path {about}: not a place for files. {_WHERE}")
    if code == "bad_path":
        return InvalidRequest(f"Invalid path {about}: it cannot contain '.', '..' or NUL.")
    if code in ("enametoolong", "eloop", "einval"):
        return InvalidRequest(f"Invalid path {about}: it cannot be resolved.")
    if code == "not_a_file":
        return InvalidRequest(f"{about} is neither a file nor a folder: it cannot be downloaded.")
    if code == "bad_archive":
        return InvalidRequest(f"The archive for {about} cannot be unpacked: {quote(message)}.")
    if code in (Verdict.KILLED, Verdict.OOM, Verdict.PIDS, Verdict.TIMEOUT, Verdict.CANCELLED):
        return SandboxGone(f"the transfer of {about} was ended inside: {code}")
    if code == "bad_request":
        return Conflict(_OLDER_GUEST)  # of ours none is
    return InvalidRequest(f"{about}: {quote(code)}.")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SandboxGone(f"the guest's answer cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise SandboxGone("the guest's answer cannot be read: not an object")
    return value


def _entry(value: Any) -> Entry:
    match value:
        case {
            "path": str(path),
            "type": str(kind),
            "size_bytes": size,
            "created": int() | float() as created,
            "modified": int() | float() as modified,
        } if kind in _KINDS and math.isfinite(created) and math.isfinite(modified):
            try:
                return Entry(path.encode("utf-8", "surrogateescape"), kind, _size(size), created, modified)
            except UnicodeEncodeError as error:
                raise SandboxGone("the guest's answer cannot be read: no path") from error
    raise SandboxGone("the guest's answer cannot be read: no entry")


def _size(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < _SIZE_LIMIT:
        raise SandboxGone(f"the guest's answer cannot be read: {str(value)[:40]!r} is no size")
    return value
