"""Sources of type `skill_registry`: skills that the server's operator keeps, a folder each. Blocking.

Nothing is remembered: a folder is read when it is asked for. What was found is told as a digest, by which whoever
delivers it later knows whether it still is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SourceFailed
from orchestrator.sources.delivery import Allowance, Link, Readable, Tree
from orchestrator.sources.fetch import Fetch, FetchLimits
from orchestrator.sources.folders import fetch_local

SKILL_FILE = "SKILL.md"
SKILL_LIMIT_BYTES = 20 << 20
SKILL_MAX_MEMBERS = 1000
_TIMEOUT_S = 10.0
_BEGINNING_BYTES = 16 << 10
_LEFT_OUT = frozenset({".git", ".venv", "node_modules", "__pycache__", ".DS_Store"})
"""What working on a skill leaves in its folder."""


@dataclass(frozen=True, slots=True)
class FoundSkill:
    """A folder of a skill, looked through."""

    sha256: str
    """Of all its files: names, contents, which of them are programs."""
    beginning: str
    """Of its `SKILL.md`."""


class SkillFolders:
    """Folders that hold folders of skills. Of the same name the first one's counts."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = tuple(folders)

    def names(self) -> list[str]:
        """Those that there are, sorted; whatever they are worth. Raises `SourceFailed`."""
        try:
            places = [place for folder in self._folders for place in folder.iterdir()]
        except OSError as error:
            raise SourceFailed(f"the folder of skills cannot be read: {error.strerror}") from error
        return sorted({place.name for place in places if _has(place.parent, place.name)})

    def look(self, name: str) -> FoundSkill | None:
        """The skill, read whole and put nowhere; None if there is none.

        Raises:
            SourceFailed: it could not be delivered, and why.
        """
        folder = self._of(name)
        if folder is None:
            return None
        limits = FetchLimits(SKILL_LIMIT_BYTES, SKILL_MAX_MEMBERS, _TIMEOUT_S)
        with Fetch(folder, limits) as fetch, tarfile.open(os.devnull, mode="w") as tar:
            tree = SkillTree(tar, [], f"/{name}", fetch)
            fetch_local(folder, name, tree, fetch)
        return tree.found()

    def fetch(self, name: str, sha256: str | None, tree: SkillTree, fetch: Fetch) -> None:
        """Brings the skill. Raises `SourceFailed`, also if it is another one than `sha256`."""
        folder = self._of(name)
        if folder is None:
            raise SourceFailed(f"the server does not have the skill {name!r} any more")
        fetch_local(folder, name, tree, fetch)
        if sha256 is not None and tree.found().sha256 != sha256:
            raise SourceFailed(f"the skill {name!r} is not the same any more as when it was asked for")

    def _of(self, name: str) -> Path | None:
        return next((folder for folder in self._folders if _has(folder, name)), None)


def _has(folder: Path, name: str) -> bool:
    """Not whether it can be used: what stands there under another's name must not hide behind that one."""
    return os.path.lexists(folder / name / SKILL_FILE)


class SkillTree(Tree):
    """The files of one skill, as they come."""

    def __init__(self, tar: tarfile.TarFile, links: list[Link], target: str, allowance: Allowance) -> None:
        super().__init__(tar, links, target, allowance)
        self._digest = hashlib.sha256()
        self._beginning: bytes | None = None

    def found(self) -> FoundSkill:
        """What has come. Raises `SourceFailed` if it is no skill."""
        if self._beginning is None:
            raise SourceFailed(f"a skill is a folder with a file {SKILL_FILE}")
        return FoundSkill(self._digest.hexdigest(), self._beginning.decode("utf-8", "replace"))

    def add_only_file(self, content: Readable, size_bytes: int) -> None:
        raise SourceFailed("a skill is a folder, not a file")

    def add_file(self, name: str, content: Readable, size_bytes: int, *, is_executable: bool = False) -> None:
        if _is_left_out(name):
            return
        self._note("file", name, size_bytes, is_executable)
        if name == SKILL_FILE:
            self._beginning = b""
        super().add_file(name, _Seen(content, self._see(name)), size_bytes, is_executable=is_executable)

    def add_folder(self, name: str) -> None:
        if not _is_left_out(name):
            self._note("folder", name)
            super().add_folder(name)

    def add_link(self, name: str, target: str) -> None:
        if not _is_left_out(name):
            self._note("link", name, target)
            super().add_link(name, target)

    def _note(self, *what: object) -> None:
        self._digest.update(json.dumps(what).encode() + b"\n")

    def _see(self, name: str) -> Callable[[bytes], None]:
        def see(piece: bytes) -> None:
            self._digest.update(piece)
            if name == SKILL_FILE:
                self._beginning = ((self._beginning or b"") + piece)[:_BEGINNING_BYTES]

        return see


class _Seen:
    """Content that somebody else sees, too, as it is read."""

    def __init__(self, content: Readable, see: Callable[[bytes], None]) -> None:
        self._content = content
        self._see = see

    def read(self, size: int, /) -> bytes:
        piece = self._content.read(size)
        self._see(piece)
        return piece


def _is_left_out(name: str) -> bool:
    return not _LEFT_OUT.isdisjoint(name.split("/"))
