"""The HTTP server: uvicorn, told to end open streams first. Without that an open stream blocks the shutdown
(measured: still up after 8 s; with it gone in 0.12 s)."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_GRACE_S = 1
"""What requests have to end in; after that they are answered that the server stops."""
_NO_FAULTS = (
    "ASGI callable returned without completing handshake.",
    "ASGI callable returned without completing response.",
    "Cancel %s running task(s)",
)
_BACKLOG = 2048
_SOCKET_MESSAGE_LIMIT_BYTES = 1 << 20
_SEND_BUFFER_BYTES = 128 * 1024
"""Per connection: what was sent and is not acknowledged yet. The kernel takes up to twice that, not 1.6 MiB."""
_UNSENT_BYTES = 16 * 1024
"""Of it, what the other end has no room for: 1,000 readers that do not read cost some 16 MB of kernel memory."""
_FILES = 65_536
"""A connection is an open file, and shells and systemd start a process with 1,024 and the right to more."""


def _is_fault(record: logging.LogRecord) -> bool:
    """uvicorn 0.54 takes for mistakes what is none: every WebSocket that is answered with an error body, downloads
    that break inside, and requests that are cut off when the server ends.
    """
    is_cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cut and not str(record.msg).startswith(_NO_FAULTS)


class _Connection(HttpToolsProtocol):
    """Waits as soon as the kernel does not take all at once: else 64 KiB more are queued before uvicorn waits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)


class Server(uvicorn.Server):
    """Serves one application on a socket that is bound already."""

    def __init__(self, app: FastAPI, stop: Callable[[], None]) -> None:
        """`stop` is called when it is told to end, before it waits for anything: it ends the streams."""
        config = uvicorn.Config(
            app,
            loop="none",
            http=_Connection,
            ws="websockets-sansio",
            ws_max_size=_SOCKET_MESSAGE_LIMIT_BYTES,
            # Pings keep idle connections known on their way. Answers cannot be asked for: who writes to a program that
            # does not read is not read from either.
            ws_ping_interval=20,
            ws_ping_timeout=None,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="warning",  # else each WebSocket is logged with its query, and the key that may be in it
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
        self._stop = stop

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OSError` if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit both.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    try:
        listening.bind((host, port))
        # From now on callers wait instead of being refused; uvicorn takes their connections when it is ready.
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
