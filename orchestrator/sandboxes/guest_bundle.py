"""The guest program as data: its files and the digest by which an image says which guest it carries.

Reads the source files of `orchestrator/guest`; imports nothing of the house. The image build and the drivers use it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

GUEST_DIR = Path(__file__).resolve().parent.parent / "guest"


def files() -> dict[str, bytes]:
    """The guest's modules, and what it gives to programs: file name to content. Reads the disk at every call."""
    return {path.name: path.read_bytes() for path in sorted((*GUEST_DIR.glob("*.py"), *GUEST_DIR.glob("*.js")))}


def archive() -> bytes:
    """A tar of the guest, to be unpacked in `/opt`."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files().items():
            member = tarfile.TarInfo(f"corral/guest/{name}")
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def digest() -> str:
    """16 hex digits over names and contents of the guest's files: equal if and only if the guest is the same."""
    total = hashlib.sha256()
    for name, content in files().items():
        # Lengths first, so that no two sets of files run together into the same bytes.
        total.update(f"{len(name)}:{name}:{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()[:16]
