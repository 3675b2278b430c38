"""Systems: the image's own folders with what setup changed in them, an overlay whose changes lie on a sandbox's disk.

So they are bounded by the disk's size, and go with its copies. An overlay can be written where a template is set up,
and nowhere else. All calls block; `disk` is where a disk is mounted.

    <disk>/system/changes   what differs from the image
    <disk>/system/work      the kernel's
    <disk>/system/whole     where image and changes are mounted as one
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import SandboxStartFailed
from orchestrator.sandboxes.mounts import release, run

# Changes are read again above the same layers, but in another mount: nothing in them may say where the layers were.
_OPTIONS = "nodev,nosuid,noatime,index=off,metacopy=off,redirect_dir=off"
_OPTIONS_LIMIT_BYTES = 4000
"""Of the kernel's one page."""
_NOT_THE_SYSTEMS = {"dev", "proc", "run", "sys", "tmp"}
"""Each sandbox has its own, in memory."""


def mount(disk: Path, layers: Sequence[str], *, is_writable: bool) -> None:
    """Mounts the system; nothing if it is. `layers`: the image's, uppermost first, as folders of this machine.

    Raises:
        SandboxStartFailed: stage `setup`; the layers are not known, or too many. OSError: the kernel refuses.
    """
    folders = {name: disk / "system" / name for name in ("changes", "work", "whole")}
    if folders["whole"].is_mount():
        return
    if not layers:
        raise SandboxStartFailed(
            "'setup' needs an engine that keeps images as overlays (overlay2): this one does not say where the "
            "layers of an image are",
            stage="setup",
        )
    for folder in folders.values():
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Relative to where all of them are: the kernel takes one page of options.
    beside = Path(os.path.commonpath([Path(layer).parent for layer in layers]))
    below = [os.path.relpath(layer, beside) for layer in layers]
    if is_writable:
        options = f"lowerdir={':'.join(below)},upperdir={folders['changes']},workdir={folders['work']},{_OPTIONS}"
    else:
        options = f"lowerdir={':'.join([str(folders['changes']), *below])},ro,{_OPTIONS}"
    if len(options) > _OPTIONS_LIMIT_BYTES:
        raise SandboxStartFailed(f"'setup' cannot change an image of {len(layers)} layers: too many", stage="setup")
    run("mount", "-t", "overlay", "-o", options, "overlay", folders["whole"], cwd=beside)


def unmount(disk: Path) -> None:
    """Undoes `mount`; nothing if no system is mounted."""
    release(disk / "system" / "whole")


def folders(disk: Path) -> dict[str, Path]:
    """Path in a sandbox → folder of the mounted system to bind there. No links: they would lead into the host's own."""
    whole = disk / "system" / "whole"
    with os.scandir(whole) as entries:
        names = sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    return {f"/{name}": whole / name for name in names if name not in _NOT_THE_SYSTEMS and ":" not in name}
