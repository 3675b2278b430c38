"""Sources of type `local`: files of the server's own machine, in folders that its operator lists. Blocking.

Nothing is opened through a link: each step down is taken from the open folder above, and links are taken as links.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.errors import SourceFailed
from orchestrator.sources.delivery import Tree, shown
from orchestrator.sources.fetch import Fetch

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait for somebody to write


def fetch_local(root: Path, path: str, tree: Tree, fetch: Fetch) -> None:
    """Brings the file or folder `path` below `root`, the whole folder if it is empty. Raises `SourceFailed`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    try:
        at = os.open(root, _FOLDER & ~os.O_NOFOLLOW)  # the operator's own choice
        try:
            for part in parts[:-1]:
                at = _swap(at, os.open(part, _FOLDER, dir_fd=at))
            if parts and not stat.S_ISDIR(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode):
                _add_file(at, parts[-1], None, tree)
                return
            if parts:
                at = _swap(at, os.open(parts[-1], _FOLDER, dir_fd=at))
            _add_folder(at, "", tree, fetch)
        finally:
            os.close(at)
    except OSError as error:
        # Without the path: where the operator's folders are is nobody's business.
        raise SourceFailed(f"it cannot be read: {error.strerror}") from error


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _add_folder(folder: int, below: str, tree: Tree, fetch: Fetch) -> None:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        fetch.check()
        path = f"{below}{name}"
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            tree.add_folder(path)
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                _add_folder(inner, f"{path}/", tree, fetch)
            finally:
                os.close(inner)
        elif stat.S_ISLNK(mode):
            tree.add_link(path, os.readlink(name, dir_fd=folder))
        elif stat.S_ISREG(mode):
            _add_file(folder, name, path, tree)
        else:
            raise SourceFailed(f"{shown(path)} is neither a file nor a folder nor a link")


def _add_file(folder: int, name: str, path: str | None, tree: Tree) -> None:
    """`path` None: it is the whole source."""
    with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise SourceFailed(f"{shown(name)} is not a file")
        if path is None:
            tree.add_only_file(file, found.st_size)
        else:
            tree.add_file(path, file, found.st_size, is_executable=bool(found.st_mode & stat.S_IXUSR))
