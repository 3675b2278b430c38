"""File operations, executed by a hand as `agent`. The kernel's permissions are the rule; nothing here is a privilege.

Every operation gets its arguments, an input and an output descriptor and returns a small JSON object; content goes
over the descriptors. Paths may be relative to `cwd`. What the caller can mend is `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import stat
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, Tuple

PIECE_BYTES = 256 * 1024
"""Larger ones leave the processor's caches: 1 MiB takes half as much time again."""
_LIST_LIMIT = 2000
_SEARCH_LIMIT = 200
_SEARCH_FILE_LIMIT_BYTES = 4 << 20
_EDIT_LIMIT_BYTES = 64 << 20
_LINE_LIMIT_BYTES = 400
_BINARY_LIMIT_BYTES = 16 << 20
"""A larger file that is not text is not read at all: it may be a terabyte of holes."""
_MESSAGE_LIMIT_CHARS = 1000
"""An error goes back in one frame, and hostile archives have long names."""
_SKIPPED_FOLDERS = {".git", "node_modules", "__pycache__", ".venv"}


class FileProblem(Exception):
    """Something the caller can mend."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def perform(operation: str, arguments: Dict[str, Any], input_fd: int, output_fd: int) -> Dict[str, Any]:
    """Carries out one operation; the answer is `{"result": …}` or `{"error": …}`."""
    try:
        with os.fdopen(os.dup(input_fd), "rb") as source, os.fdopen(os.dup(output_fd), "wb") as sink:
            return {"result": OPERATIONS[operation](arguments, source, sink)}
    except FileProblem as problem:
        return _error(problem.code, str(problem))
    except OSError as error:
        path = os.fsdecode(error.filename) if error.filename else str(arguments.get("path", ""))
        return _error(errno.errorcode.get(error.errno or 0, "EIO").lower(), f"{path}: {error.strerror or error}")
    except (KeyError, TypeError, ValueError, re.error, EOFError, RecursionError) as error:
        return _error("bad_request", f"{type(error).__name__}: {error}")


def _error(code: str, message: str) -> Dict[str, Any]:
    return {"error": {"code": code, "message": message[:_MESSAGE_LIMIT_CHARS]}}


def _path(arguments: Dict[str, Any]) -> str:
    path = str(arguments.get("path") or ".")
    if "\0" in path:
        raise FileProblem("bad_path", "a path cannot contain NUL")
    return os.path.normpath(os.path.join(arguments["cwd"], path))


def _regular_file(path: str) -> BinaryIO:
    # Opening a FIFO would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        raise FileProblem("not_a_file", f"{path}: {'a directory' if stat.S_ISDIR(kind) else 'not a regular file'}")
    return os.fdopen(fd, "rb")


def _read(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    path = _path(arguments)
    first, count = int(arguments.get("first_line") or 1), arguments.get("line_count")
    with _regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8192)
        result: Dict[str, Any] = {"path": path, "size_bytes": size, "is_binary": b"\0" in start}
        if result["is_binary"] and size > _BINARY_LIMIT_BYTES:
            return result
        file.seek(0)
        if first == 1 and count is None:
            for piece in pieces(file):
                sink.write(piece)
            return result
        last = first + int(count) - 1 if count is not None else None
        number = 1
        # In pieces: a line may be as long as the disk is large.
        while piece := file.readline(PIECE_BYTES):
            if last is not None and number > last:
                break
            if number >= first:
                sink.write(piece)
            number += piece.endswith(b"\n")
    return result


def _write(arguments: Dict[str, Any], source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    path = _path(arguments)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    is_new = not os.path.lexists(path)
    return {"path": path, "size_bytes": replace(path, pieces(source)), "created": is_new}


def replace(path: str, content: Iterator[bytes]) -> int:
    """Writes a file whole or not at all; its size."""
    # Beside the target and renamed over it: a full disk or a kill leaves the old file whole.
    temporary, target, size = write_beside(path, content)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return size


def write_beside(path: str, content: Iterator[bytes]) -> Tuple[str, str, int]:
    """Writes a file that is to be renamed: its name, the name that it is to have, its size. A failure leaves none."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise FileProblem("is_a_directory", f"{path}: a directory")
    mode = stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else 0o644
    # By hand: `tempfile` takes 8 ms to import, for which each start of a sandbox would wait.
    temporary = os.path.join(os.path.dirname(target), f".corral-{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    size = 0
    try:
        with os.fdopen(fd, "wb") as file:
            for piece in content:
                size += file.write(piece)
        os.chmod(temporary, mode & 0o777)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary, target, size


def _edit(arguments: Dict[str, Any], source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    path = _path(arguments)
    change = json.loads(source.read().decode("utf-8", "surrogatepass"))
    old, new = (str(change[key]).encode("utf-8", "surrogateescape") for key in ("old", "new"))
    if not old:
        raise FileProblem("bad_request", "the text to replace is empty")
    with _regular_file(path) as file:
        content = file.read(_EDIT_LIMIT_BYTES + 1)
    if len(content) > _EDIT_LIMIT_BYTES:
        raise FileProblem("too_large", f"{path}: larger than {_EDIT_LIMIT_BYTES >> 20} MiB; change it by code")
    count = content.count(old)
    if count == 0:
        raise FileProblem("no_match", f"{path}: the text to replace was not found; it must match exactly")
    if count > 1 and not change.get("replace_all"):
        raise FileProblem(
            "ambiguous", f"{path}: the text to replace occurs {count} times; give more of it or replace all"
        )
    line = content.count(b"\n", 0, content.index(old)) + 1
    replace(path, iter([content.replace(old, new)]))
    return {"path": path, "replacements": count, "line": line}


def _list(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    path = _path(arguments)
    if not os.path.isdir(path):
        entries = iter([_entry(path, os.path.basename(path), os.lstat(path))])
    elif arguments.get("recursive"):
        entries = (_entry(each, each, status) for each, status in _walk(path))
    else:
        entries = (_entry(each, os.path.basename(each), status) for each, status in _folder(path))
    count = 0
    for entry in entries:
        if count == _LIST_LIMIT:
            return {"path": path, "count": count, "is_complete": False}
        count += 1
        sink.write(json.dumps(entry).encode() + b"\n")
    return {"path": path, "count": count, "is_complete": True}


def _walk(root: str) -> Iterator[Tuple[str, os.stat_result]]:
    """All that is below a folder. What cannot be entered, or is gone by then, is passed over."""
    # Not recursive: a path may have more parts than Python's stack has room.
    waiting = [_folder(root)]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        yield found
        path, status = found
        if stat.S_ISDIR(status.st_mode) and os.path.basename(path) not in _SKIPPED_FOLDERS:
            try:
                waiting.append(_folder(path))
            except OSError:
                continue


def _folder(path: str) -> Iterator[Tuple[str, os.stat_result]]:
    with os.scandir(path) as scan:
        names = sorted(entry.name for entry in scan)
    return _present(os.path.join(path, name) for name in names)


def _present(paths: Iterable[str]) -> Iterator[Tuple[str, os.stat_result]]:
    for path in paths:
        try:
            yield path, os.lstat(path)
        except OSError:
            continue  # gone since, or its path is too long


def _entry(path: str, name: str, status: os.stat_result) -> Dict[str, Any]:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
    return {
        "name": name,
        "type": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "size_bytes": status.st_size,
        "modified": status.st_mtime,
    }


def _search(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    root = _path(arguments)
    pattern = re.compile(str(arguments["pattern"]).encode("utf-8", "surrogateescape"))
    glob = arguments.get("glob")
    matches = files = 0
    candidates = _walk(root) if os.path.isdir(root) else iter([(root, os.stat(root))])
    for path, status in candidates:
        if not stat.S_ISREG(status.st_mode) or (glob and not _fits(path, root, str(glob))):
            continue
        files += 1
        for number, line in _matching_lines(path, pattern):
            if matches == _SEARCH_LIMIT:
                return {"path": root, "matches": matches, "files": files, "is_complete": False}
            matches += 1
            sink.write(os.fsencode(path) + b":%d: " % number + _short(line) + b"\n")
    return {"path": root, "matches": matches, "files": files, "is_complete": True}


def _fits(path: str, root: str, glob: str) -> bool:
    relative = os.path.relpath(path, root)
    # `*` crosses folders here, so that only `**/` for no folder at all needs a word of its own.
    return any(
        fnmatch.fnmatchcase(name, form)
        for name in (relative, os.path.basename(path))
        for form in (glob, glob.replace("**/", ""))
    )


def _short(line: bytes) -> bytes:
    end = _LINE_LIMIT_BYTES
    while end < len(line) and line[end] & 0xC0 == 0x80 and end > _LINE_LIMIT_BYTES - 4:
        end -= 1  # not through a character
    return line[:end]


def _matching_lines(path: str, pattern: "re.Pattern[bytes]") -> Iterator[Tuple[int, bytes]]:
    try:
        with _regular_file(path) as file:
            content = file.read(_SEARCH_FILE_LIMIT_BYTES)
    except (OSError, FileProblem):
        return
    if b"\0" in content[:8192]:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if pattern.search(line.rstrip(b"\r")):
            yield number, line.rstrip(b"\r")


def _delete(arguments: Dict[str, Any], _source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    path = _path(arguments)
    if os.path.isdir(path) and not os.path.islink(path):
        if (os.path.normpath(arguments["cwd"]) + "/").startswith(path.rstrip("/") + "/"):
            raise FileProblem("refused", f"{path}: the working directory itself stays")
        from shutil import rmtree  # most hands never need it

        rmtree(path)
        return {"path": path, "type": "directory"}
    os.unlink(path)
    return {"path": path, "type": "file"}


def pieces(source: Any) -> Iterator[bytes]:
    """All that a file still has."""
    while piece := source.read(PIECE_BYTES):
        yield piece


def _extract(arguments: Dict[str, Any], source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    from . import archives  # see there

    return archives.extract(arguments, source)


def _archive(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import archives

    return archives.archive(arguments, sink)


def _watch(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import watches  # in this hand alone, and only if somebody watches

    return watches.watch(arguments, sink)


def _excerpts(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import excerpts  # once a run, if at all

    return excerpts.excerpts(arguments, sink)


def _entries(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import folders  # for who looks in from outside alone

    return folders.entries(arguments, sink)


def _media(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import folders

    return folders.media(arguments, sink)


def _measure(arguments: Dict[str, Any], _source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    from . import folders

    return folders.measure(arguments)


def _begin_upload(arguments: Dict[str, Any], _source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    from . import uploads

    return uploads.begin_upload(arguments)


def _add_to_upload(arguments: Dict[str, Any], source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    from . import uploads

    return uploads.add_to_upload(arguments, source)


def _end_upload(arguments: Dict[str, Any], _source: BinaryIO, sink: BinaryIO) -> Dict[str, Any]:
    from . import uploads

    return uploads.end_upload(arguments, sink)


def _drop_upload(arguments: Dict[str, Any], _source: BinaryIO, _sink: BinaryIO) -> Dict[str, Any]:
    from . import uploads

    return uploads.drop_upload(arguments)


OPERATIONS: Dict[str, Callable[[Dict[str, Any], BinaryIO, BinaryIO], Dict[str, Any]]] = {
    "read": _read,
    "write": _write,
    "edit": _edit,
    "list": _list,
    "search": _search,
    "delete": _delete,
    "extract": _extract,
    "archive": _archive,
    "watch": _watch,
    "excerpts": _excerpts,
    "entries": _entries,
    "media": _media,
    "measure": _measure,
    "begin_upload": _begin_upload,
    "add_to_upload": _add_to_upload,
    "end_upload": _end_upload,
    "drop_upload": _drop_upload,
}
