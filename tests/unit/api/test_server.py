"""The listening socket."""

from __future__ import annotations

import socket

from orchestrator.api.server import bind


def test_callers_are_taken_in_as_soon_as_the_address_is_known() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), timeout=1) as caller:
        assert caller.getpeername() == listening.getsockname()
