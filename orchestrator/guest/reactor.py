"""One thread, one selector, timers: the guest's event loop. asyncio would cost 40 ms and 8 MiB at every start.

Its clock stands still while the whole sandbox does, so that pausing suspends the time limits of calls (design 4.2). The
kernel tells nobody that it froze them: the loop notices that it woke much too late without having wanted to run.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import sys
import time
from typing import Any, Callable, Dict, List, Optional

Callback = Callable[[], object]

_COMPACT_ABOVE = 256
_LONGEST_WAIT_WITH_TIMERS_S = 0.5
"""How much of a pause may be missed: it may begin when a wait does."""
_STANDSTILL_S = 1.0
"""Who is later than this, and was neither running nor waiting for a processor, stood still."""


_REST_S = 1.0
"""A descriptor whose callback failed is left alone for so long: it would be ready again at once."""


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
    """Calls back when a descriptor is ready or a time has come.

    Callbacks handle what they expect. An `OSError` that nobody expected, such as one for want of descriptors, is logged
    and ends nothing else: the call that it belongs to runs into its time limit at worst.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: List[Any] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._running = True
        self._stood_still_s = 0.0
        self._effort = _Effort()
        self._resting: Dict[int, Any] = {}

    def now(self) -> float:
        """Seconds of a clock that stands still while everything here does."""
        return time.monotonic() - self._stood_still_s

    def watch(self, fd: int, on_readable: Optional[Callback] = None, on_writable: Optional[Callback] = None) -> None:
        """Sets what happens when `fd` is ready, instead of what was set before; with neither, it is forgotten."""
        self._resting.pop(fd, None)
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
        timer = Timer(self.now() + delay_s, callback, self._count_cancelled)
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
        checked = time.monotonic()
        while self._running:
            wait_s = self._wait_s()
            ready_keys = self._selector.select(wait_s)
            if wait_s is not None and time.monotonic() - checked - wait_s > _STANDSTILL_S:
                self._notice_standstill(time.monotonic() - checked - wait_s)
            checked = time.monotonic()
            self._effort.look()
            for key, ready in ready_keys:
                on_readable, on_writable = key.data
                if ready & selectors.EVENT_READ and on_readable and self._is_watched(key):
                    self._call(on_readable, key)
                if ready & selectors.EVENT_WRITE and on_writable and self._is_watched(key):
                    self._call(on_writable, key)
            now = self.now()
            while self._timers and self._timers[0][0] <= now:
                callback = self._pop().callback
                if callback is not None:
                    self._call(callback)

    def _call(self, callback: Callback, key: Optional[selectors.SelectorKey] = None) -> None:
        try:
            callback()
        except OSError:
            import traceback  # costs time and memory at every start otherwise

            traceback.print_exc(file=sys.stderr)
            if key is not None and self._is_watched(key):
                self.forget(key.fd)
                self._resting[key.fd] = key.data
                self.after(_REST_S, lambda: self._wake(key))

    def _wake(self, key: selectors.SelectorKey) -> None:
        if key.fd in self._resting and self._resting[key.fd] is key.data:
            on_readable, on_writable = key.data
            self.watch(key.fd, on_readable, on_writable)

    def _wait_s(self) -> Optional[float]:
        while self._timers and self._timers[0][2].callback is None:
            self._pop()
        if not self._timers:
            return None  # nobody counts time
        due: float = self._timers[0][0]
        return min(max(0.0, due - self.now()), _LONGEST_WAIT_WITH_TIMERS_S)

    def _notice_standstill(self, late_s: float) -> None:
        # A sandbox that is full of busy processes makes us late, too; those may not stretch their time limits.
        still_s = late_s - self._effort.since_look_s()
        if still_s > _STANDSTILL_S:
            self._stood_still_s += still_s

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


class _Effort:
    """How long this process ran or wanted to run since somebody looked. 0 where the kernel does not count it."""

    _LOOK_INTERVAL_S = 0.25

    def __init__(self) -> None:
        self._before_s = 0.0
        self._looked = 0.0
        try:
            self._fd = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def look(self) -> None:
        """Begins to count. Cheap: it asks the kernel four times a second at most."""
        now = time.monotonic()
        if now - self._looked > self._LOOK_INTERVAL_S:
            self._looked = now
            self._before_s = self._read_s()

    def since_look_s(self) -> float:
        return self._read_s() - self._before_s

    def _read_s(self) -> float:
        if self._fd < 0:
            return 0.0
        running_ns, waiting_ns = os.pread(self._fd, 100, 0).split()[:2]
        return (int(running_ns) + int(waiting_ns)) / 1e9
