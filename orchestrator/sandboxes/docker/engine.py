"""The engine behind the SDK: connecting, with one fault of the SDK mended, and its errors as ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.transport import unixconn

from orchestrator.errors import EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed


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


@contextmanager
def translated(engine_url: str, stage: str | None) -> Iterator[None]:
    """Turns what the SDK and its HTTP library raise into our errors."""
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise ImageMissing(_reason(error)) from error
    except docker.errors.NotFound as error:
        if stage == "create" and "image" in _reason(error).lower():
            raise ImageMissing(_reason(error)) from error
        raise SandboxGone(f"the sandbox is not on the engine: {_reason(error)}") from error
    except docker.errors.APIError as error:
        if stage is not None:
            raise SandboxStartFailed(f"the engine refused ({stage}): {_reason(error)}", stage=stage) from error
        if error.status_code == 409:
            raise SandboxGone(_reason(error)) from error
        raise EngineUnavailable(f"the engine failed: {_reason(error)}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineUnavailable(f"the container engine at {engine_url} does not answer: {error}") from error


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)
