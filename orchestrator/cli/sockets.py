"""WebSockets of the command line: the server's address, the key, and refusals as people need them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from orchestrator.cli.client import Api, RequestFailed, StreamBroken, refused

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_OPEN_TIMEOUT_S = 180.0
"""The sandbox may have to be started first."""
_CLOSE_TIMEOUT_S = 2.0


@asynccontextmanager
async def open_socket(
    api: Api, path: str, parameters: Mapping[str, str | int | Sequence[str]] | None = None
) -> AsyncIterator[ClientConnection]:
    """A WebSocket to `path` of the server.

    Raises:
        RequestFailed: no server answers, or it refuses. StreamBroken: the connection was lost later.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

    query = urlencode(parameters or {}, doseq=True)
    # http becomes ws, https becomes wss.
    address = f"ws{api.url.removeprefix('http')}{path}{'?' if query else ''}{query}"
    opening = connect(
        address,
        additional_headers=api.headers,
        compression=None,
        proxy=True if api.uses_proxies(api.url) else None,
        open_timeout=_OPEN_TIMEOUT_S,
        close_timeout=_CLOSE_TIMEOUT_S,
        # A server that waits for the sandbox to take what was sent does not answer pings.
        ping_timeout=None,
        max_size=None,
    )
    try:
        socket = await opening
    except InvalidStatus as error:
        response = error.response
        raise refused(api.url, response.status_code, response.reason_phrase, bytes(response.body or b"")) from None
    except (OSError, WebSocketException, ValueError) as error:
        raise RequestFailed(f"no server answers at {api.url}: {error}") from error
    async with socket:
        try:
            yield socket
        except ConnectionClosed as error:
            raise StreamBroken(f"the connection to {api.url} was lost: {error}") from error


def last_words(text: str | bytes) -> dict[str, object]:
    """The object of a text frame. Raises `RequestFailed` if it is an error's body, or none at all."""
    try:
        value = json.loads(text)
        if "error" in value:
            raise RequestFailed(f"{value['error']['message']} [{value['error']['code']}]")
        return dict(value)
    except (ValueError, KeyError, TypeError) as error:
        raise RequestFailed(f"the server said something else than this command knows: {error}") from error
