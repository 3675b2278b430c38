"""What feeds programs and connections without ever blocking."""

from __future__ import annotations

import os

from orchestrator.guest.processes import InputPipe
from orchestrator.guest.reactor import Reactor


def test_who_is_told_of_what_went_in_may_close_it() -> None:
    """So it is when the link breaks while credit is given: the guest must outlive that."""
    reader, writer = os.pipe()
    taken: list[int] = []

    def on_taken(count: int) -> None:
        taken.append(count)
        pipe.close()

    pipe = InputPipe(Reactor(), writer, on_taken)
    pipe.feed(b"hello")
    assert os.read(reader, 10) == b"hello"
    assert os.read(reader, 10) == b""
    pipe.feed(b"more")
    assert taken == [5, 4]
    os.close(reader)
