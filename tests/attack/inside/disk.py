"""Filling every place that can be written (R3). Run with the name of the attack, and a folder."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time

from tests.attack.inside.attempts import say

_PIECE = b"\xa5" * (4 << 20)
_TIMEOUT_S = 5.0


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def written(folder: str) -> str:
    """Bytes that hold something, until there is no room."""
    path, total = f"{folder}/fill", 0
    try:
        with open(path, "wb", buffering=0) as file:
            while total < 3 << 30:
                total += file.write(_PIECE)
    except OSError as error:
        return f"{name_of(error)} after {total >> 20} MiB"
    return f"{total >> 20} MiB, no end"


def allocated(folder: str) -> str:
    """Room that is taken without writing."""
    total = 0
    try:
        for number in range(1000):
            with open(f"{folder}/room{number}", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 256 << 20)
            total += 256
    except OSError as error:
        return f"{name_of(error)} after {total} MiB"
    return f"{total} MiB, no end"


def holes(folder: str) -> str:
    """Files that are larger than any disk, with a byte here and there."""
    total = 0
    try:
        for number in range(16):
            with open(f"{folder}/hole{number}", "wb", buffering=0) as file:
                for offset in range(0, 15 << 40, 1 << 40):
                    file.seek(offset)
                    file.write(b"x")
                    total += 1
    except OSError as error:
        return f"{name_of(error)} after {total} bytes with terabytes between"
    return f"{total} bytes with terabytes between"


def small_files(folder: str) -> str:
    """Files, folders and links until none can be made."""
    count, deadline = 0, time.monotonic() + _TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            at = f"{folder}/many{count}"
            os.mkdir(at)
            for number in range(500):
                os.close(os.open(f"{at}/{number}", os.O_CREAT | os.O_WRONLY))
                os.symlink("x" * 200, f"{at}/link{number}")
                count += 2
    except OSError as error:
        return f"{name_of(error)} after {count} files"
    return f"{count} files in {_TIMEOUT_S:.0f} s, no end"


def long_folder(folder: str) -> str:
    """One folder with long names, whose own size is what fills the disk."""
    os.makedirs(f"{folder}/long", exist_ok=True)
    os.close(os.open(f"{folder}/long/0", os.O_CREAT))
    count, deadline = 0, time.monotonic() + _TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            count += 1
            os.link(f"{folder}/long/0", f"{folder}/long/{count:0250d}")
    except OSError as error:
        return f"{name_of(error)} after {count} names"
    return f"{count} names in {_TIMEOUT_S:.0f} s, no end"


def attributes(folder: str) -> str:
    """Extended attributes, which no size shows."""
    count, deadline = 0, time.monotonic() + _TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            path = f"{folder}/attributed{count}"
            os.close(os.open(path, os.O_CREAT))
            os.setxattr(path, "user.fill", b"x" * 900)
            count += 1
    except OSError as error:
        return f"{name_of(error)} after {count} attributes"
    return f"{count} attributes in {_TIMEOUT_S:.0f} s, no end"


ATTACKS = {each.__name__: each for each in (written, allocated, holes, small_files, long_folder, attributes)}


def clean(folder: str) -> None:
    for name in os.listdir(folder):
        if name.startswith(("fill", "room", "hole", "many", "long", "attributed")):
            path = f"{folder}/{name}"
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


if __name__ == "__main__":
    attack, folder = sys.argv[1:3]
    if attack == "clean":
        clean(folder)
        say(f"clean {folder}", "done")
    else:
        clean(folder)
        got = ATTACKS[attack](folder)
        say(f"{attack} in {folder}", got)
        sys.exit(28 if got.startswith("E") else 0)
