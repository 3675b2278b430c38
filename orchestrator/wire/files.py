"""Files of environments as they are answered (reference, 7.7). No I/O."""

from __future__ import annotations

import mimetypes
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from orchestrator.clock import rfc3339
from orchestrator.wire.base import WireResource

FileType = Literal["FILE", "DIRECTORY", "SYMLINK", "OTHER"]
_KINDS: dict[str, FileType] = {"file": "FILE", "directory": "DIRECTORY", "symlink": "SYMLINK", "other": "OTHER"}
_FIRST, _LAST = "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"
_TYPES = mimetypes.MimeTypes()
"""Those that Python knows: the files of the machine would make answers differ from server to server."""
_UNKNOWN_TYPE = "application/octet-stream"
_PACKED_TYPES = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class FileEntry(WireResource):
    """A file or folder of an environment."""

    name: str
    path: str
    """From the environment's root: `workspace/src/main.py`."""
    type: FileType
    """A socket or pipe is `OTHER`; it cannot be downloaded."""
    size_bytes: str | None = None
    """An int64 as text. Not of folders."""
    mime_type: str | None = None
    """By the name's ending. Only of files."""
    created: str
    """Where the file system does not tell, when it last changed in any way."""
    modified: str
    encoded_path: str | None = None
    """Only if the path is not UTF-8: its bytes, percent-encoded as they go into a URL. `path` has U+FFFD for them."""


def dump_entry(path: bytes, kind: str, size_bytes: int, created: float, modified: float) -> FileEntry:
    """`path` is relative to the root, `kind` one of the types in lower case, times are seconds since 1970."""
    text = path.decode("utf-8", "replace")
    name = text.rpartition("/")[2]
    return FileEntry(
        name=name,
        path=text,
        type=_KINDS[kind],
        size_bytes=None if kind == "directory" else str(size_bytes),
        mime_type=mime_type(name) if kind == "file" else None,
        created=_moment(created),
        modified=_moment(modified),
        encoded_path=quote(path) if text.encode() != path else None,
    )


def mime_type(name: str) -> str:
    """By the ending of a file's name."""
    found, packing = _TYPES.guess_type(f"x/{name}")  # never as a URL, whatever the name begins with
    if packing is not None:
        return _PACKED_TYPES.get(packing, _UNKNOWN_TYPE)
    if found is None:
        return _UNKNOWN_TYPE
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


def _moment(seconds: float) -> str:
    """A file may claim any time; what no calendar has is the nearest that it has."""
    try:
        return rfc3339(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, OSError, ValueError):
        return _LAST if seconds > 0 else _FIRST
