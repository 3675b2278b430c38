"""Where sealing keys come from: a file that this server makes and adds to, or the operator's setting.

Blocking; imports `sealing` and `errors`. A file has a key a line, the newest last; `#` begins a remark.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Protocol

from orchestrator.credentials.sealing import KeyRing, SealingKey
from orchestrator.errors import ConfigError

_HEAD = (
    "# Keys that credentials in the database are sealed with, the newest last. Keep a copy, away from the database.\n"
)


class SealingKeys(Protocol):
    """The keys of this server."""

    def ring(self) -> KeyRing:
        """As they are now. Blocks on the disk. Raises `ConfigError`."""


class GivenKeys:
    """Keys of a setting."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `ConfigError`."""
        try:
            self._ring = KeyRing([SealingKey.parse(text) for text in texts])
        except ValueError as error:
            raise ConfigError(f"setting 'sealing_keys': {error}") from None

    def ring(self) -> KeyRing:
        return self._ring


class KeyFile:
    """A file of keys. What another process adds is seen at the next look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._ring: KeyRing | None = None

    def exists(self) -> bool:
        return self.path.exists()

    def ring(self) -> KeyRing:
        """Raises `ConfigError`: it cannot be read, is no file of keys, or others may read it."""
        try:
            found = self.path.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._ring is None or version != self._seen:
                if found.st_mode & 0o077:
                    raise ConfigError(f"others may read the sealing keys in {self.path}: run chmod 600 on it")
                self._ring, self._seen = KeyRing(self._read()), version
        except OSError as error:
            raise ConfigError(f"the sealing keys in {self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{self.path} is not a file of sealing keys: {error}") from error
        return self._ring

    def ensure(self) -> None:
        """Makes the file, with a first key, if there is none."""
        with self._changing():
            if not self.exists():
                self._write([SealingKey.new()])

    def add(self) -> SealingKey:
        """Adds a key, durable when this returns; from then on it is what seals."""
        with self._changing():
            keys = self._read() if self.exists() else []
            new = SealingKey.new()
            self._write([*keys, new])
            return new

    def drop_others(self, kept: frozenset[str]) -> int:
        """Removes all keys but the newest and those with these ids; how many. What they sealed is lost."""
        with self._changing():
            keys = self._read()
            left = [key for key in keys if key.id in kept or key == keys[-1]]
            if len(left) < len(keys):
                self._write(left)
            return len(keys) - len(left)

    def _read(self) -> list[SealingKey]:
        lines = (line.strip() for line in self.path.read_text(encoding="ascii").splitlines())
        return [SealingKey.parse(line) for line in lines if line and not line.startswith("#")]

    def _write(self, keys: list[SealingKey]) -> None:
        """Whole or not at all: a key that is lost is everything that it sealed."""
        fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(_HEAD + "".join(f"{key.text}\n" for key in keys))
                file.flush()
                os.fsync(descriptor)
            fresh.replace(self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _changing(self) -> Generator[None, None, None]:
        """One process at a time. Raises `ConfigError`."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"the sealing keys in {self.path} cannot be changed: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{self.path} is not a file of sealing keys: {error}") from error
