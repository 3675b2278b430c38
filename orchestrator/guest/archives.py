"""Trees of files as tar streams, in and out. The operations `extract` and `archive` of file_tools.

A module of its own because `tarfile` and what it imports take 10 ms: a hand imports it when it is needed, and no start
of a sandbox waits for it.
"""

from __future__ import annotations

import os
import tarfile
from typing import Any, BinaryIO, Dict, Iterator, List

from .file_tools import PIECE_BYTES, FileProblem, pieces, write_beside


def extract(arguments: Dict[str, Any], source: BinaryIO) -> Dict[str, Any]:
    """Unpacks below `target`, whatever the members' names say: all of it, or nothing."""
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
    staging = _Staging()
    size = 0
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=PIECE_BYTES) as tar:
            for member in tar:
                path = os.path.normpath(os.path.join(target, member.name.lstrip("/")))
                is_below = (path + "/").startswith(target.rstrip("/") + "/")
                # A file with holes may be a terabyte of nothing.
                if not is_below or not (member.isfile() or member.isdir()) or member.issparse():
                    raise FileProblem("bad_archive", f"{member.name!r}: only files and directories below the target")
                if member.isdir():
                    staging.make_folder(path)
                    continue
                staging.make_folder(os.path.dirname(path))
                content = tar.extractfile(member)
                assert content is not None
                staging.write(path, pieces(content), member.mode)
                size += member.size
    except BaseException:
        staging.discard()
        raise
    count = staging.put_in_place()
    while source.read(PIECE_BYTES):
        pass  # padding after the archive's end
    return {"files": count, "size_bytes": size}


class _Staging:
    """Files that wait beside their places until the whole archive was good, and folders that were made for them."""

    def __init__(self) -> None:
        self._waiting: Dict[str, str] = {}
        """Place → the file that will be renamed to it."""
        self._folders: List[str] = []
        self._count = 0

    def make_folder(self, path: str) -> None:
        """With its parents, unless it is there."""
        missing = []
        above = path
        while not os.path.lexists(above):
            if above in self._waiting:
                raise FileProblem("bad_archive", f"{above}: a file, and a folder as well")
            missing.append(above)
            above = os.path.dirname(above)
        for each in reversed(missing):
            os.mkdir(each)
            self._folders.append(each)
        os.makedirs(path, exist_ok=True)  # says what is in its way

    def write(self, path: str, content: Iterator[bytes], mode: int) -> None:
        temporary, place, _ = write_beside(path, content)
        older = self._waiting.pop(place, None)
        self._waiting[place] = temporary
        self._count += 1
        if older is not None:
            os.unlink(older)
        os.chmod(temporary, mode & 0o777)

    def put_in_place(self) -> int:
        """Puts every file where it belongs; how many the archive held."""
        try:
            for place in list(self._waiting):
                os.replace(self._waiting[place], place)
                del self._waiting[place]
        except BaseException:
            self.discard()
            raise
        return self._count

    def discard(self) -> None:
        """Removes all of it again."""
        for temporary in self._waiting.values():
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass  # a command was faster
        for folder in reversed(self._folders):
            try:
                os.rmdir(folder)
            except OSError:
                pass  # somebody else has put something in it


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
