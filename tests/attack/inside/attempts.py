"""How programs in the sandbox try things: each attempt in a process of its own, its outcome one line of JSON.

Standard library only; runs as the agent. Raw system calls go by number, for two architectures.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
_IS_ARM = platform.machine() == "aarch64"
_WAIT_S = 5.0
_NUMBERS = {  # x86_64, aarch64; None: not there
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "uselib": (134, None),
    "vhangup": (153, 58),
}


class Absent(Exception):
    """This architecture has no such call."""


def call(name: str, *arguments: Any) -> int:
    """A raw system call. Raises `OSError` as the kernel answers."""
    number = _NUMBERS[name][1 if _IS_ARM else 0]
    if number is None:
        raise Absent
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(LIBC.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def say(tried: str, got: object) -> None:
    """Reports an attempt."""
    sys.stdout.write(json.dumps({"tried": tried, "got": str(got)}) + "\n")
    sys.stdout.flush()


def attempt(tried: str, action: Callable[..., Any], *arguments: Any) -> None:
    """Reports what `action` comes to in a child of its own: an error's name, `succeeded`, a signal, or `hangs`."""
    say(tried, _outcome(lambda: action(*arguments)))


def _outcome(action: Callable[[], Any]) -> str:
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, _came_to(action).encode()[:4000])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], _WAIT_S)
    answer = os.read(reader, 4096).decode() if ready else ""
    os.close(reader)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer:
        return answer
    if not ready:
        return "hangs"
    return f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "no answer"


def _came_to(action: Callable[[], Any]) -> str:
    try:
        value = action()
    except Absent:
        return "ENOSYS"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "succeeded" if value is None else f"succeeded: {value}"[:300]
