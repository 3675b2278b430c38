"""File watch: what changes below folders, as lines of JSON. A file operation that runs in a hand, as `agent`, until
nobody reads.

Changes are gathered for a moment; a batch holds at most one event for each path. What is more than a batch or the
kernel's queue holds is one `overflow`: who gets it looks for itself. While the reader is slow, the kernel gathers.

    {"kind": "watching", "directories": n}                first, once all is watched
    {"kind": "created" | "changed" | "deleted", "path", "is_dir"}
    {"kind": "moved", "path", "old_path", "is_dir"}       both within what is watched
    {"kind": "overflow", "path": "", "is_dir": true}      something was missed, or is too much to be watched
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import struct
import time
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Set, Tuple

from .file_tools import FileProblem

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_QUEUE_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_FOLDERS, _NO_LINKS, _NOT_UNLINKED, _IS_FOLDER = 0x1000000, 0x2000000, 0x4000000, 0x40000000
_BELOW = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_FOLDERS | _NOT_UNLINKED
_HEADER = struct.Struct("iIII")

_GATHER_S = 0.05
_GATHER_AFTER_OVERFLOW_S = 1.0
_READ_BYTES = 256 * 1024
_BATCH_LIMIT = 1000
_FOLDERS_LIMIT = 4096
"""Per watch. The kernel counts watches per uid over all sandboxes of a machine."""
_DEPTH_LIMIT = 100

Place = Tuple[int, bytes]
"""The watch of the folder it lies in, 0 for none, and its name there."""


def watch(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """Writes events on `paths`, folders relative to `cwd` and below it, until the reader or every folder is gone."""
    cwd = os.path.normpath(arguments["cwd"])
    roots = [_relative(cwd, str(path)) for path in arguments["paths"]]
    tree = _Tree(os.fsencode(cwd), is_recursive=bool(arguments.get("recursive")))
    try:
        for root in roots:
            tree.add_root(root)
        _write(sink, [{"kind": "watching", "directories": len(tree)}])
        poll = select.poll()
        poll.register(tree.fd, select.POLLIN)
        poll.register(sink.fileno(), 0)  # tells that the reader has gone, and nothing else
        gather_s = _GATHER_S
        while len(tree):
            if not tree.batch.has_news and any(fd == sink.fileno() for fd, _ in poll.poll()):
                break
            time.sleep(gather_s)
            tree.read()
            gather_s = _GATHER_AFTER_OVERFLOW_S if tree.batch.has_overflow else _GATHER_S
            _write(sink, tree.batch.take())
    except BrokenPipeError:
        pass
    finally:
        os.close(tree.fd)
    return {}


def _relative(cwd: str, path: str) -> bytes:
    found = os.path.relpath(os.path.normpath(os.path.join(cwd, path)), cwd)
    if found == ".." or found.startswith("../") or "\0" in path:
        raise FileProblem("bad_path", f"{path!r} is not below the working directory")
    return b"" if found == "." else os.fsencode(found)


def _write(sink: BinaryIO, events: List[Dict[str, Any]]) -> None:
    sink.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))
    sink.flush()


class _Batch:
    """Events that are not written yet: one for each path, the sum of what happened to it."""

    def __init__(self) -> None:
        self._events: Dict[bytes, Dict[str, Any]] = {}
        self.has_overflow = False

    @property
    def has_news(self) -> bool:
        return self.has_overflow or bool(self._events)

    def overflow(self) -> None:
        self._events.clear()
        self.has_overflow = True

    def add(self, kind: str, path: bytes, is_dir: bool, old_path: Optional[bytes] = None) -> None:
        if self.has_overflow:
            return
        known = self._events.pop(path, None)
        before = known["kind"] if known is not None else None
        if old_path is not None:
            origin = self._events.pop(old_path, None)
            if origin is not None and origin["kind"] == "created":
                kind, old_path = "created", None
            elif origin is not None and origin["kind"] == "moved":
                old_path = os.fsencode(origin["old_path"])
            if old_path == path:
                return  # there and back
        if kind == "created" and before in ("changed", "deleted"):
            kind = "changed"
        elif kind == "changed" and before in ("created", "moved"):
            assert known is not None
            self._events[path] = known
            return
        elif kind == "deleted" and before == "created":
            return
        elif kind == "deleted" and before == "moved":
            assert known is not None
            path = os.fsencode(known["old_path"])
        event: Dict[str, Any] = {"kind": kind, "path": os.fsdecode(path), "is_dir": is_dir}
        if old_path is not None:
            event["old_path"] = os.fsdecode(old_path)
        self._events[path] = event
        if len(self._events) > _BATCH_LIMIT:
            self.overflow()

    def take(self) -> List[Dict[str, Any]]:
        events = list(self._events.values())
        if self.has_overflow:
            events = [{"kind": "overflow", "path": "", "is_dir": True}]
        self._events.clear()
        self.has_overflow = False
        return events


class _Tree:
    """The watched folders. A folder knows its place only, so that moving one is one change, whatever lies below."""

    def __init__(self, cwd: bytes, *, is_recursive: bool) -> None:
        self.batch = _Batch()
        self._cwd = cwd
        self._is_recursive = is_recursive
        self._places: Dict[int, Place] = {}
        self._watches: Dict[Place, int] = {}
        self._moving: Dict[int, Tuple[Place, bool]] = {}
        """What was moved away and has not come out anywhere, by the kernel's number of the move."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise FileProblem("watch_limit", f"no more watches here: {os.strerror(ctypes.get_errno())}")

    def __len__(self) -> int:
        return len(self._places)

    def add_root(self, path: bytes) -> None:
        """Raises `FileProblem`, `OSError`."""
        watch = self._add(path, _BELOW | _DELETE_SELF | _MOVE_SELF)
        if watch < 0:
            code = ctypes.get_errno()
            if code in (errno.ENOSPC, errno.ENOMEM):
                raise FileProblem("watch_limit", f"no more watches here: {os.strerror(code)}")
            raise OSError(code, os.strerror(code), os.fsdecode(path) or ".")
        self._put(watch, (0, path))
        self._scan(watch, is_new=False)

    def read(self) -> None:
        """Takes all that the kernel has, as far as one batch may go."""
        for _ in range(16):
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                break
            for watch, mask, move, name in _events(data):
                self._take(watch, mask, move, name)
        for place, is_dir in self._moving.values():
            self._deleted(place, is_dir)
        if any(is_dir for _, is_dir in self._moving.values()):
            self._sweep()
        self._moving.clear()

    def _take(self, watch: int, mask: int, move: int, name: bytes) -> None:
        if mask & _QUEUE_OVERFLOW:
            self.batch.overflow()
            for root in [root for root, (parent, _) in self._places.items() if parent == 0]:
                self._scan(root, is_new=False)
        elif mask & _IGNORED:
            self._forget(watch)
        elif watch not in self._places:
            pass  # of a folder that is not watched any more
        elif mask & (_DELETE_SELF | _MOVE_SELF):
            parent, path = self._places[watch]
            if parent == 0:  # of others the folder above tells
                self.batch.add("deleted", path, True)
                self._drop(watch)
                self._sweep()
        else:
            place, is_dir = (watch, name), bool(mask & _IS_FOLDER)
            if mask & _MOVED_FROM:
                self._moving[move] = (place, is_dir)
            elif mask & _MOVED_TO and move in self._moving:
                self._moved(self._moving.pop(move)[0], place, is_dir)
            elif mask & (_CREATE | _MOVED_TO):
                self._created(place, is_dir)
            elif mask & _DELETE:
                self._deleted(place, is_dir)
            elif not is_dir:
                self._tell("changed", place, is_dir)

    def _created(self, place: Place, is_dir: bool) -> None:
        self._tell("created", place, is_dir)
        if is_dir and self._is_recursive:
            self._descend(place, is_new=True)

    def _deleted(self, place: Place, is_dir: bool) -> None:
        self._tell("deleted", place, is_dir)
        if place in self._watches:
            self._drop(self._watches[place])

    def _moved(self, old: Place, new: Place, is_dir: bool) -> None:
        old_path, path = self._path(old), self._path(new)
        if old_path is not None and path is not None:
            self.batch.add("moved", path, is_dir, old_path)
        watch = self._watches.get(old)
        if watch is not None:
            self._put(watch, new)
        elif is_dir and self._is_recursive:
            self._descend(new, is_new=True)

    def _tell(self, kind: str, place: Place, is_dir: bool) -> None:
        path = self._path(place)
        if path is not None:
            self.batch.add(kind, path, is_dir)

    def _descend(self, place: Place, *, is_new: bool) -> None:
        """Watches a folder that was found, and what is in it already."""
        path = self._path(place)
        if path is None:
            return
        if len(self._places) >= _FOLDERS_LIMIT or path.count(b"/") >= _DEPTH_LIMIT:
            self.batch.overflow()
            return
        watch = self._add(path, _BELOW | _NO_LINKS)
        if watch < 0:
            if ctypes.get_errno() in (errno.ENOSPC, errno.ENOMEM):
                self.batch.overflow()
        elif watch not in self._places or not self._lies_below(place[0], watch):
            is_known = watch in self._places
            self._put(watch, place)
            self._scan(watch, is_new=is_new and not is_known)

    def _scan(self, watch: int, *, is_new: bool) -> None:
        """Watches the folders below; what a new folder holds already is told as created."""
        if not self._is_recursive and not is_new:
            return
        path = self._path(self._places[watch])
        if path is None:
            return
        folders: List[bytes] = []
        try:
            with os.scandir(os.path.join(self._cwd, path)) as entries:
                for entry in entries:
                    is_dir = entry.is_dir(follow_symlinks=False)
                    if is_new:
                        self._tell("created", (watch, entry.name), is_dir)
                    if is_dir:
                        folders.append(entry.name)
        except OSError:
            return  # gone again, or not ours to read
        for name in folders:
            self._descend((watch, name), is_new=is_new)

    def _add(self, path: bytes, mask: int) -> int:
        absolute = os.path.join(self._cwd, path)
        return int(self._libc.inotify_add_watch(self.fd, ctypes.c_char_p(absolute), ctypes.c_uint32(mask)))

    def _put(self, watch: int, place: Place) -> None:
        if watch in self._places:
            self._watches.pop(self._places[watch], None)
        self._places[watch] = place
        self._watches[place] = watch

    def _drop(self, watch: int) -> None:
        self._libc.inotify_rm_watch(self.fd, watch)
        self._forget(watch)

    def _forget(self, watch: int) -> None:
        place = self._places.pop(watch, None)
        if place is not None and self._watches.get(place) == watch:
            del self._watches[place]

    def _sweep(self) -> None:
        """Stops watching what lies below folders that have gone elsewhere."""
        for watch in [watch for watch, place in self._places.items() if self._path(place) is None]:
            self._drop(watch)

    def _path(self, place: Place) -> Optional[bytes]:
        """From the working directory; None if it does not lie below a root any more."""
        parent, path = place
        seen: Set[int] = set()
        while parent != 0:
            if parent not in self._places or parent in seen:
                return None
            seen.add(parent)
            parent, name = self._places[parent]
            path = os.path.join(name, path)
        return path

    def _lies_below(self, watch: int, root: int) -> bool:
        """Whether `watch` is `root` or below it: a folder that shows up within itself would be walked for ever."""
        seen: Set[int] = set()
        while watch != 0 and watch in self._places and watch not in seen:
            if watch == root:
                return True
            seen.add(watch)
            watch = self._places[watch][0]
        return False


def _events(data: bytes) -> Iterator[Tuple[int, int, int, bytes]]:
    start = 0
    while start < len(data):
        watch, mask, move, length = _HEADER.unpack_from(data, start)
        start += _HEADER.size + length
        yield watch, mask, move, data[start - length : start].rstrip(b"\0")
