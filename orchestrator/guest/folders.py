"""The environment's files as they are listed and fetched from outside. The operations `entries`, `media` and `measure`
of file_tools, in a module of its own that a hand imports when it is needed.

What is shown lies below one of `roots`, which are relative to `base`; of the folders above them only those on the way.
Names are bytes, on the way as text with surrogates for what is not UTF-8. Memory does not grow with the size of a file
or a folder.
"""

from __future__ import annotations

import heapq
import io
import json
import os
import re
import stat
import time
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from .file_tools import PIECE_BYTES, FileProblem

_UNDER_WAY = re.compile(rb"\.corral-[0-9a-f]{16}")
"""Names of files that are still being written beside their places."""
_NAMES_AT_ONCE = 65_536
"""A folder of a million names is read so many times more often, and never held whole."""

Parts = Tuple[bytes, ...]


class Share:
    """What the arguments say: the part of the file system that is shown, and a path in it."""

    def __init__(self, arguments: Dict[str, Any]) -> None:
        self._base = as_bytes(arguments["base"]).rstrip(b"/")
        self._roots = [split(as_bytes(root)) for root in arguments["roots"]]
        self.parts = split(as_bytes(arguments["path"]))
        if b".." in self.parts or b"." in self.parts or any(b"\0" in part for part in self.parts):
            raise FileProblem("bad_path", "a path cannot contain '..', '.' or NUL")

    def place(self, parts: Parts) -> bytes:
        """Where that is."""
        return self._base + b"/" + b"/".join(parts)

    def is_inside(self, parts: Parts) -> bool:
        """Whether it is a root or below one."""
        return any(parts[: len(root)] == root for root in self._roots)

    def is_root(self, parts: Parts) -> bool:
        return parts in self._roots

    def is_shown(self, parts: Parts) -> bool:
        """Whether it is inside, or on the way to there."""
        return self.is_inside(parts) or any(root[: len(parts)] == parts for root in self._roots)

    def status(self) -> os.stat_result:
        """Of the path; of a link that leads to a folder, the folder's. Raises `OSError` if there is nothing."""
        place = self.place(self.parts)
        if not self.is_shown(self.parts):
            raise FileNotFoundError(2, "not shown", place)
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            try:
                there = os.stat(place)
            except OSError:
                return status
            return there if stat.S_ISDIR(there.st_mode) else status
        return status

    def walk(
        self, *, is_recursive: bool, after: Parts = (), at_once: int = _NAMES_AT_ONCE
    ) -> Iterator[Tuple[Parts, os.stat_result]]:
        """What is below the path, folders before what is in them, from behind `after` on, in the order of their bytes.
        What cannot be entered, or is gone by then, is passed over.
        """
        os.scandir(self.place(self.parts)).close()  # says why, if this one cannot be read
        # Not recursive: a path may have more parts than Python's stack has room.
        waiting = [
            (self.parts + after[:depth], self._names(self.parts + after[:depth], after[depth], at_once))
            for depth in range(len(after))
        ]
        if not after or (is_recursive and _is_folder(self.place(self.parts + after))):
            waiting.append((self.parts + after, self._names(self.parts + after, b"", at_once)))
        while waiting:
            folder, names = waiting[-1]
            name = next(names, None)
            if name is None:
                waiting.pop()
                continue
            parts = (*folder, name)
            try:
                status = os.lstat(self.place(parts))
            except OSError:
                continue  # gone since, or its path is too long
            yield parts, status
            if is_recursive and stat.S_ISDIR(status.st_mode):
                waiting.append((parts, self._names(parts, b"", at_once)))

    def _names(self, folder: Parts, after: bytes, at_once: int) -> Iterator[bytes]:
        place = self.place(folder)
        while True:
            try:
                with os.scandir(place) as scan:
                    fitting = (each.name for each in scan if each.name > after and self._shows(folder, each.name))
                    found = heapq.nsmallest(at_once, fitting)
            except OSError:
                return
            yield from found
            if len(found) < at_once:
                return
            after = found[-1]

    def _shows(self, folder: Parts, name: bytes) -> bool:
        return self.is_shown((*folder, name)) and not _UNDER_WAY.fullmatch(name)


def as_bytes(text: str) -> bytes:
    """A path from outside as the kernel takes it."""
    return text.encode("utf-8", "surrogateescape")


def as_text(path: bytes) -> str:
    """The opposite."""
    return path.decode("utf-8", "surrogateescape")


def split(path: bytes) -> Parts:
    """The names of a path."""
    return tuple(part for part in path.split(b"/") if part)


def _is_folder(place: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(place).st_mode)
    except OSError:
        return False


_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}


def entry(parts: Parts, status: os.stat_result) -> Dict[str, Any]:
    """What is told of a file or folder."""
    return {
        "path": as_text(b"/".join(parts)),
        "type": _KINDS.get(stat.S_IFMT(status.st_mode), "other"),
        "size_bytes": status.st_size,
        "modified": status.st_mtime,
        "created": getattr(status, "st_birthtime", status.st_ctime),
    }


def tell(sink: BinaryIO, value: Dict[str, Any]) -> None:
    """One line of JSON."""
    sink.write(json.dumps(value).encode() + b"\n")


# entries


def entries(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """The entry of a file, or those of a folder: at most `limit`, behind `after`, one a line."""
    share = Share(arguments)
    status = share.status()
    if not stat.S_ISDIR(status.st_mode):
        tell(sink, entry(share.parts, status))
        return {"is_complete": True}
    limit = int(arguments["limit"])
    found = share.walk(
        is_recursive=bool(arguments["is_recursive"]), after=split(as_bytes(arguments["after"])), at_once=limit + 1
    )
    for count, (parts, each) in enumerate(found):
        if count == limit:
            return {"is_complete": False}
        tell(sink, entry(parts, each))
    return {"is_complete": True}


# contents


def media(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """A line that says what comes, then the bytes of a file, or a folder as a tar."""
    share = Share(arguments)
    status = share.status()
    if stat.S_ISDIR(status.st_mode):
        os.scandir(share.place(share.parts)).close()
        tell(sink, {"entry": entry(share.parts, status)})
        _tar(share, as_bytes(arguments["prefix"]), sink, is_recursive=bool(arguments["is_recursive"]))
        return {}
    # Opening a FIFO would wait for a writer.
    fd = os.open(share.place(share.parts), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileProblem("not_a_file", "neither a file nor a folder")
        first, count = _range(arguments, status.st_size)
        tell(sink, {"entry": entry(share.parts, status), "first": first, "count": count})
        file.seek(first)
        while count > 0:
            piece = file.read(min(PIECE_BYTES, count))
            if not piece:
                raise FileProblem("changed", "it became shorter while it was read")
            count -= len(piece)
            sink.write(piece)
    return {}


def _range(arguments: Dict[str, Any], size: int) -> Tuple[int, int]:
    """Where to begin and how many bytes; nothing that is written meanwhile is read."""
    first, last = arguments["first"], arguments["last"]
    if first is None and last is None:
        return 0, size
    if first is None:
        first, last = max(0, size - int(last)), size - 1  # the last so many bytes
    last = size - 1 if last is None else min(int(last), size - 1)
    if first > last:
        raise FileProblem("bad_range", str(size))
    return int(first), last - int(first) + 1


def _tar(share: Share, prefix: bytes, sink: BinaryIO, *, is_recursive: bool) -> None:
    import tarfile

    # PAX: names of any length and of any bytes.
    with tarfile.open(fileobj=sink, mode="w|", bufsize=PIECE_BYTES, format=tarfile.PAX_FORMAT) as tar:
        tar.copybufsize = PIECE_BYTES  # type: ignore[attr-defined]
        for parts, status in share.walk(is_recursive=is_recursive):
            member = tarfile.TarInfo(as_text(prefix + b"/".join(parts[len(share.parts) :])))
            member.mode, member.mtime = status.st_mode & 0o777, int(status.st_mtime)
            place = share.place(parts)
            if stat.S_ISDIR(status.st_mode) and is_recursive:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif stat.S_ISLNK(status.st_mode):
                try:
                    member.linkname = as_text(os.readlink(place))
                except OSError:
                    continue
                member.type = tarfile.SYMTYPE
                tar.addfile(member)
            elif stat.S_ISREG(status.st_mode):
                with _opened(place) as file:
                    if file is not None:
                        member.size = os.fstat(file.fileno()).st_size
                        tar.addfile(member, _Padded(file, member.size))


class _opened:
    """A regular file; None if it is none any more, or cannot be read."""

    def __init__(self, place: bytes) -> None:
        self._place = place
        self._file: Optional[io.FileIO] = None

    def __enter__(self) -> Optional[io.FileIO]:
        try:
            fd = os.open(self._place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        self._file = io.FileIO(fd, "rb")
        return self._file if stat.S_ISREG(os.fstat(fd).st_mode) else None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class _Padded(io.RawIOBase):
    """Exactly `size` bytes: what a file has lost since is zeros, so that the archive goes on behind it."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = bytearray()
        while len(data) < wanted and (piece := self._file.read(wanted - len(data))):
            data += piece
        data += bytes(wanted - len(data))
        self._left -= wanted
        return bytes(data)


# how much there is


def measure(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """How many files there are and how large they are together; incomplete after `patience_s`."""
    share = Share(dict(arguments, path=""))
    give_up = time.monotonic() + float(arguments["patience_s"])
    files = size = 0
    waiting: List[bytes] = [share.place(split(as_bytes(root))) for root in arguments["roots"]]
    while waiting:
        if time.monotonic() > give_up:
            return {"files": files, "size_bytes": size, "is_complete": False}
        try:
            with os.scandir(waiting.pop()) as scan:
                for each in scan:
                    if each.is_dir(follow_symlinks=False):
                        waiting.append(each.path)
                    elif each.is_file(follow_symlinks=False):
                        files += 1
                        size += each.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return {"files": files, "size_bytes": size, "is_complete": True}
