"""A local folder as the copy of one of an environment: what it lacks, and what it has too much. Never looks or writes
outside it.

Names come from a sandbox and are hostile. What would lead out of the folder is left out and said, as is what stands
behind a link of this machine: following it may lead anywhere. Imports `terminal` and `errors` only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from orchestrator.cli.terminal import complain, moment
from orchestrator.errors import InvalidRequest

_ENTRIES_LIMIT = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the environment, and where its copy belongs."""

    place: str
    """Its path there; bytes that are no UTF-8 as `os.fsdecode` has them."""
    target: Path
    size_bytes: int
    modified_us: int
    """Since 1970."""

    def stamp(self) -> None:
        """Gives the copy the time of the original, by which the next look knows it."""
        os.utime(self.target, ns=(self.modified_us * 1000, self.modified_us * 1000))


class Mirror:
    """The copy, in `folder`, of what a listing says of the folder `remote`."""

    def __init__(self, folder: Path, remote: str, entries: Iterable[dict[str, Any]]) -> None:
        """Reads the listing whole. Raises `InvalidRequest`: it is of no folder, or has too many entries."""
        self._folder = folder
        self._originals: list[Original] = []
        self._known: set[Path] = set()
        """All that the listing has, in whatever way."""
        for number, entry in enumerate(entries):
            if number >= _ENTRIES_LIMIT:
                raise InvalidRequest(f"{remote} has more than {_ENTRIES_LIMIT:,} files; sync the folders in it")
            self._add(remote.strip("/"), entry)

    def _add(self, remote: str, entry: dict[str, Any]) -> None:
        encoded = entry.get("encoded_path")
        place = os.fsdecode(unquote_to_bytes(encoded) if isinstance(encoded, str) else os.fsencode(str(entry["path"])))
        if place == remote:
            raise InvalidRequest(f"{remote} is no folder; get it with `corral files get`")
        parts = place.removeprefix(f"{remote}/").split("/")
        if not place.startswith(f"{remote}/") or not all(map(_is_plain, parts)):
            complain(f"{place} is left out: its name leads out of the folder")
            return
        target = self._folder.joinpath(*parts)
        self._known.add(target)
        if entry.get("type") == "FILE":
            at = moment(str(entry.get("modified"))) or _EPOCH
            self._originals.append(
                Original(place, target, int(str(entry.get("size_bytes"))), (at - _EPOCH) // timedelta(microseconds=1))
            )
        elif entry.get("type") != "DIRECTORY":
            complain(f"{place} is left out: neither a file nor a folder")

    def lacking(self) -> Iterator[Original]:
        """Files that are not here, or of another size or time. Each can be written to its target when it is yielded,
        but for the folders above it.
        """
        for original in self._originals:
            try:
                reason = self._obstacle(original.target)
                is_copied = not reason and _is_copied(original)
            except OSError as error:  # its path is too long for this machine
                is_copied, reason = False, str(error.strerror)
            if reason:
                complain(f"{original.place} is left out: {reason}")
            elif not is_copied:
                yield original

    def surplus(self) -> Iterator[Path]:
        """Files and links that are here and not there."""
        for at, folders, names in os.walk(self._folder):
            links = [name for name in folders if Path(at, name).is_symlink()]
            for name in sorted(names + links):
                if Path(at, name) not in self._known:
                    yield Path(at, name)

    def remove_empty_folders(self) -> None:
        """Those below the folder that are not there."""
        for at, _, _ in os.walk(self._folder, topdown=False):
            path = Path(at)
            if path != self._folder and path not in self._known and not any(path.iterdir()):
                path.rmdir()

    def _obstacle(self, target: Path) -> str:
        """What keeps a file from being written there; empty if nothing does."""
        for above in reversed(target.relative_to(self._folder).parents[:-1]):
            path = self._folder / above
            if path.is_symlink():
                return f"{path} is a link here"
            if path.exists() and not path.is_dir():
                return f"{path} is no folder here"
        return f"{target} is a folder here" if target.is_dir() and not target.is_symlink() else ""


def _is_copied(original: Original) -> bool:
    try:
        found = original.target.lstat()
    except OSError:
        return False
    is_as_old = found.st_mtime_ns // 1000 == original.modified_us
    return stat.S_ISREG(found.st_mode) and found.st_size == original.size_bytes and is_as_old


def _is_plain(name: str) -> bool:
    """Whether it names something in a folder, by the rules of this machine, and nothing else."""
    return name not in ("", ".", "..") and "\0" not in name and Path(name).name == name
