"""The exclusive lock on a data folder. One server at a time works on a folder. Imports `errors` only.

The lock is the kernel's (`flock`), so it ends with the process that holds it, however that ends. It is what makes the
leases of an earlier server void. Key administration opens the same database without it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import ConfigError

LOCK_NAME = "corral.lock"


class DataFolderLock:
    """Held from `acquire` to `release`, or as a context. Makes the folder, for the owner alone, if it is missing."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock or fails at once; does not wait. Touches the disk: not for the event loop.

        Raises:
            ConfigError: another process holds it (the message has its id), or the folder cannot be used.
        """
        if self._descriptor is not None:
            raise ConfigError(f"this process holds the lock on {self._folder} already")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the data folder {self._folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who holds it is for people to read; the lock itself does not depend on it.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"the data folder {self._folder} is in use by "
                f"{f'the server with process id {holder}' if holder else 'another process'}; "
                "stop that server or name another data folder"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(f"the data folder {self._folder} cannot be locked: {error.strerror}") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the lock back. May be called twice. The file stays: removing it would race with the next holder."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
