"""What is delivered: one tar of files and folders, and the links to be made among them.

Every name that comes from outside passes here, whoever gave it: an archive, a listing, a repository. Imports `errors`.
"""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import SourceFailed

_PIECE_BYTES = 256 << 10
_NAME_BYTES = 255
_PATH_BYTES = 3072
_DEPTH = 64
_LINK_BYTES = 4095


class Readable(Protocol):
    """What content is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to be made: its place, absolute, and what it says."""

    place: str
    target: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """Everything that was fetched for an environment."""

    tar: Path
    """Member names are relative to `/`."""
    links: tuple[Link, ...]


class Allowance(Protocol):
    """What one source may still take."""

    def take(self, size_bytes: int) -> None:
        """Raises `SourceFailed` if it is more than is left, or nobody wants it any more."""

    def count_member(self) -> None:
        """As `take`, for one file, folder or link."""


class Tree:
    """The files of one source, as they come. Refuses names that lead elsewhere, and those that meet."""

    def __init__(
        self,
        tar: tarfile.TarFile,
        links: list[Link],
        target: str,
        allowance: Allowance,
        *,
        folds_names: bool = True,
        may_link_out: bool = False,
    ) -> None:
        """`target` is where they go. Unless `folds_names`, names that differ only in case or form are two;
        `may_link_out`: links stay as they are, which in a sandbox lead nowhere but within it.
        """
        self._tar = tar
        self._links = links
        self._target = target
        self._allowance = allowance
        self._folds_names = folds_names
        self._may_link_out = may_link_out
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add_only_file(self, content: Readable, size_bytes: int) -> None:
        """The source is one file, and this is it."""
        self._allowance.count_member()
        self._write(self._target, content, size_bytes, 0o644)

    def add_file(self, name: str, content: Readable, size_bytes: int, *, is_executable: bool = False) -> None:
        """A file with exactly so many bytes."""
        place = self._place(name, is_file=True)
        self._write(place, content, size_bytes, 0o755 if is_executable else 0o644)

    def add_folder(self, name: str) -> None:
        """A folder; its parents need not be told."""
        member = tarfile.TarInfo(self._place(name, is_file=False).lstrip("/"))
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(member)

    def add_link(self, name: str, target: str) -> None:
        """A symbolic link."""
        place = self._place(name, is_file=True)
        if not 0 < len(target.encode("utf-8", "surrogateescape")) <= _LINK_BYTES or "\0" in target:
            raise SourceFailed(f"{shown(name)} is a link to nothing that can be")
        if not self._may_link_out and not _stays_inside(name, target):
            raise SourceFailed(f"{shown(name)} is a link that leads out of the source")
        self._links.append(Link(place, target))

    def _write(self, place: str, content: Readable, size_bytes: int, mode: int) -> None:
        member = tarfile.TarInfo(place.lstrip("/"))
        member.size, member.mode = size_bytes, mode
        self._tar.addfile(member, _Counted(content, self._allowance.take))  # type: ignore[arg-type]  # only read() is used

    def _place(self, name: str, *, is_file: bool) -> str:
        self._allowance.count_member()
        parts = _parts(name)
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if self._key(above) in self._files:
                raise SourceFailed(f"{shown(name)} lies below {shown(above)}, which is a file or a link")
            self._meet(self._folders, above)
        path = "/".join(parts)
        key = self._key(path)
        if is_file and (key in self._files or key in self._folders):
            raise SourceFailed(f"{shown(path)} is there twice, or differs from another only in case or form")
        if not is_file and key in self._files:
            raise SourceFailed(f"{shown(path)} is a folder, and a file as well")
        if is_file:
            self._files[key] = path
        else:
            self._meet(self._folders, path)
        return f"{self._target}/{path}"

    def _meet(self, known: dict[str, str], path: str) -> None:
        if known.setdefault(self._key(path), path) != path:
            raise SourceFailed(f"{shown(path)} differs from another folder only in case or form")

    def _key(self, path: str) -> str:
        return unicodedata.normalize("NFC", path).casefold() if self._folds_names else path


class _Counted:
    """Content whose bytes are counted while they are read, in pieces that can be stopped in between."""

    def __init__(self, content: Readable, take: Callable[[int], None]) -> None:
        self._content = content
        self._take = take

    def read(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = self._content.read(min(size, _PIECE_BYTES))
            if not piece:
                raise SourceFailed("a file ended before the size that was said of it: it changed while it was read")
            self._take(len(piece))
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _parts(name: str) -> list[str]:
    if name.startswith("/"):
        raise SourceFailed(f"{shown(name)} is not a name below the source")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise SourceFailed(f"{shown(name)} is not a name below the source")
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise SourceFailed(f"{shown(name)} has control characters in its name")
    sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    if len(parts) > _DEPTH or max(sizes) > _NAME_BYTES or sum(sizes) + len(sizes) > _PATH_BYTES:
        raise SourceFailed(f"{shown(name)} is too long or too deep")
    return parts


def _stays_inside(name: str, target: str) -> bool:
    """Whether a link leads nowhere but below the source. Up only at its beginning: behind a name that may be a link
    itself nobody can say where up is.
    """
    if target.startswith("/"):
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return ".." not in parts[ups:] and ups < len(_parts(name))


def shown(name: str) -> str:
    """A name from outside for a message: one line, printable, not long."""
    text = name if len(name) <= 120 else f"{name[:60]}…{name[-59:]}"
    return "'" + "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text) + "'"
