"""Where the files of a Docker engine's sandboxes are: on disks of their own, or in the container's writable layer.

    disks    root on the engine's machine. A hard limit; the image's file system is read-only; copies of any size take
             milliseconds.
    layers   everywhere else. The limit is watched (`disk_watch.py`); snapshots are images that the engine commits.

All calls block, the driver makes them in its threads; for one sandbox one at a time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import docker.errors
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential

from orchestrator.errors import SandboxStartFailed
from orchestrator.sandboxes import guest_bundle
from orchestrator.sandboxes.disks import Disks
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec

_FOLDERS = {"workspace": "/workspace", "home": "/home/agent", "agents": "/.agents", "var-tmp": "/var/tmp"}  # noqa: S108
"""Folder on a disk → where it is in the sandbox."""
GUEST_FOLDER = "/opt/corral"
_AGENT_UID = 1000
_HOSTS = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_SNAPSHOT_REPOSITORY = "corral/snapshot"
_DROPPED_REPOSITORY = "corral/dropped"
"""Of snapshots that are no more, and that a container began with."""
_SNAPSHOT_LABEL = "corral.snapshot"
_LIST_ATTEMPTS = 5
_UNPACK = ("tar", "--extract", "--numeric-owner", "--preserve-permissions", "--delay-directory-restore")


@dataclass(frozen=True, slots=True)
class Image:
    """What the engine says of an image."""

    id: str
    carries_guest: bool
    """The guest of this version."""
    volumes: tuple[str, ...] = ()
    """Where it wants volumes of the engine's, which no limit bounds and nobody removes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What the storage adds to a container."""

    image: str
    binds: tuple[str, ...] = ()
    is_read_only: bool = False
    """The image's own file system."""
    has_hosts: bool = False
    """`/etc/hosts` is among the binds: the engine's network layer, which else writes it, is not needed."""


class Storage(ABC):
    """How the files of sandboxes are kept."""

    name: ClassVar[str]
    has_hard_limit: ClassVar[bool]
    puts_guest: ClassVar[bool]
    """An image without the current guest gets it copied in."""

    def open(self) -> bool:
        """Prepares, which may be repeated; whether this was the first time. Raises `OSError` if this way is closed."""
        return False

    def tidy(self, running: Set[str], bound: Set[str], images: Set[str]) -> None:  # noqa: B027
        """Removes what earlier servers left. For right after the first `open`: nothing is being made yet.

        `running`: the sandboxes that do; `bound`: the paths that containers, running or not, take from this machine;
        `images`: the ids of those that the engine has.
        """

    def close(self) -> None:  # noqa: B027
        """Lets go. Files stay."""

    def image_of(self, spec: SandboxSpec) -> str:
        """The image that a new container is made from. Pure."""
        return spec.image

    @abstractmethod
    def placement(self, spec: SandboxSpec, image: Image) -> Placement:
        """Of a new container. Pure."""

    def make(self, spec: SandboxSpec, image: Image) -> None:  # noqa: B027
        """Makes a new sandbox's files; those that are there are kept. Raises `OSError`, `SandboxStartFailed`."""

    def mount(self, sandbox_id: str) -> None:  # noqa: B027
        """Before each start of the container."""

    def unmount(self, sandbox_id: str) -> None:  # noqa: B027
        """After the container has stopped."""

    def remove(self, sandbox_id: str) -> None:  # noqa: B027
        """After the container is gone."""

    def has_files(self, sandbox_id: str, has_container: bool) -> bool:
        """Whether a sandbox's files are there."""
        return has_container

    def sandbox_ids(self) -> set[str]:
        """Sandboxes that have files beside a container."""
        return set()

    @abstractmethod
    def snapshot(self, ref: SandboxRef, name: str) -> None:
        """See `SandboxDriver.snapshot`."""

    @abstractmethod
    def drop_snapshot(self, name: str) -> None: ...

    @abstractmethod
    def snapshots(self) -> set[str]: ...


class DiskStorage(Storage):
    """A disk for each sandbox, its folders bound into the container."""

    name = "disks"
    has_hard_limit = True
    puts_guest = False

    def __init__(self, disks: Disks, read_image: Callable[[str, str], Iterator[bytes] | None]) -> None:
        """`read_image(image, path)` yields a tar of a folder of an image; None if there is none."""
        self._disks = disks
        self._read_image = read_image
        self._locks: dict[str, threading.Lock] = {}
        self._guest = disks.folder / "guests" / guest_bundle.digest()
        self._hosts = disks.folder / "hosts"

    def open(self) -> bool:
        is_first = self._disks.open()
        guest = self._guest.with_name(f".{self._guest.name}")
        if not self._guest.exists():
            guest.mkdir(mode=0o755, parents=True, exist_ok=True)
            for name, content in guest_bundle.files().items():
                (guest / name).write_bytes(content)
            guest.replace(self._guest)
        if not self._hosts.exists():
            self._hosts.write_text(_HOSTS, encoding="ascii")
        return is_first

    def tidy(self, running: Set[str], bound: Set[str], images: Set[str]) -> None:
        self._disks.unmount_all_but(running)
        self._disks.keep_templates({_template_key(each) for each in images})
        for guest in self._guest.parent.iterdir():
            if guest != self._guest and str(guest) not in bound:
                shutil.rmtree(guest)

    def close(self) -> None:
        self._disks.close()

    def placement(self, spec: SandboxSpec, image: Image) -> Placement:
        at = self._disks.mount_point(spec.sandbox_id)
        binds = [f"{at}/{folder}:{path}" for folder, path in _FOLDERS.items()]
        binds.append(f"{self._hosts}:/etc/hosts:ro")
        if not image.carries_guest:
            binds.append(f"{self._guest}:{GUEST_FOLDER}/guest:ro")
        return Placement(spec.image, tuple(binds), is_read_only=True, has_hosts=True)

    def make(self, spec: SandboxSpec, image: Image) -> None:
        with self._lock(spec.sandbox_id):
            self._make(spec, image)

    def _make(self, spec: SandboxSpec, image: Image) -> None:
        if spec.snapshot:
            self._disks.make(spec.sandbox_id, self._disks.snapshot_file(spec.snapshot))
            return

        def fill(root: Path) -> None:
            for folder, path in _FOLDERS.items():
                self._unpack(image.id, path, root / folder)

        template = self._disks.template(_template_key(image.id), spec.resources.disk_bytes, fill)
        self._disks.make(spec.sandbox_id, template)

    def mount(self, sandbox_id: str) -> None:
        with self._lock(sandbox_id):
            self._disks.mount(sandbox_id)

    def unmount(self, sandbox_id: str) -> None:
        with self._lock(sandbox_id):
            self._disks.unmount(sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        with self._lock(sandbox_id):
            self._disks.remove(sandbox_id)
        self._locks.pop(sandbox_id, None)

    def _lock(self, sandbox_id: str) -> threading.Lock:
        """A thread cannot be cancelled: what undoes a start may come while it is still going on."""
        return self._locks.setdefault(sandbox_id, threading.Lock())

    def has_files(self, sandbox_id: str, has_container: bool) -> bool:
        return self._disks.exists(sandbox_id)

    def sandbox_ids(self) -> set[str]:
        return self._disks.sandbox_ids()

    def snapshot(self, ref: SandboxRef, name: str) -> None:
        self._disks.snapshot(ref.sandbox_id, name)

    def drop_snapshot(self, name: str) -> None:
        self._disks.drop_snapshot(name)

    def snapshots(self) -> set[str]:
        return self._disks.snapshots()

    def _unpack(self, image_id: str, path: str, target: Path) -> None:
        """What the image has in a folder; the folder itself is the agent's, whatever the image says."""
        is_temporary = path == _FOLDERS["var-tmp"]
        target.mkdir()
        archive = None if is_temporary else self._read_image(image_id, path)
        if archive is not None:
            _unpack_tar(archive, target, path)
        target.chmod(0o1777 if is_temporary else 0o755)
        if not is_temporary:
            os.chown(target, _AGENT_UID, _AGENT_UID)


class LayerStorage(Storage):
    """The container's writable layer."""

    name = "layers"
    has_hard_limit = False
    puts_guest = True

    def __init__(self, engine: Callable[[], Any], instance: str) -> None:
        """`engine` gives the SDK's low-level client."""
        self._engine = engine
        self._instance = instance
        self._prefix = f"{instance}-"

    def placement(self, spec: SandboxSpec, image: Image) -> Placement:
        return Placement(self.image_of(spec))

    def image_of(self, spec: SandboxSpec) -> str:
        return self._image(spec.snapshot) if spec.snapshot else spec.image

    def remove(self, sandbox_id: str) -> None:
        self._remove_dropped()

    def snapshot(self, ref: SandboxRef, name: str) -> None:
        if name not in self.snapshots():
            label = f"LABEL {_SNAPSHOT_LABEL}={self._instance}"
            self._engine().commit(
                ref.token, repository=_SNAPSHOT_REPOSITORY, tag=f"{self._prefix}{name}", changes=[label]
            )

    def drop_snapshot(self, name: str) -> None:
        if name in self.snapshots():
            # Never by force: Podman would remove the containers that began with it. An image that has another name only
            # loses this one.
            self._engine().tag(self._image(name), _DROPPED_REPOSITORY, tag=f"{self._prefix}{name}", force=True)
            self._engine().remove_image(self._image(name))
            self._remove_dropped()

    def _remove_dropped(self) -> None:
        """Images of dropped snapshots, each as soon as no container is left that began with it."""
        try:
            dropped = [image["Id"] for image in self._images() if not self._names_of(image)]
        except docker.errors.APIError:
            return  # the next removal looks again
        for image in dropped:
            with contextlib.suppress(docker.errors.APIError):  # it is still needed
                self._engine().remove_image(image)

    def snapshots(self) -> set[str]:
        return {name for image in self._images() for name in self._names_of(image)}

    @retry(
        # Podman cannot list images while one is being removed.
        retry=retry_if_exception(lambda error: isinstance(error, docker.errors.APIError) and error.is_server_error()),
        stop=stop_after_attempt(_LIST_ATTEMPTS),
        wait=wait_exponential(multiplier=0.05, max=0.4),
        reraise=True,
    )
    def _images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._engine().images(filters={"label": f"{_SNAPSHOT_LABEL}={self._instance}"})
        return found

    def _names_of(self, image: dict[str, Any]) -> list[str]:
        # Podman puts the name of a registry before ours.
        tags = (tag.partition(self._image("")) for tag in image["RepoTags"] or ())
        return [name for _, found, name in tags if found]

    def _image(self, name: str) -> str:
        return f"{_SNAPSHOT_REPOSITORY}:{self._prefix}{name}"


def _template_key(image_id: str) -> str:
    return image_id.rpartition(":")[2][:24]


def _unpack_tar(archive: Iterator[bytes], target: Path, path: str) -> None:
    """Without the first part of its members' names, which is the folder's own."""
    unpack = [*_UNPACK, "--strip-components=1", f"--directory={target}"]
    with tempfile.TemporaryFile() as spool:
        for piece in archive:
            spool.write(piece)
        spool.seek(0)
        done = subprocess.run(unpack, stdin=spool, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:500]
        raise SandboxStartFailed(f"{path} of the image cannot be unpacked: {said}", stage="disk")
