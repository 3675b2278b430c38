"""The beginnings of several files in one go, for whoever wants to know what is there before anything runs.

Bounded in files and bytes whatever is there: endless files, pipes and devices are not waited for, links are followed as
far as they stay within the folders that were named.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
from typing import Any, BinaryIO, Dict, Iterator, List

_NAMES_LIMIT = 1000
"""Of one folder. A folder may have millions, and all of them would be sorted."""
_GONE = (errno.ENOENT, errno.ENOTDIR)


def excerpts(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """Writes a line of JSON for each file that is there: `{"path", "size_bytes", "text"}`, or `{"path", "problem"}`.

    `wanted` is a list of `{"path", "limit_bytes"}`, absolute, where one folder in a path may be `*`; `within` are the
    folders that links may lead into; `file_limit` says how many lines there are at most.
    """
    within = [str(each) for each in arguments["within"]]
    left = int(arguments["file_limit"])
    for wanted in arguments["wanted"]:
        limit_bytes = int(wanted["limit_bytes"])
        for entry in _entries(str(wanted["path"]), limit_bytes, within):
            if left == 0:
                return {"is_complete": False}
            left -= 1
            entry["path"] = os.fsencode(entry["path"]).decode("utf-8", "replace")
            sink.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return {"is_complete": True}


def _entries(path: str, limit_bytes: int, within: List[str]) -> Iterator[Dict[str, Any]]:
    folder, star, rest = path.partition("/*")
    if not star:
        yield from _entry(path, limit_bytes, within)
        return
    try:
        if not _is_within(os.path.realpath(folder), within):
            yield {"path": folder, "problem": "a link that leads elsewhere"}
            return
        with os.scandir(folder) as scan:
            names = sorted(entry.name for entry in itertools.islice(scan, _NAMES_LIMIT + 1))
    except OSError as error:
        if error.errno not in _GONE:
            yield {"path": folder, "problem": str(error.strerror or error)}
        return
    if len(names) > _NAMES_LIMIT:
        yield {"path": folder, "problem": f"it has more than {_NAMES_LIMIT} entries"}
        return
    for name in names:
        yield from _entry(f"{folder}/{name}{rest}", limit_bytes, within)


def _entry(path: str, limit_bytes: int, within: List[str]) -> Iterator[Dict[str, Any]]:
    try:
        if not os.path.lexists(path):
            return
        real = os.path.realpath(path)
        if not _is_within(real, within):
            yield {"path": path, "problem": "a link that leads elsewhere"}
            return
        # Opening a FIFO would wait for a writer.
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                yield {"path": path, "problem": "not a regular file"}
                return
            text = _beginning(fd, limit_bytes).decode("utf-8", "replace")
        finally:
            os.close(fd)
        yield {"path": path, "size_bytes": status.st_size, "text": text}
    except OSError as error:
        yield {"path": path, "problem": str(error.strerror or error)}


def _beginning(fd: int, limit_bytes: int) -> bytes:
    content = b""
    while len(content) < limit_bytes:
        piece = os.read(fd, limit_bytes - len(content))
        if not piece:
            break
        content += piece
    return content


def _is_within(real: str, within: List[str]) -> bool:
    return any(real == folder or real.startswith(folder + "/") for folder in within)
