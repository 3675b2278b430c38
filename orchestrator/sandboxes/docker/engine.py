"""The engine behind the SDK: connecting, with one fault of the SDK mended and ways of our own to far engines, and its
errors as ours.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import docker
import docker.errors
import requests.exceptions
from docker.transport import unixconn

from orchestrator.errors import EngineUnavailable, ImageMissing, SandboxGone, SandboxStartFailed
from orchestrator.sandboxes.docker.dialing import Dialer


class NameTaken(SandboxStartFailed):
    """Another container has the name: the engine goes on with a creation whose server has ended."""


class _Connection(unixconn.UnixHTTPConnection):  # type: ignore[misc]  # the SDK has no types
    """The SDK leaves the socket of a connect that failed to the collector: a server that waits for its engine would
    gather them.
    """

    sock: Any

    def connect(self) -> None:
        if (dialer := _dialers.get(self.unix_socket)) is not None:
            self.sock = dialer.dial()
            self.sock.settimeout(self.timeout)
            return
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


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself."""

    name: str
    """For people, with its version."""
    runtimes: tuple[str, ...]
    default_runtime: str
    can_freeze: bool
    is_podman: bool
    clock: str | None
    """Its time, as it takes it back."""
    details: dict[str, str]


_dialers: WeakValueDictionary[str, Dialer] = WeakValueDictionary()
"""By what the SDK takes for the path of a socket."""


def connect(engine_url: str, timeout_s: int, connections: int, dialer: Dialer | None = None) -> docker.DockerClient:
    """A client of the engine, in the newest version of its API that both know. Raises what the SDK raises.

    With a `dialer`, which the caller keeps, every connection is one of its own.
    """
    if dialer is not None:
        dialer.check()
        place = f"/dialed/{id(dialer)}"
        _dialers[place], engine_url = dialer, f"unix://{place}"
    try:
        return docker.DockerClient(base_url=engine_url, version="auto", timeout=timeout_s, max_pool_size=connections)
    except docker.errors.DockerException as error:
        if isinstance(error.__cause__, EngineUnavailable):
            raise error.__cause__ from None  # the dialer's, which the SDK wraps
        raise


def look_at(client: docker.DockerClient) -> Engine:
    """Raises what the SDK raises."""
    version, info = client.version(), client.info()
    components = version.get("Components") or []
    details = {each["Name"]: each["Version"] for each in components}
    details |= {
        # Distributions put the revision of their package here; their version alone says too little.
        f"{each['Name']}.revision": str((each.get("Details") or {}).get("GitCommit", ""))
        for each in components
    }
    details |= {"cgroup": str(info.get("CgroupVersion", "1")), "storage": str(info.get("Driver", ""))}
    is_podman = "Podman Engine" in details
    name = "Podman" if is_podman else (version.get("Platform") or {}).get("Name") or "Docker Engine"
    return Engine(
        f"{name} {version['Version']}",
        tuple(sorted(info.get("Runtimes") or {})),
        str(info.get("DefaultRuntime") or ""),
        # One of an ordinary user, without control groups, has nothing to freeze processes with.
        is_podman=is_podman,
        can_freeze=info.get("CgroupDriver") != "none",
        clock=_unix_time(info.get("SystemTime")),
        details=details,
    )


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
        # Podman has no status of its own for it.
        if stage == "create" and (error.status_code == 409 or "already in use" in _reason(error)):
            raise NameTaken(f"the engine refused ({stage}): {_reason(error)}", stage=stage) from error
        if stage is not None:
            raise SandboxStartFailed(f"the engine refused ({stage}): {_reason(error)}", stage=stage) from error
        if error.status_code == 409:
            raise SandboxGone(_reason(error)) from error
        raise EngineUnavailable(f"the engine failed: {_reason(error)}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineUnavailable(f"the container engine at {engine_url} does not answer: {error}") from error


def _unix_time(system_time: str | None) -> str | None:
    """As the engine takes it: what it gives itself as the time, it ends its event stream upon."""
    return None if system_time is None else f"{datetime.fromisoformat(system_time).timestamp():.6f}"


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)
