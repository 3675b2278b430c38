"""SOCKS 5 without passwords: connections to names and addresses, and nothing else of it. Imports `gate`.

Names are resolved here, after they were judged (`socks5h` in addresses of proxies).
"""

from __future__ import annotations

import ipaddress

from orchestrator.egress.crossing import Client, patient
from orchestrator.egress.gate import Denied, Gate
from orchestrator.errors import NetworkError

_VERSION, _NO_PASSWORD, _NONE_FITS = 5, 0, 0xFF
_CONNECT = 1
_V4, _NAME, _V6 = 1, 3, 4
_DONE, _FAILED, _REFUSED, _UNREACHABLE, _NO_SUCH_COMMAND, _NO_SUCH_ADDRESS = 0, 1, 2, 4, 7, 8


async def serve(gate: Gate, client: Client) -> None:
    """One connection to its end. Raises `NetworkError`, `CorralError` or `OSError` when it breaks."""
    async with patient(gate.limits.header_timeout_s):
        _, count = await client.read_exactly(2)
        if _NO_PASSWORD not in await client.read_exactly(count):
            await client.write(bytes((_VERSION, _NONE_FITS)))
            return
        await client.write(bytes((_VERSION, _NO_PASSWORD)))
        version, command, _, kind = await client.read_exactly(4)
        if version != _VERSION:
            return
        if (host := await _host(client, kind)) is None:
            await _answer(client, _NO_SUCH_ADDRESS)
            return
        port = int.from_bytes(await client.read_exactly(2), "big")
    if command != _CONNECT:
        await _answer(client, _NO_SUCH_COMMAND)
        return
    with gate.crossing("socks", host, port, client) as crossing:
        is_open = False
        try:
            allowed = gate.judge(host, port)
            crossing.host = allowed.host
            if (interceptor := await gate.needs_reading(allowed)) is not None:
                is_open = True
                await _answer(client, _DONE)
                await interceptor.serve(gate, client, crossing, allowed)
                return
            async with gate.connected(crossing, allowed, client) as outside:
                is_open = True
                await _answer(client, _DONE)
                await gate.tunnel(crossing, allowed, client, outside)
        except NetworkError as error:
            if not is_open:
                await _answer(client, _REFUSED if isinstance(error, Denied) else _UNREACHABLE)
            raise


async def _host(client: Client, kind: int) -> str | None:
    if kind == _V4:
        return str(ipaddress.IPv4Address(await client.read_exactly(4)))
    if kind == _V6:
        return str(ipaddress.IPv6Address(await client.read_exactly(16)))
    if kind == _NAME:
        (size,) = await client.read_exactly(1)
        # What is no ASCII is no name either; the judge says so.
        return (await client.read_exactly(size)).decode("latin-1")
    return None


async def _answer(client: Client, code: int) -> None:
    """With an address of no meaning: where the connection comes from is nobody's business inside."""
    await client.write(bytes((_VERSION, code, 0, _V4, 0, 0, 0, 0, 0, 0)))
    if code != _DONE:
        client.end()
