"""HTTP as programs speak it to a proxy: `CONNECT` for tunnels, whole addresses for plain requests. Imports `exchanges`.

A request is read whole, strictly, and written anew: what goes out is what was judged, so that two servers cannot
understand the same bytes in two ways.
"""

from __future__ import annotations

import re

import h11

from orchestrator.egress.crossing import Client
from orchestrator.egress.exchanges import BadRequest, Exchanges, plain_answer
from orchestrator.egress.gate import Denied, Gate
from orchestrator.egress.heads import Target
from orchestrator.errors import NetworkError
from orchestrator.policy.urls import UrlProblem, parse_authority

_TARGET = re.compile(r"http://([^/?#]*)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
_HTTP_PORT = 80
_REASON_CHARS = 300


async def serve(gate: Gate, client: Client) -> None:
    """One connection to its end: any number of plain requests, or a tunnel. Raises what breaks it."""
    exchanges = Exchanges(gate, client, locate)
    tunnel = await exchanges.serve()
    if tunnel is not None:
        await _tunnel(gate, client, tunnel)


async def turn_away(client: Client, reason: str) -> None:
    """Answers whoever comes, without having read anything."""
    await client.write(plain_answer(503, reason, {"Retry-After": "1"}))
    client.end()


def locate(request: h11.Request) -> Target:
    """Whom a plain request is for. Raises `BadRequest`."""
    text = request.target.decode("ascii")
    if text.lower().startswith("https://"):
        raise BadRequest("ask for https:// with CONNECT")
    found = _TARGET.fullmatch(text)
    if found is None:
        raise BadRequest("this is a proxy: a request names the whole address, http://host/path")
    try:
        host, port = parse_authority(found[1], _HTTP_PORT)
        named = [value for name, value in request.headers if name == b"host"]
        if named and parse_authority(named[0].decode("ascii", "replace"), _HTTP_PORT) != (host, port):
            raise BadRequest("its Host is not the one of its address")
    except UrlProblem as error:
        raise BadRequest(f"its address cannot be read: {error}") from None
    return Target(host, port, found[2] or "/", found[3] or "")


async def _tunnel(gate: Gate, client: Client, request: h11.Request) -> None:
    try:
        host, port = parse_authority(request.target.decode("ascii"), None)
    except UrlProblem as error:
        await _refuse(client, 400, f"the target of CONNECT cannot be read: {error}")
        return
    with gate.crossing("connect", host, port, client) as crossing:
        is_open = False
        try:
            allowed = gate.judge(host, port)
            if (interceptor := await gate.needs_reading(allowed)) is not None:
                is_open = True
                await _open(client)
                await interceptor.serve(gate, client, crossing, allowed)
                return
            async with gate.connected(crossing, allowed, client) as outside:
                is_open = True
                await _open(client)
                await gate.tunnel(crossing, allowed, client, outside)
        except NetworkError as error:
            if not is_open:
                await _refuse(client, 403 if isinstance(error, Denied) else 502, error.message)
            raise


async def _open(client: Client) -> None:
    await client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")


async def _refuse(client: Client, status: int, reason: str) -> None:
    """The status line says it, too: of what is wrong with a tunnel, programs show nothing else."""
    await client.write(plain_answer(status, reason, {}, phrase=f"corral: {reason}"[:_REASON_CHARS]))
    client.end()
