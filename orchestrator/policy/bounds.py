"""What an agent's sandbox and calls may take: its own wishes, the operator's maxima, the server's defaults. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.policy.limits import Limits

_PIDS = 1024
_PIDS_GVISOR = 4096
"""gVisor's own threads count, and a full limit there ends the sandbox (design 7)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Each is None where nobody said anything."""

    runtime: str | None = None
    """`runc`, `runsc`, `kata`, by the name that the engine knows; empty for its own choice."""
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    open_files: int | None = None
    disk_bytes: int | None = None
    call_timeout_s: float | None = None
    run_timeout_s: float | None = None
    output_limit_bytes: int | None = None
    max_turns: int | None = None

    def over(self, defaults: Bounds) -> Bounds:
        """These, and the defaults where these say nothing."""
        return replace(defaults, **self._given())

    def limits(self, defaults: Limits) -> Limits:
        """The limits of a run and its calls under these bounds."""
        return replace(defaults, **{name: value for name, value in self._given().items() if name in _OF_RUNS})

    @property
    def shapes_sandbox(self) -> bool:
        """Whether anything here changes the sandbox itself, and not only runs in it."""
        return any(name not in _OF_RUNS for name in self._given())

    @property
    def pids_or_default(self) -> int:
        """Processes; how many are right depends on the runtime."""
        if self.pids is not None:
            return self.pids
        return _PIDS_GVISOR if (self.runtime or "").startswith("runsc") else _PIDS

    def check(self, maxima: Maxima, where: str) -> None:
        """Raises `ConfigError` if a bound is beyond what the operator allows: names `where`, the field, the setting."""
        for name, value in self._given().items():
            if name == "runtime":
                if value and value not in maxima.runtimes:
                    allowed = ", ".join(maxima.runtimes) or "none"
                    raise ConfigError(
                        f"{where}.runtime: {value!r} is not allowed by setting 'maxima.runtimes': {allowed}"
                    )
            elif value > (maximum := getattr(maxima, name)):
                raise ConfigError(f"{where}.{name}: {value} is more than setting 'maxima.{name}' allows, {maximum}")

    def _given(self) -> dict[str, Any]:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}


UNBOUND = Bounds()
_OF_RUNS = frozenset({"call_timeout_s", "run_timeout_s", "output_limit_bytes", "max_turns"})


@dataclass(frozen=True, slots=True)
class Maxima:
    """The most that an agent's definition may ask for; what the operator sets for all is not held by it."""

    runtimes: tuple[str, ...] = ("runc", "runsc", "kata")
    memory_bytes: int = 16 << 30
    cpus: float = 16.0
    pids: int = 8192
    open_files: int = 1 << 20
    disk_bytes: int = 100 << 30
    call_timeout_s: float = 3600.0
    run_timeout_s: float = 24 * 3600.0
    output_limit_bytes: int = 16 << 20
    max_turns: int = 10_000
