"""How a server dies next. Pure, but for the random numbers that are given to it.

Moments that were hit least come first; one that was armed and did not come steps back, so that one that never comes
does not cost every second cycle.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["moment", "random", "term"]

_FIRST_OF = 4
"""The next moment is drawn from so many that were hit least."""
_TRIES = 3
"""Waits in vain for a moment that count as much as one death there."""
_PASSINGS = 4
_COMMITS = 150
"""Commits are passed hundreds of times a second; the others a few times in a server's short life."""
_MEAN_LIFE_S = 0.6
_LONGEST_LIFE_S = 2.5
_PATIENCE_S = 4.0
"""So long a server waits for the moment that it is to die at."""
_AT_STOP = "stop."
_STORIES = {
    "cancel.": "cancel",
    "fork.": "fork",
    "template.": "template",
    "delete.": "delete",
    "disk.removed": "delete",
    "stage.": "idle",
    "disk.unmounted": "idle",
    "run.waiting": "ask_client",
}


@dataclass(frozen=True, slots=True)
class Death:
    """One death. With a `moment` the process ends itself there, unless it does not come within `life_s`."""

    kind: Kind
    life_s: float
    """From when it listens: then SIGKILL, or SIGTERM."""
    moment: str = ""
    passing: int = 1
    """At which passing of the moment."""
    is_impatient: bool = False
    """SIGKILL follows the SIGTERM before the server can have ended."""

    @property
    def story(self) -> str:
        """What clients do that passes the moment; empty if anything does."""
        return next((story for start, story in _STORIES.items() if self.moment.startswith(start)), "")


class Plan:
    """The deaths of one lane."""

    def __init__(self, seed: int, moments: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._moments = list(moments)
        self.hits: Counter[str] = Counter()
        """Deaths at each moment."""
        self._misses: Counter[str] = Counter()

    def next(self) -> Death:
        """55 of 100 at a moment, 35 at any time, 10 by SIGTERM, half of those with a SIGKILL on top."""
        draw = self._random.random()
        life_s = min(self._random.expovariate(1 / _MEAN_LIFE_S), _LONGEST_LIFE_S)
        if draw < 0.55 and self._moments:
            moment = self._choose()
            most = _COMMITS if moment.startswith("store.") else _PASSINGS
            if moment.startswith(_AT_STOP):
                return Death("moment", life_s, moment)
            passing = 1 if self._misses[moment] else self._random.randint(1, most)
            return Death("moment", _PATIENCE_S, moment, passing)
        if draw < 0.90:
            return Death("random", life_s)
        return Death("term", life_s, is_impatient=self._random.random() < 0.5)

    def ends_orderly(self, death: Death) -> bool:
        """Whether it begins with SIGTERM."""
        return death.kind == "term" or death.moment.startswith(_AT_STOP)

    def came(self, moment: str) -> None:
        """A server died at the moment."""
        self.hits[moment] += 1

    def missed(self, moment: str) -> None:
        """A server waited for it in vain."""
        self._misses[moment] += 1

    @property
    def unreached(self) -> list[str]:
        """Moments at which no server died."""
        return [moment for moment in self._moments if not self.hits[moment]]

    def _choose(self) -> str:
        order = list(self._moments)
        self._random.shuffle(order)
        order.sort(key=lambda moment: self.hits[moment] + self._misses[moment] // _TRIES)
        return self._random.choice(order[:_FIRST_OF])
