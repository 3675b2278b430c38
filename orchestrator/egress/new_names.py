"""How many names an environment may ask for that it has not asked for before: data can be carried out in names, to
whoever answers for them, also where nobody is connected to. Pure.
"""

from __future__ import annotations

from collections import OrderedDict

_REMEMBERED = 1024


class NewNames:
    """Of one environment."""

    def __init__(self, burst: int, per_s: float) -> None:
        """`burst` at once, and `per_s` more each second; a name that is remembered counts for nothing."""
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._filled_s: float | None = None
        self._known: OrderedDict[str, None] = OrderedDict()

    def admits(self, name: str, now_s: float) -> bool:
        """Whether it may be resolved; counts it if so."""
        if name in self._known:
            self._known.move_to_end(name)
            return True
        if self._filled_s is not None:
            self._left = min(self._burst, self._left + self._per_s * (now_s - self._filled_s))
        self._filled_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        self._known[name] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return True
