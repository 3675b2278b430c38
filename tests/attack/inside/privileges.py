"""Becoming somebody else (E2): set-id bits, file capabilities, programs that hold them, calls that raise them."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
import subprocess
import sys

from tests.attack.inside.attempts import LIBC, attempt, say

_CAPABILITY = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
_DOORS = ("sudo", "su", "pkexec", "doas", "newgrp", "newuidmap", "mount", "fusermount3", "passwd", "chsh", "ping")


def prctl(option: int, *arguments: int) -> int:
    result = int(LIBC.prctl(option, *[ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]))
    if result < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return result


def rooted(path: str) -> str:
    """Runs a program that should give root, and says what it gives; refused means: nothing."""
    shown = subprocess.run(
        [path, "-p", "-c", "id -u; id -g; grep Cap /proc/self/status"], capture_output=True, text=True, check=False
    )
    ids = shown.stdout.split()[:2]
    gained = [line for line in shown.stdout.splitlines() if line.startswith("Cap") and int(line.split()[1], 16)]
    if shown.returncode == 0 and ("0" in ids or gained):
        return f"ids {ids}, {gained}"
    raise PermissionError(1, "inert")


def own_setuid(mode: int) -> str:
    path = "/home/agent/rootsh"
    shutil.copyfile("/bin/bash", path)
    os.chmod(path, mode)
    return rooted(path)


def given_away() -> str:
    path = "/home/agent/rootsh2"
    shutil.copyfile("/bin/bash", path)
    os.chmod(path, 0o4755)
    os.chown(path, 0, 0)
    return rooted(path)


def file_capability() -> str:
    path = "/home/agent/capsh"
    shutil.copyfile("/bin/bash", path)
    os.chmod(path, 0o755)
    os.setxattr(path, "security.capability", _CAPABILITY)
    return rooted(path)


def door(name: str) -> str:
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/polkit-1")
    if path is None:
        raise FileNotFoundError(2, name)
    if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
        return "it has set-id bits"
    shown = subprocess.run(
        [path, "-c", "id -u", "root"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if shown.stdout.strip() == "0":
        return "root"
    raise PermissionError(1, "without set-id bits")


def marked_files() -> list[str]:
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and (
                    status.st_mode & (stat.S_ISUID | stat.S_ISGID) or "security.capability" in os.listxattr(path)
                ):
                    found.append(path)
            except OSError:
                continue
    return found


def _capset() -> None:
    header = struct.pack("<Ii", 0x20080522, 0)
    if LIBC.capset(header, struct.pack("<IIIIII", *([0xFFFFFFFF] * 6))) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _as_root_of_files() -> None:
    LIBC.setfsuid(0)
    os.open("/etc/shadow", os.O_RDONLY)


if __name__ == "__main__":
    given = sys.argv[1:]
    for path in given:
        say(f"{path} of the image", oct(os.stat(path).st_mode))
        attempt(f"run {path} of the image", rooted, path)
    if not given:
        found = marked_files()
        say("set-id bits and capabilities in the image", f"succeeded: {found}" if found else "none")
    attempt("own set-uid shell", lambda: own_setuid(0o4755))
    attempt("own set-gid shell", lambda: own_setuid(0o2755))
    attempt("set-uid shell given to root", given_away)
    attempt("shell with file capabilities", file_capability)
    for name in _DOORS:
        attempt(f"{name} to root", door, name)
    attempt("setuid(0)", lambda: os.setuid(0))
    attempt("setresuid(0, 0, 0)", lambda: os.setresuid(0, 0, 0))
    attempt("setgid(0)", lambda: os.setgid(0))
    attempt("setgroups([0])", lambda: os.setgroups([0]))
    attempt("setfsuid(0), then read /etc/shadow", _as_root_of_files)
    attempt("capset(all)", _capset)
    attempt("prctl(raise an ambient capability)", lambda: prctl(47, 2, 21))
    attempt("prctl(clear no_new_privs)", lambda: prctl(38, 0))
    attempt("prctl(SECUREBITS)", lambda: prctl(28, 1))
    attempt("prctl(SET_MM exe file)", lambda: prctl(35, 13, os.open("/bin/sh", os.O_RDONLY)))
