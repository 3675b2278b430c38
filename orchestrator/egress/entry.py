"""Where connections come out of a sandbox: the first byte says which protocol one speaks. Imports `gate` and both."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from orchestrator.egress import proxy, socks
from orchestrator.egress.crossing import Channel, Client, patient
from orchestrator.egress.gate import Gate
from orchestrator.errors import CorralError

_SOCKS = 5


class Entry:
    """To one gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @property
    def has_room(self) -> bool:
        """Whether the next connection is served, and not turned away."""
        return self.gate.has_room

    @property
    def unreached_count(self) -> int:
        """How many connections did not come about until now."""
        return self.gate.unreached_count

    def unreached_since(self, count: int) -> Sequence[str]:
        """Whom programs did not reach, and why, since there were `count`; the last few if there are many."""
        new = self.gate.unreached_count - count
        return list(self.gate.unreached)[-new:] if new > 0 else []

    async def serve(self, channel: Channel) -> None:
        """Serves one connection of a program to its end, or turns it away if there are too many; closes it.

        Whatever breaks is told by the gate; here the connection only ends.
        """
        client = Client(channel)
        limits = self.gate.limits
        try:
            with self.gate.admitted() as is_admitted, contextlib.suppress(CorralError, OSError):
                if not is_admitted:
                    await proxy.turn_away(client, f"more than {limits.connections} connections at once")
                    return
                async with patient(limits.header_timeout_s):
                    first = await client.read()
                client.unread(first)
                if first and first[0] == _SOCKS:
                    await socks.serve(self.gate, client)
                elif first:
                    await proxy.serve(self.gate, client)
        finally:
            channel.close()
