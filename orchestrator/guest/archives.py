"""Trees of files as tar streams, in and out. The operations `extract` and `archive` of file_tools.

A module of its own because `tarfile` and what it imports take 10 ms: a hand imports it when it is needed, and no start
of a sandbox waits for it.
"""

from __future__ import annotations

import os
import tarfile
from typing import Any, BinaryIO, Dict

from .file_tools import PIECE_BYTES, FileProblem, pieces, replace


def extract(arguments: Dict[str, Any], source: BinaryIO) -> Dict[str, Any]:
    """Unpacks below `target`, whatever the members' names say."""
    try:
        return _extract(str(arguments["target"]), source)
    except tarfile.TarError as error:
        raise _problem(error) from error


def archive(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """Packs `paths` with their whole names."""
    try:
        return _archive([os.path.normpath(os.path.join(arguments["cwd"], each)) for each in arguments["paths"]], sink)
    except tarfile.TarError as error:
        raise _problem(error) from error


def _problem(error: tarfile.TarError) -> FileProblem:
    return FileProblem("bad_request", f"{type(error).__name__}: {error}")


def _extract(target: str, source: BinaryIO) -> Dict[str, Any]:
    count = size = 0
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            path = os.path.normpath(os.path.join(target, member.name.lstrip("/")))
            is_below = (path + "/").startswith(target.rstrip("/") + "/")
            # A file with holes may be a terabyte of nothing.
            if not is_below or not (member.isfile() or member.isdir()) or member.issparse():
                raise FileProblem("bad_archive", f"{member.name!r}: only files and directories below the target")
            if member.isdir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            replace(path, pieces(content))
            os.chmod(path, member.mode & 0o777)
            count += 1
            size += member.size
    while source.read(PIECE_BYTES):
        pass  # padding after the archive's end
    return {"files": count, "size_bytes": size}


def _archive(paths: "list[str]", sink: BinaryIO) -> Dict[str, Any]:
    count = 0

    def plain(member: tarfile.TarInfo) -> Any:
        nonlocal count
        if not (member.isfile() or member.isdir() or member.issym()):
            return None
        count += 1
        return member

    with tarfile.open(fileobj=sink, mode="w|", bufsize=PIECE_BYTES) as tar:
        for path in paths:
            tar.add(path, arcname=path.lstrip("/") or ".", filter=plain)
    return {"members": count}
