"""Whether this process is on the engine's machine, and what of it both see. Asks the kernel who listens at the engine's
socket; knows nothing of the engine itself.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Literal

_PROBE_TIMEOUT_S = 2.0
_SOCKET_SCHEME = "unix://"


def reason_to_stay_out(engine_url: str, namespace: Literal["mnt", "pid"], *, was_beside: bool | None = None) -> str:
    """Why this process cannot act beside the engine, on its mounts or its processes; empty if it can.

    `was_beside`: what counts while nobody listens at the engine's socket; by default the usual marks of containers.
    """
    if not engine_url.startswith(_SOCKET_SCHEME):
        return "the engine is on another machine"
    if os.geteuid() != 0:
        return "only root can mount disks" if namespace == "mnt" else "only root can reach what runs in containers"
    is_beside = _is_beside(engine_url.removeprefix(_SOCKET_SCHEME), namespace)
    if is_beside is None:
        is_beside = not _is_in_container() if was_beside is None else was_beside
    return "" if is_beside else f"the server, or the engine, runs in a container ({namespace})"


def _is_beside(engine_socket: str, namespace: str) -> bool | None:
    """Whether whoever listens there is in the same such namespace; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(engine_socket)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            # 0: a process that this namespace of processes does not hold.
            return (
                pid != 0
                and Path(f"/proc/{pid}/ns/{namespace}").readlink() == Path(f"/proc/self/ns/{namespace}").readlink()
            )
        except OSError:
            return None


def _is_in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
