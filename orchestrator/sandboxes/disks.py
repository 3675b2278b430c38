"""Disks: the files of a sandbox as one file on the host, which holds an ext4 file system of fixed size.

A full disk is full for its sandbox alone, in bytes and in number of files. A copy of a disk shares all blocks that
neither side has changed, so a snapshot or a fork of any size takes milliseconds. For that the files lie on a file
system that can share blocks; where the data folder has none, in a pool: one large sparse file that holds XFS.

Works only as root, on the machine of the container engine. All calls block: run them in threads. For one name, one
call at a time; different names are independent.

    <folder>/pool.xfs   the pool, if one is needed, mounted at
    <folder>/files/     sandboxes/ID.img  snapshots/NAME.img  templates/KEY.img
    <folder>/mounts/ID  where a sandbox's disk is mounted while it runs

A disk that also holds what setup changed in an image has that image's name as its label, which its copies keep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import SandboxGone, SandboxStartFailed
from orchestrator.sandboxes import systems
from orchestrator.sandboxes.engine_host import reason_to_stay_out
from orchestrator.sandboxes.mounts import PATH, release, run

_FICLONE = 0x40049409
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
_POOL_SHARE = 0.8
"""Of what is free: the database and the rest of the host keep their room whatever sandboxes write."""
_POOL_LEAST_BYTES = 2 << 30
_RESERVED_SHARE = 0.05
"""Of the pool, kept for disks that are there: they are sparse, and together may be promised more than the pool has; one
that finds no room in the pool loses what is written on it.
"""
_LABEL = "sys-"
_LABEL_AT, _LABEL_BYTES = 1024 + 0x78, 16
"""Where ext4 has it."""
_RELEASE_TIMEOUT_S = 5.0
_RELEASE_INTERVAL_S = 0.05
_FORMAT = (
    *("mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=8"),
    *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
)
# noinit_itable: or the kernel writes the inode tables of every disk in the background. discard: what is deleted inside
# is given back to the host. nodev, nosuid: the container's mounts inherit them.
_MOUNT_OPTIONS = "loop,nodev,nosuid,noatime,discard,noinit_itable"
_POOL_MOUNT_OPTIONS = "loop,nodev,nosuid,noexec,noatime,discard"


class Disks:
    """All disks below one folder. `open` before use."""

    def __init__(self, folder: Path, pool_bytes: int | None = None) -> None:
        self.folder = folder
        self._pool_bytes = pool_bytes
        self._pool = folder / "pool.xfs"
        self._files = folder / "files"
        self._mounts = folder / "mounts"
        self._building = threading.Lock()
        self._is_open = False
        self.is_sharing = False
        """Whether copies share blocks; else they take as long as their size."""

    def open(self) -> bool:
        """Prepares the folder and takes up what a crash left. May be called again, also while disks are being made;
        whether it was not open before.

        Raises:
            OSError: this process may not mount, or a program is missing; the message says which.
        """
        if self._is_open:
            return False
        for folder in (self._files, self._mounts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._pool.exists() and not self._files.is_mount():
            run("mount", "-t", "xfs", "-o", _POOL_MOUNT_OPTIONS, self._pool, self._files)
        # A pool that is there is one whatever happens: it may be too full for the probe.
        self.is_sharing = self._pool.exists() or _shares_blocks(self._files) or self._make_pool()
        for kind in ("sandboxes", "snapshots", "templates"):
            (self._files / kind).mkdir(mode=0o700, exist_ok=True)
        for unfinished in self._files.glob("*/.*"):
            unfinished.unlink()
        for mounted in self._mounts.iterdir():
            _thaw(mounted)  # a crash in the middle of a snapshot left it frozen
            if mounted.name.startswith("."):
                self._unmount(mounted)
        self._is_open = True
        return True

    def close(self) -> None:
        """Unmounts the pool, unless sandboxes still run on it. May be called twice."""
        self._is_open = False
        give_up_at = time.monotonic() + _RELEASE_TIMEOUT_S
        while self._pool.exists() and self._files.is_mount():
            try:
                run("umount", self._files)
            except OSError:
                # The kernel lets go of a disk's file a little after the disk was unmounted.
                is_in_use = any(at.is_mount() for at in self._mounts.iterdir())
                if is_in_use or time.monotonic() > give_up_at:
                    return
                time.sleep(_RELEASE_INTERVAL_S)

    # sandboxes

    def make(self, sandbox_id: str, source: Path, *, image: str = "") -> None:
        """A disk that begins as a copy of `source`; one that is there is kept as it is.

        `image`: it is to hold changes of that image, and says so (`changed_image`): 12 letters and digits.

        Raises:
            SandboxStartFailed: there is no such source, or what is left for all disks together is too little.
        """
        if self.exists(sandbox_id):
            return
        room = os.statvfs(self._files)
        if room.f_bavail < room.f_blocks * _RESERVED_SHARE:
            left = room.f_bavail * room.f_frsize >> 20
            raise SandboxStartFailed(
                f"the disks of all sandboxes together have only {left} MiB left; delete environments", stage="disk"
            )
        self._copy(source, self._sandbox(sandbox_id), f"{_LABEL}{image}" if image else "")

    def mount(self, sandbox_id: str) -> Path:
        """Where the disk's root folder is from now on; it may be mounted already. Raises `SandboxGone`: it is lost."""
        at = self._mounts / sandbox_id
        if not self._sandbox(sandbox_id).exists():
            raise SandboxGone(f"the disk of sandbox {sandbox_id} is gone, and its files with it")
        at.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not at.is_mount():
            run("mount", "-t", "ext4", "-o", _MOUNT_OPTIONS, self._sandbox(sandbox_id), at)
        return at

    def mount_point(self, sandbox_id: str) -> Path:
        """Where `mount` will mount it."""
        return self._mounts / sandbox_id

    def unmount(self, sandbox_id: str) -> None:
        """Undoes `mount`; nothing if it is not mounted."""
        self._unmount(self._mounts / sandbox_id)

    def unmount_all_but(self, sandbox_ids: Set[str]) -> None:
        """Undoes every `mount` but theirs."""
        for mounted in self._mounts.iterdir():
            if mounted.name not in sandbox_ids:
                self._unmount(mounted)

    def remove(self, sandbox_id: str) -> None:
        """Removes the disk with all that is on it; absent is success."""
        self.unmount(sandbox_id)
        self._sandbox(sandbox_id).unlink(missing_ok=True)

    def exists(self, sandbox_id: str) -> bool:
        """Whether the sandbox has a disk."""
        return self._sandbox(sandbox_id).exists()

    def changed_image(self, sandbox_id: str, snapshot: str = "") -> str:
        """The image of which the sandbox's disk, or the snapshot that it will begin as, holds changes; else empty."""
        for file in (self._sandbox(sandbox_id), self.snapshot_file(snapshot)):
            with contextlib.suppress(FileNotFoundError):
                label = _label(file)
                return label.removeprefix(_LABEL) if label.startswith(_LABEL) else ""
        return ""

    def sandbox_ids(self) -> set[str]:
        """The sandboxes that have a disk."""
        return {each.stem for each in (self._files / "sandboxes").glob("*.img")}

    # snapshots

    def snapshot(self, sandbox_id: str, name: str) -> None:
        """Keeps the disk as it is now; whoever writes to it waits meanwhile. A name that exists is kept as it is."""
        source = self._sandbox(sandbox_id)
        if not source.exists():
            raise SandboxGone(f"the disk of sandbox {sandbox_id} is gone, and its files with it")
        with _frozen(self._mounts / sandbox_id):
            self._copy(source, self.snapshot_file(name))
        _sync(self.snapshot_file(name))

    def snapshot_file(self, name: str) -> Path:
        """To make disks of."""
        return self._files / "snapshots" / f"{name}.img"

    def drop_snapshot(self, name: str) -> None:
        """Removes a snapshot; disks that were made of it stay."""
        self.snapshot_file(name).unlink(missing_ok=True)

    def snapshots(self) -> set[str]:
        """Names of all snapshots."""
        return {each.stem for each in (self._files / "snapshots").glob("*.img")}

    # templates

    def template(self, key: str, size_bytes: int, fill: Callable[[Path], None]) -> Path:
        """A disk of `size_bytes` with what `fill` put below the folder it is given; made once per key and size."""
        file = self._files / "templates" / f"{key}-{size_bytes}.img"
        with self._building:
            if not file.exists():
                self._build(file, size_bytes, fill)
        return file

    def keep_templates(self, keys: Set[str]) -> None:
        """Removes those that have none of these keys. Disks that began with them stay."""
        for file in (self._files / "templates").glob("*.img"):
            if file.stem.rpartition("-")[0] not in keys:
                file.unlink()

    def _build(self, file: Path, size_bytes: int, fill: Callable[[Path], None]) -> None:
        unfinished, at = file.with_name(f".{file.name}"), self._mounts / f".{file.stem}"
        try:
            with unfinished.open("wb") as empty:
                empty.truncate(size_bytes)
            run(*_FORMAT, unfinished)
            at.mkdir(mode=0o700, exist_ok=True)
            run("mount", "-t", "ext4", "-o", _MOUNT_OPTIONS, unfinished, at)
            fill(at)
            self._unmount(at)
            _sync(unfinished)
            unfinished.replace(file)
        finally:
            self._unmount(at)
            unfinished.unlink(missing_ok=True)

    def _sandbox(self, sandbox_id: str) -> Path:
        return self._files / "sandboxes" / f"{sandbox_id}.img"

    def _copy(self, source: Path, target: Path, label: str = "") -> None:
        if target.exists():
            return
        unfinished = target.with_name(f".{target.name}")
        try:
            if self.is_sharing:
                _share(source, unfinished)
            else:
                run("cp", "--sparse=always", source, unfinished)
            if label:
                run("e2label", unfinished, label)
            unfinished.replace(target)
        except FileNotFoundError as error:
            raise SandboxStartFailed(f"there is no disk to begin with: {error.filename}", stage="disk") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _unmount(self, at: Path) -> None:
        systems.unmount(at)
        release(at)
        with contextlib.suppress(FileNotFoundError):
            at.rmdir()

    def _make_pool(self) -> bool:
        if shutil.which("mkfs.xfs", path=PATH) is None:
            return False
        room = os.statvfs(self.folder)
        size_bytes = self._pool_bytes or int(room.f_bavail * room.f_frsize * _POOL_SHARE)
        if size_bytes < _POOL_LEAST_BYTES:
            return False
        unfinished = self._pool.with_name(".pool.xfs")
        try:
            with unfinished.open("wb") as empty:
                empty.truncate(size_bytes)
            run("mkfs.xfs", "-q", "-f", "-K", unfinished)
            unfinished.replace(self._pool)
            run("mount", "-t", "xfs", "-o", _POOL_MOUNT_OPTIONS, self._pool, self._files)
        finally:
            unfinished.unlink(missing_ok=True)
        return _shares_blocks(self._files)


def has_disks(folder: Path) -> bool:
    """Whether sandboxes have had disks below `folder`: what files they have is there and nowhere else."""
    return (folder / "pool.xfs").exists() or any((folder / "files" / "sandboxes").glob("*.img"))


def can_use_disks(engine_url: str, *, has_some: bool = False) -> str:
    """Why the sandboxes of that engine cannot have disks made by this process; empty if they can.

    `has_some`: they have disks already, so an engine that does not answer just now is where it was.
    """
    if reason := reason_to_stay_out(engine_url, "mnt", was_beside=has_some or None):
        return reason
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name, path=PATH) is None]
    return f"there is no {missing[0]}" if missing else ""


def can_share_blocks(folder: Path) -> bool:
    """Whether disks below `folder`, which need not exist, are or will be copied without copying."""
    if (folder / "pool.xfs").exists() or shutil.which("mkfs.xfs", path=PATH) is not None:
        return True
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return _shares_blocks(existing)


def _shares_blocks(folder: Path) -> bool:
    one, other = folder / ".corral-probe", folder / ".corral-probe-copy"
    try:
        one.write_bytes(b"\0" * 4096)
        _share(one, other)
    except OSError:
        return False
    finally:
        one.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return True


def _share(source: Path, target: Path) -> None:
    """A copy that takes no blocks of its own until one side changes."""
    with source.open("rb") as existing, target.open("wb") as copy:
        fcntl.ioctl(copy.fileno(), _FICLONE, existing.fileno())


def _label(file: Path) -> str:
    with file.open("rb") as disk:
        disk.seek(_LABEL_AT)
        return disk.read(_LABEL_BYTES).rstrip(b"\0").decode("ascii", "replace")


def _sync(file: Path) -> None:
    for path in (file, file.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _frozen(at: Path) -> Iterator[None]:
    """All that was written is on the disk's file, and whoever writes waits. Nothing if it is not mounted."""
    if not at.is_mount():
        yield
        return
    root = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(root, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(root, _FITHAW, 0)
    finally:
        os.close(root)


def _thaw(at: Path) -> None:
    if at.is_mount():
        root = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # it was not frozen
            fcntl.ioctl(root, _FITHAW, 0)
        os.close(root)
