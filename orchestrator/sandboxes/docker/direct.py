"""The short way to a guest: from this process to the Unix socket that it listens on, through its container's root.

The engine carries nothing then: no attached stream, no exec, no copies in between. Only for root beside the engine, and
for containers that are processes of this kernel; everything else takes a bridge. What is inside is hostile: the path is
walked in the container's own root and no link in it is followed.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import ExitStack

from orchestrator.errors import SandboxGone
from orchestrator.sandboxes.engine_host import reason_to_stay_out

_FOLDERS = ("run", "corral")
_SOCKET = "guest.sock"
"""Below the folders: where the guest's `main` listens, and who is not root cannot look."""
_DIRECT = b"\1"
"""The first byte tells the guest that the link itself follows; a bridge sends another."""
_RUNTIMES = {"runc", "crun", "oci", "io.containerd.runc.v2"}
"""gVisor and Kata have kernels of their own, with sockets of their own."""
_WAIT_FOR_GUEST_S = 10.0
_RETRY_S = 0.001


def is_possible(engine_url: str) -> bool:
    """Whether this process is root beside the engine."""
    return not reason_to_stay_out(engine_url, "pid")


def shares_kernel(runtime: str) -> bool:
    """Whether containers of that runtime are processes of this kernel."""
    return runtime in _RUNTIMES


def connect(pid: int, container_id: str) -> socket.socket:
    """A link to the guest of the container whose process `pid` is; one that still starts is waited for. Blocks.

    Raises:
        SandboxGone: the container has ended, has no guest, or `pid` is another's. PermissionError: something on this
            machine forbids this way.
    """
    give_up_at = time.monotonic() + _WAIT_FOR_GUEST_S
    with ExitStack() as held:
        try:
            # From here on the number may be another's: this names the process for good.
            process = _hold(held, f"/proc/{pid}", None)
            _check(process, container_id)
            root = _hold(held, "root", process)
            while True:
                try:
                    return _connect(root, os.fstat(process).st_uid)
                except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
                    if time.monotonic() > give_up_at:
                        raise SandboxGone("the guest did not start in time") from error
                time.sleep(_RETRY_S)
                _check(process, container_id)
        except PermissionError:
            raise
        except OSError as error:
            raise SandboxGone(f"the sandbox ended, or has no guest: {error.strerror}") from error


def _check(process: int, container_id: str) -> None:
    file = os.open("cgroup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        groups = os.read(file, 65536).decode(errors="replace")
    finally:
        os.close(file)
    if container_id not in groups:
        raise SandboxGone("the sandbox has ended")


def _connect(root: int, owner: int) -> socket.socket:
    with ExitStack() as held:
        folder = root
        for name in _FOLDERS:
            folder = _hold(held, name, folder, os.O_NOFOLLOW)
        place = os.open(_SOCKET, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        held.callback(os.close, place)
        found = os.fstat(place)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != owner:
            raise SandboxGone("what is in the place of the guest's socket is none")
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as failing:
            failing.callback(link.close)
            link.setblocking(False)
            link.connect(f"/proc/self/fd/{place}")
            link.send(_DIRECT)
            failing.pop_all()
        return link


def _hold(held: ExitStack, name: str, within: int | None, flags: int = 0) -> int:
    folder = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=within)
    held.callback(os.close, folder)
    return folder
