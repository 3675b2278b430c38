"""The driver port: makes, finds and removes sandboxes on one platform, and opens a byte stream to the guest in each.

A driver remembers nothing: what it must know later it puts into the ref it yields and on the platform as labels. Every
method may be called again after a crash. Implementations must pass the checks of `orchestrator/conformance`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Resources:
    """What one sandbox may take. The design's section 7 gives the defaults."""

    memory_bytes: int = 2 << 30
    cpus: float = 2.0
    pids: int = 1024
    open_files: int = 8192
    disk_bytes: int = 10 << 30
    """All that it can write and that outlives it: `/workspace`, `/home/agent`, `/.agents`, `/var/tmp`; with what setup
    changed elsewhere.
    """


@dataclass(frozen=True, slots=True)
class Profile:
    """What makes two new sandboxes alike: either may stand in for the other until somebody has used one."""

    image: str
    resources: Resources = field(default_factory=Resources)
    runtime: str = ""
    """`runc`, `runsc`, `kata`, by the name that the platform knows; empty for the platform's own choice."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is made from. It carries no user data: variables, sources and secrets arrive later, or never."""

    sandbox_id: str
    image: str
    resources: Resources = field(default_factory=Resources)
    name: str = ""
    """The environment's id, for people who list containers; empty for none."""
    runtime: str = ""
    """See `Profile.runtime`."""
    snapshot: str = ""
    """The files that it begins with: a name that `snapshot` was given; empty for the image's own."""
    is_setup: bool = False
    """Commands run as root, with what installing programs takes, and can change the image's own folders. These changes
    are in snapshots of it, bounded by `disk_bytes` with the rest; nobody can change them in what begins with those.
    """


@dataclass(frozen=True, slots=True)
class SandboxRef:
    """Finds a sandbox again. `token` is the driver's own (a container id)."""

    sandbox_id: str
    token: str


class SandboxState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    """The platform did not answer. Nobody destroys on this."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    state: SandboxState
    reason: str = ""
    """For people: the exit code, the engine's message."""
    has_files: bool = False
    """Whether the files that last are there. If they are, and the sandbox is `ABSENT`, then `create` with the spec that
    it had puts it around them again. Without meaning while the state is `UNKNOWN`.
    """


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox of this server on the platform."""

    ref: SandboxRef
    """Without a token if there is nothing of it but files."""
    state: SandboxState
    has_files: bool
    """See `SandboxStatus.has_files`."""


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """What `open` found."""

    engine: str
    """For people: name and version."""
    runtimes: tuple[str, ...] = ()
    can_pause: bool = False
    """Whether `pause` and `resume` do something here."""
    is_remote: bool = False
    """On another machine, behind a connection that can be cut while both ends are well."""
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuestStream:
    """A duplex byte stream to a sandbox's guest. The holder closes the writer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class SandboxDriver(ABC):
    """One platform. Platform errors leave as `EngineUnavailable`, `ImageMissing`, `SandboxStartFailed` or
    `SandboxGone`.
    """

    @abstractmethod
    async def open(self) -> DriverInfo:
        """Connects and asks for versions. May be called again after a failure. Raises `EngineUnavailable`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Lets go of the platform; sandboxes stay as they are. May be called twice."""

    @abstractmethod
    async def has_image(self, image: str) -> bool:
        """Whether a sandbox can be made from `image` without fetching anything."""

    @abstractmethod
    def create(self, spec: SandboxSpec) -> AsyncGenerator[SandboxRef, None]:
        """Makes and starts a sandbox. Yields a ref right after each resource exists, so that it can be stored before
        the next step; the last ref is of a started sandbox. A spec whose `sandbox_id` exists already is adopted, and
        so are the files of one that is gone; whatever fails, they are kept.

        Raises:
            ImageMissing, SandboxStartFailed, EngineUnavailable: what was made may remain; `destroy` the last ref.
        """

    async def rename(self, ref: SandboxRef, name: str) -> None:  # noqa: B027 - a platform may have no names
        """Gives the sandbox another name for people, as `SandboxSpec.name` did. Raises `SandboxGone`."""

    @abstractmethod
    async def start(self, ref: SandboxRef) -> None:
        """Starts an exited sandbox; nothing if it runs. Raises `SandboxGone` if it is absent."""

    @abstractmethod
    async def stop(self, ref: SandboxRef) -> None:
        """Stops a sandbox, its files stay; nothing if it is stopped or absent."""

    @abstractmethod
    async def inspect(self, ref: SandboxRef) -> SandboxStatus:
        """Never raises for "gone" or "no answer": these are states."""

    async def pause(self, ref: SandboxRef) -> None:
        """Freezes everything in a running sandbox; it takes no CPU time until `resume`. Raises `SandboxGone`."""
        raise NotImplementedError

    async def resume(self, ref: SandboxRef) -> None:
        """Undoes `pause`; nothing if the sandbox is not paused. Raises `SandboxGone`."""
        raise NotImplementedError

    async def snapshot(self, ref: SandboxRef, name: str) -> None:
        """Keeps the files of a sandbox, running or not, as they are now, under `name` (letters, digits, hyphens).

        What the sandbox writes later is not in it. A name that exists is kept as it is, so that a call may be repeated.

        Raises:
            SandboxGone: it is absent. SandboxStartFailed: stage `snapshot`; nothing is kept.
        """
        raise NotImplementedError

    async def drop_snapshot(self, name: str) -> None:
        """Removes a snapshot; absent is success. Sandboxes that began with it keep their files."""
        raise NotImplementedError

    async def snapshots(self) -> set[str]:
        """The names of this server's snapshots."""
        raise NotImplementedError

    @abstractmethod
    async def destroy(self, ref: SandboxRef) -> None:
        """Removes everything of the sandbox; absent is success. Returns when the name can be used again."""

    @abstractmethod
    def owned(self) -> AsyncIterator[Found]:
        """All sandboxes, running or not, that carry this server's instance label. Asks the platform once, for all."""

    async def written_bytes(self, ref: SandboxRef) -> int | None:
        """What a sandbox has written, where nothing but a look from time to time can limit it (`DiskWatch`).

        None: it has a disk of a fixed size, or is gone.
        """
        return None

    @abstractmethod
    async def connect(self, ref: SandboxRef) -> GuestStream:
        """Opens a stream to the guest of a running sandbox; the caller must speak first. Raises `SandboxGone`."""

    @abstractmethod
    def exits(self) -> AsyncIterator[str]:
        """Yields the `sandbox_id` of each owned sandbox whose main process ends, as the platform reports it.

        Raises `EngineUnavailable` when the platform's event stream breaks off; call again to go on.
        """
