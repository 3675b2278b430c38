"""One source being fetched: what it may still take, and whether anybody still wants it. Blocking.

Imports `egress` and `errors`. It runs in a thread. Whoever ends it, because its time is up or nobody waits any more,
closes what the thread waits for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.egress.http import cut
from orchestrator.errors import NetworkError, SourceFailed

_SPACE_EVERY_BYTES = 16 << 20
_PIECE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Of one source."""

    size_bytes: int
    max_members: int
    timeout_s: float
    reserve_bytes: int = 0
    """Space that is left on the disk where it is fetched to."""


class Fetch:
    """A context manager: its time begins with the block. `end` may be called from any thread."""

    def __init__(self, folder: Path, limits: FetchLimits) -> None:
        """`folder` is private to it and empty."""
        self.folder = folder
        self.limits = limits
        self._lock = threading.Lock()
        self._acts: list[Callable[[], None]] = []
        self._reason: str | None = None
        self._timer = threading.Timer(limits.timeout_s, self.end, [f"it took longer than {limits.timeout_s:g} s"])
        self._timer.daemon = True
        self._ends_at = 0.0
        self._taken_bytes = 0
        self._spooled_bytes = 0
        self._members = 0
        self._looked_at_bytes = 0

    def __enter__(self) -> Fetch:
        self._ends_at = time.monotonic() + self.limits.timeout_s
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def left_s(self) -> float:
        """Time that is left."""
        return max(0.0, self._ends_at - time.monotonic())

    def end(self, reason: str) -> None:
        """Ends what the fetch waits for; from now on `check` raises. The first reason counts."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            acts = list(self._acts)
        for act in acts:
            act()

    def check(self) -> None:
        """Raises `SourceFailed` if it was ended."""
        if self._reason is not None:
            raise SourceFailed(self._reason)

    @contextlib.contextmanager
    def ending(self, act: Callable[[], None]) -> Generator[None, None, None]:
        """Within the block `act` is done when the fetch is ended; it may not fail."""
        with self._lock:
            self._acts.append(act)
            is_over = self._reason is not None
        try:
            if is_over:
                act()
            yield
        finally:
            with self._lock:
                self._acts.remove(act)

    @contextlib.contextmanager
    def watch(self, connection: socket.socket) -> Generator[None, None, None]:
        """Within the block the connection is cut when the fetch is ended."""
        with self.ending(lambda: cut(connection)):
            yield

    @contextlib.contextmanager
    def faults(self) -> Generator[None, None, None]:
        """Errors of the network become those of the source; where the fetch was ended, that is the reason."""
        try:
            yield
        except NetworkError as error:
            self.check()
            raise SourceFailed(error.message) from error
        except OSError as error:
            self.check()
            raise SourceFailed(error.strerror or type(error).__name__) from error

    def take(self, size_bytes: int) -> None:
        """Counts bytes that are delivered."""
        self.check()
        self._taken_bytes += size_bytes
        self._check_size(self._taken_bytes)

    def count_member(self) -> None:
        self.check()
        self._members += 1
        if self._members > self.limits.max_members:
            raise SourceFailed(f"it has more than {self.limits.max_members} files and folders")

    def check_room(self, size_bytes: int, members: int) -> None:
        """Of what another program has written meanwhile: a pack may be as large as its files, and so may they be."""
        self.check()
        if size_bytes > 2 * self.limits.size_bytes:
            raise SourceFailed(f"it is larger than {self.limits.size_bytes} bytes")
        if members > 2 * self.limits.max_members:
            raise SourceFailed(f"it has more than {self.limits.max_members} files and folders")
        self.check_space()

    def spool(self, read: Callable[[], bytes], name: str) -> Path:
        """What `read` gives until it gives nothing, in a file. It may be as large as the source."""
        path = self.folder / name
        with path.open("wb") as file:
            while piece := read():
                self.check()
                self._spooled_bytes += len(piece)
                self._check_size(self._spooled_bytes)
                file.write(piece)
        return path

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.limits.size_bytes:
            raise SourceFailed(f"it is larger than {self.limits.size_bytes} bytes")
        if size_bytes - self._looked_at_bytes >= _SPACE_EVERY_BYTES:
            self._looked_at_bytes = size_bytes
            self.check_space()

    def check_space(self) -> None:
        """Raises `SourceFailed` if the disk of the server runs full."""
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < self.limits.reserve_bytes:
            raise SourceFailed("the disk of the server is full")
