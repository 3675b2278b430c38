"""One thread, one selector, timers: the guest's event loop. asyncio would cost 40 ms and 8 MiB at every start."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from typing import Any, Callable, List, Optional

Callback = Callable[[], object]


class Timer:
    """A call that will happen once, unless cancelled."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due = due
        self.callback: Optional[Callback] = callback

    def cancel(self) -> None:
        self.callback = None


class Reactor:
    """Calls back when a descriptor is ready or a time has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: List[Any] = []
        self._order = itertools.count()
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
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def stop(self) -> None:
        """Makes `run` return after the present callback."""
        self._running = False

    def run(self) -> None:
        """Runs until `stop`."""
        while self._running:
            timeout_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, ready in self._selector.select(timeout_s):
                on_readable, on_writable = key.data
                if ready & selectors.EVENT_READ and on_readable and self._is_watched(key):
                    on_readable()
                if ready & selectors.EVENT_WRITE and on_writable and self._is_watched(key):
                    on_writable()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                timer = heapq.heappop(self._timers)[2]
                if timer.callback is not None:
                    timer.callback()

    def _is_watched(self, key: selectors.SelectorKey) -> bool:
        # A callback of the same round may have closed the descriptor, and a new one may have its number.
        current = self._selector.get_map().get(key.fd)
        return current is not None and current.data is key.data
