"""Too many connections to the way out (N12): slow ones that never end their request, and ten thousand at once.

Arguments: `slow` or `many`, how many, and for how many seconds.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter

from tests.attack.inside.attempts import say

_HELD_AT_ONCE = 400


def slow(count: int, seconds: float) -> None:
    """A byte of a head now and then, over each."""
    held = []
    for _ in range(count):
        connection = socket.create_connection(_way_out(), 5)
        connection.sendall(b"GET http://site.test/slow HTTP/1.1\r\nHost: site.test\r\nX-Slow: ")
        held.append(connection)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for connection in held:
            try:
                connection.sendall(b"x")
            except OSError:
                pass
        time.sleep(0.5)
    told: Counter[str] = Counter()
    for connection in held:
        connection.setblocking(False)
        try:
            told[connection.recv(32)[9:12].decode() or "closed"] += 1
        except BlockingIOError:
            told["still open"] += 1
        except OSError:
            told["closed"] += 1
        connection.close()
    say(f"{count} requests that are never whole, for {seconds:.0f} s", dict(sorted(told.items(), reverse=True)))


def many(count: int, seconds: float) -> None:
    """One after the other, never closed before there are hundreds."""
    told: Counter[str] = Counter()
    held: list[socket.socket] = []
    end, made = time.monotonic() + seconds, 0
    while made < count and time.monotonic() < end:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        code = connection.connect_ex(_way_out())
        told[os.strerror(code) if code not in (0, 115) else "begun"] += 1
        made += 1
        held.append(connection)
        if len(held) >= _HELD_AT_ONCE:
            held.pop(0).close()
    for connection in held:
        connection.close()
    say(f"{made} connections one after the other", dict(told))


def _way_out() -> tuple[str, int]:
    return "127.0.0.1", int(os.environ["http_proxy"].rpartition(":")[2].strip("/"))


if __name__ == "__main__":
    {"slow": slow, "many": many}[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3]))
