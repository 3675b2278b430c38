"""A server that dies where it is told to: `python -m tests.crash.server MARKS [--die-at NAME:K] [--sandboxes FOLDER]`.

In all else `corral serve`, with settings as variables; with a folder of sandboxes they are plain processes. MARKS is a
file of counters that outlives the process, shared with whoever started it.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
from pathlib import Path

from orchestrator import app, moments
from orchestrator.config import Settings
from tests.fakes.local_driver import IMAGE, LocalDriver

_NUMBER_BYTES = 4


class Marks:
    """How often each moment was passed, and at which one the process ended itself. Made by whoever reads it first."""

    def __init__(self, file: Path) -> None:
        size = (len(moments.ALL) + 1) * _NUMBER_BYTES
        if not file.exists():
            file.write_bytes(bytes(size))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), size)
        self._numbers = memoryview(self._memory).cast("I")
        self._place = {name: at for at, name in enumerate(moments.ALL, start=1)}

    def close(self) -> None:
        self._numbers.release()
        self._memory.close()

    @property
    def passed(self) -> dict[str, int]:
        """Passings of each moment by all servers so far."""
        return {name: self._numbers[at] for name, at in self._place.items()}

    def take_death(self) -> str:
        """The moment at which a server ended itself since the last time; empty if none did."""
        at, self._numbers[0] = self._numbers[0], 0
        return moments.ALL[at - 1] if at else ""

    def arm(self, name: str, passing: int) -> None:
        """From here on this process counts, and ends itself when `name` is passed the `passing`th time."""
        numbers, place, left = self._numbers, self._place, passing

        def pass_by(moment: moments.Moment) -> None:
            nonlocal left
            numbers[place[moment]] += 1
            if moment == name:
                left -= 1
                if left == 0:
                    numbers[0] = place[moment]
                    os.kill(os.getpid(), signal.SIGKILL)

        moments.watch(pass_by)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("marks", type=Path)
    parser.add_argument("--die-at", default=":0")
    parser.add_argument("--sandboxes", type=Path)
    chosen = parser.parse_args()
    name, _, passing = chosen.die_at.partition(":")
    Marks(chosen.marks).arm(name, int(passing))
    if chosen.sandboxes is None:
        app.serve(Settings.load())
        return
    root: Path = chosen.sandboxes
    app._docker = lambda _settings: LocalDriver(root)  # type: ignore[assignment]
    app.serve(Settings.load(image=IMAGE, sandbox_network="none"))


if __name__ == "__main__":
    main()
