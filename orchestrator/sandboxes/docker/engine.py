"""Connecting to an engine: the SDK's client, with the one fault mended that a server cannot live with."""

from __future__ import annotations

import socket
from typing import Any

import docker
from docker.transport import unixconn


class _Connection(unixconn.UnixHTTPConnection):  # type: ignore[misc]  # the SDK has no types
    """The SDK leaves the socket of a connect that failed to the collector: a server that waits for its engine would
    gather them.
    """

    sock: Any

    def connect(self) -> None:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(self.timeout)
            connecting.connect(self.unix_socket)
        except BaseException:
            connecting.close()
            raise
        self.sock = connecting


# The SDK's connection pool has no other place for it: it takes the class by this name.
unixconn.UnixHTTPConnection = _Connection


def connect(engine_url: str, timeout_s: int, connections: int) -> docker.DockerClient:
    """A client of the engine, in the newest version of its API that both know. Raises what the SDK raises."""
    return docker.DockerClient(base_url=engine_url, version="auto", timeout=timeout_s, max_pool_size=connections)
