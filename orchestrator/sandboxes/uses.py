"""Who uses which environment: what is in use is left alone, what is not is counted from its last use on.

Knows nothing of sandboxes; imports `clock` only. Time is monotonic and counts from the server's start at the earliest:
neither a clock that is set nor a night in which the server was off makes anything idle.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator

from orchestrator.clock import Clock


class Uses:
    """Of all environments of a server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._holders: Counter[str] = Counter()
        self._last: dict[str, float] = {}

    @contextlib.contextmanager
    def hold(self, environment_id: str) -> Generator[None, None, None]:
        """The environment is in use for as long as the block lasts: a run, a terminal, a connection, a copy."""
        self._holders[environment_id] += 1
        try:
            yield
        finally:
            self._holders[environment_id] -= 1
            if not self._holders[environment_id]:
                del self._holders[environment_id]
            self.renew(environment_id)

    def renew(self, environment_id: str) -> None:
        """It was used just now."""
        self._last[environment_id] = self._clock.monotonic()

    def is_held(self, environment_id: str) -> bool:
        """Whether anybody uses it."""
        return environment_id in self._holders

    def idle_s(self, environment_id: str) -> float:
        """How long nobody has; 0 while it is held."""
        if self.is_held(environment_id):
            return 0.0
        return self._clock.monotonic() - self._last.get(environment_id, self._began)

    @property
    def observed_s(self) -> float:
        """For how long uses have been counted."""
        return self._clock.monotonic() - self._began

    def forget(self, environment_id: str) -> None:
        """The environment is gone."""
        self._last.pop(environment_id, None)
