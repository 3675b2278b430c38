"""One thread, one selector, timers: the guest's event loop. asyncio would cost 40 ms and 8 MiB at every start."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from typing import Any, Callable, List, Optional

Callback = Callable[[], object]

_LONGEST_WAIT_S = 3600.0
"""The kernel's wait ends at 24 days; a timer may be further away."""
_COMPACT_ABOVE = 256


class Timer:
    """A call that will happen once, unless cancelled."""

    __slots__ = ("callback", "due", "on_cancel")

    def __init__(self, due: float, callback: Callback, on_cancel: Callback) -> None:
        self.due = due
        self.callback: Optional[Callback] = callback
        self.on_cancel = on_cancel

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.on_cancel()


class Reactor:
    """Calls back when a descriptor is ready or a time has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: List[Any] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._running = True

    def watch(self, fd: int, on_readable: Optional[Callback] = None, on_writable: Optional[Callback] = None) -> None:
        """Sets what happens when `fd` is ready, instead of what was set before; with neither, it is forgotten."""
        events = (selectors.EVENT_READ if on_readable else 0) | (selectors.EVENT_WRITE if on_writable else 0)
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, (on_readable, on_writable))
        else:
            self._selector.register(fd, events, (on_readable, on_writable))

    def forget(self, fd: int) -> None:
        """Stops watching `fd`. Call it before closing the descriptor."""
        self.watch(fd)

    def after(self, delay_s: float, callback: Callback) -> Timer:
        """Calls back once after `delay_s`."""
        timer = Timer(time.monotonic() + delay_s, callback, self._count_cancelled)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def _count_cancelled(self) -> None:
        # Nearly every timer is a call's limit and is cancelled long before its time.
        self._cancelled += 1
        if self._cancelled > _COMPACT_ABOVE and self._cancelled > len(self._timers) // 2:
            self._timers = [each for each in self._timers if each[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def stop(self) -> None:
        """Makes `run` return after the present callback."""
        self._running = False

    def run(self) -> None:
        """Runs until `stop`."""
        while self._running:
            timeout_s = self._wait_s()
            for key, ready in self._selector.select(timeout_s):
                on_readable, on_writable = key.data
                if ready & selectors.EVENT_READ and on_readable and self._is_watched(key):
                    on_readable()
                if ready & selectors.EVENT_WRITE and on_writable and self._is_watched(key):
                    on_writable()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                callback = self._pop().callback
                if callback is not None:
                    callback()

    def _wait_s(self) -> Optional[float]:
        if not self._timers:
            return None
        due: float = self._timers[0][0]
        return min(max(0.0, due - time.monotonic()), _LONGEST_WAIT_S)

    def _pop(self) -> Timer:
        timer: Timer = heapq.heappop(self._timers)[2]
        if timer.callback is None:
            self._cancelled -= 1
        # Cancelling what has fired must not count.
        timer.on_cancel = lambda: None
        return timer

    def _is_watched(self, key: selectors.SelectorKey) -> bool:
        # A callback of the same round may have closed the descriptor, and a new one may have its number.
        current = self._selector.get_map().get(key.fd)
        return current is not None and current.data is key.data
