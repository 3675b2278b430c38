"""Programs of the host that make and mount file systems, and how a mount is let go. All calls block."""

from __future__ import annotations

import subprocess
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs are looked for."""
_COMMAND_TIMEOUT_S = 300
# Newer mounts would take options by pieces of at most 255 bytes.
_ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C", "LIBMOUNT_FORCE_MOUNT2": "always"}


def run(*argv: str | Path, cwd: Path | None = None) -> None:
    """Runs a program of the host. Raises `OSError` with what it said."""
    command = [str(each) for each in argv]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_COMMAND_TIMEOUT_S, env=_ENVIRONMENT, cwd=cwd)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or f"exit code {error.returncode}"
        raise OSError(f"{command[0]} failed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} did not end within {_COMMAND_TIMEOUT_S} s") from error


def release(at: Path) -> None:
    """Unmounts what is mounted there; nothing if nothing is."""
    if not at.is_mount():
        return
    try:
        run("umount", at)
    except OSError:
        # Somebody's shell stands in it, or a dying process: it goes when they do.
        if at.is_mount():  # else another caller was faster
            run("umount", "--lazy", at)
