"""Files that come in from outside, piece by piece. The operations `begin_upload`, `add_to_upload`, `end_upload` and
`drop_upload` of file_tools, in a module of its own that a hand imports when it is needed.

An upload waits beside its place under a name of its own. Whoever reads its place sees what was there, or all of it.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import Any, BinaryIO, Dict, Iterator, List, Tuple

from .file_tools import FileProblem, pieces, write_beside
from .folders import Parts, Share, as_bytes, as_text, entry, split, tell

_TEMPORARY = re.compile(rb"(?:.*/)?\.corral-[0-9a-f]{16}", re.DOTALL)
_LEFT_ALONE_S = 24 * 3600.0
"""Older ones of earlier uploads are of servers that ended: nobody will ask for them."""
_ARCHIVE_ENDINGS = (b".tar", b".tar.gz", b".tgz")
_MEMBERS_LIMIT = 100_000
_RATIO_LIMIT = 100
_SMALL_BYTES = 256 << 20
"""An archive that becomes no more than this may be packed as tightly as it likes."""


class _Target(Share):
    """Where an upload belongs: a file, or the folder that an archive is unpacked in."""

    def __init__(self, arguments: Dict[str, Any]) -> None:
        super().__init__(arguments)
        self.is_archive = bool(arguments["extract"])
        if self.is_archive and self.parts and self.parts[-1].endswith(_ARCHIVE_ENDINGS):
            self.parts = self.parts[:-1]  # the archive's own name
        if not self.is_inside(self.parts) or (self.is_root(self.parts) and not self.is_archive):
            raise FileProblem("bad_place", "not a place for files")
        self.overwrite = bool(arguments["overwrite"])

    @property
    def path(self) -> bytes:
        """A link is written through."""
        return os.path.realpath(self.place(self.parts))

    def check(self) -> None:
        """Raises `FileProblem` if the upload could not be put there now."""
        path = self.path
        if self.is_archive:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise FileProblem("exists", as_text(b"/".join(self.parts)))
        elif os.path.isdir(path):
            raise FileProblem("is_a_directory", "a folder")
        elif os.path.lexists(path) and not self.overwrite:
            raise FileProblem("exists", as_text(b"/".join(self.parts)))


def begin_upload(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Makes an empty file for what will come; its name."""
    target = _Target(arguments)
    target.check()
    folder = os.path.dirname(target.path) if not target.is_archive else target.path
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    _tidy(folder)
    temporary = os.path.join(folder, b".corral-" + os.urandom(8).hex().encode())
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    return {"temporary": as_text(temporary)}


def _tidy(folder: bytes) -> None:
    oldest = time.time() - _LEFT_ALONE_S
    with os.scandir(folder) as scan:
        left = [each.path for each in scan if _TEMPORARY.fullmatch(each.name)]
    for path in left:
        try:
            if os.lstat(path).st_mtime < oldest:
                os.unlink(path)
        except OSError:
            continue  # somebody was faster


def add_to_upload(arguments: Dict[str, Any], source: BinaryIO) -> Dict[str, Any]:
    """Writes what comes behind the first `offset` bytes, of which it must have as many; how many it has then."""
    offset = int(arguments["offset"])
    fd = os.open(_temporary(arguments), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "wb", buffering=0) as file:
        if os.fstat(fd).st_size < offset:
            raise FileProblem("lost", "what was sent before is gone")
        # What a piece that was cut off has left is sent again.
        file.truncate(offset)
        file.seek(offset)
        for piece in pieces(source):
            view = memoryview(piece)
            while view:
                written = file.write(view)
                offset += written
                view = view[written:]
    return {"size_bytes": offset}


def end_upload(arguments: Dict[str, Any], sink: BinaryIO) -> Dict[str, Any]:
    """Puts the upload in its place; tells the entries that it has made, one a line."""
    target, temporary = _Target(arguments), _temporary(arguments)
    target.check()
    if target.is_archive:
        written = _unpack(target, temporary)
        os.unlink(temporary)
    else:
        path = target.path
        mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
        os.chmod(temporary, mode & 0o777)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _put(temporary, path, overwrite=target.overwrite)
        written = [target.parts]
    for parts in written:
        try:
            tell(sink, entry(parts, os.stat(target.place(parts))))
        except OSError:
            continue  # somebody has taken it away again
    return {"files": len(written)}


def drop_upload(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Removes what has come; nothing if it is gone."""
    try:
        os.unlink(_temporary(arguments))
    except FileNotFoundError:
        pass
    return {}


def _temporary(arguments: Dict[str, Any]) -> bytes:
    path = as_bytes(arguments["temporary"])
    if not _TEMPORARY.fullmatch(path):
        raise FileProblem("bad_request", "no name of an upload")
    return path


def _put(temporary: bytes, path: bytes, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
        return
    # Unlike a rename, this never takes the place of what has come there since.
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileProblem("exists", os.path.basename(as_text(path))) from None
    os.unlink(temporary)


# archives


def _unpack(target: _Target, temporary: bytes) -> List[Parts]:
    """All of an archive, or nothing: it is read twice, and the first time nothing is written."""
    import tarfile

    with open(temporary, "rb") as file:
        open_tar = tarfile.TarFile.gzopen if file.read(2) == b"\x1f\x8b" else tarfile.TarFile.taropen
    try:
        with open_tar(as_text(temporary)) as tar:
            files, folders = _plan(target, tar, os.stat(temporary).st_size)
        with open_tar(as_text(temporary)) as tar:
            _write(target, tar, folders)
    except (tarfile.TarError, EOFError, OSError) as error:
        # gzip's errors are the kernel's without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileProblem("bad_archive", f"{type(error).__name__}: {error}") from error
    return sorted(files)


def _plan(target: _Target, tar: Any, packed_bytes: int) -> Tuple[Dict[Parts, int], List[Parts]]:
    """Files and folders that the archive makes. Raises `FileProblem` for what it must not, or what is there already."""
    files: Dict[Parts, int] = {}
    folders: Dict[Parts, None] = {}
    size = 0
    for number, member in enumerate(tar):
        if number == _MEMBERS_LIMIT:
            raise FileProblem("bad_archive", f"more than {_MEMBERS_LIMIT} members")
        name = as_bytes(member.name)
        parts = tuple(part for part in split(name) if part != b".")
        if name.startswith(b"/") or b".." in parts or b"\0" in name:
            raise FileProblem("bad_archive", f"{member.name!r}: outside of the folder")
        # A file with holes may be a terabyte of nothing.
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise FileProblem("bad_archive", f"{member.name!r}: neither a file nor a folder")
        whole = (*target.parts, *parts)
        if whole in files or (member.isfile() and (whole in folders or not parts)):
            raise FileProblem("bad_archive", f"{member.name!r}: twice")
        folders.update(dict.fromkeys(whole[:end] for end in range(len(target.parts), len(whole))))
        if member.isdir():
            folders[whole] = None
            continue
        files[whole] = member.size
        size += member.size
        if size > max(_SMALL_BYTES, _RATIO_LIMIT * packed_bytes):
            raise FileProblem("bad_archive", "far larger than what was sent")
        place = target.place(whole)
        if os.path.isdir(place) or (os.path.lexists(place) and not target.overwrite):
            raise FileProblem("exists", as_text(b"/".join(whole)))
    for each in folders:
        place = target.place(each)
        if each in files or (os.path.lexists(place) and not os.path.isdir(place)):
            raise FileProblem("exists", as_text(b"/".join(each)))
    return files, list(folders)


def _write(target: _Target, tar: Any, folders: List[Parts]) -> None:
    waiting: Dict[bytes, bytes] = {}
    made: List[bytes] = []
    try:
        for each in sorted(folders, key=len):
            _make_folder(target.place(each), made)
        for member in tar:
            if not member.isfile():
                continue
            parts = (*target.parts, *(part for part in split(as_bytes(member.name)) if part != b"."))
            place = target.place(parts)
            content: Iterator[bytes] = pieces(tar.extractfile(member))
            temporary, at, _ = write_beside(as_text(place), content)
            waiting[as_bytes(temporary)] = as_bytes(at)
            os.chmod(temporary, member.mode & 0o777)
        for temporary_path, at_path in list(waiting.items()):
            _put(temporary_path, at_path, overwrite=target.overwrite)
            del waiting[temporary_path]
    except BaseException:
        for left in waiting:
            try:
                os.unlink(left)
            except OSError:
                continue
        for folder in reversed(made):
            try:
                os.rmdir(folder)
            except OSError:
                continue  # somebody has put something in it
        raise


def _make_folder(place: bytes, made: List[bytes]) -> None:
    missing = []
    while not os.path.lexists(place):
        missing.append(place)
        place = os.path.dirname(place)
    for each in reversed(missing):
        os.mkdir(each)
        made.append(each)
