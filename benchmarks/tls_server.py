"""A web server over TLS as a process of its own: small answers and large ones. Run as `python -m benchmarks.tls_server
FOLDER`, with the authority that signs for it in FOLDER; it says its port and lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority

NAME = "site.bench"
AUTHORITY = "authority"
_HOST = "127.0.0.1"
_SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_PIECE = bytes(256 << 10)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if not path.startswith("/large/"):
                writer.write(_SMALL)
                continue
            pieces = int(path.removeprefix("/large/")) // len(_PIECE)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {pieces * len(_PIECE)}\r\n\r\n".encode())
            for _ in range(pieces):
                writer.write(_PIECE)
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def _main(folder: Path) -> None:
    authority = Authority.open(folder / AUTHORITY, SystemClock())
    server = await asyncio.start_server(_serve, _HOST, 0, ssl=await authority.context(NAME), backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1])))
