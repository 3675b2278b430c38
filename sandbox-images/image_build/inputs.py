"""What an image is made from, as files and as digests. Reads the image's folder and the guest; touches no engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sandboxes import guest_bundle

GUEST_RECIPE = "guest.Dockerfile"
REQUIREMENTS = "requirements.txt"
DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that goes into one image, read at one moment."""

    name: str
    tools: Mapping[str, bytes]
    """The image's folder without the guest's recipe: relative name to content."""
    guest_recipe: bytes
    guest: Mapping[str, bytes]
    guest_digest: str

    @property
    def tools_tag(self) -> str:
        """The image without the guest. Depends on `tools` alone, so that a change of the guest leaves it as it is."""
        return f"corral/{self.name}-tools:{digest(self.tools)}"

    @property
    def image_tag(self) -> str:
        """The finished image. Depends on all inputs."""
        parts = {f"tools/{name}": content for name, content in self.tools.items()}
        parts |= {f"guest/{name}": content for name, content in self.guest.items()}
        return f"corral/{self.name}:{digest(parts | {GUEST_RECIPE: self.guest_recipe})}"

    @property
    def latest_tag(self) -> str:
        """The name that sandboxes are made from."""
        return f"corral/{self.name}:latest"


def read(folder: Path) -> Inputs:
    """The inputs of the image in `folder`, which gives the image its name."""
    tools = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return Inputs(
        name=folder.name,
        guest_recipe=tools.pop(GUEST_RECIPE),
        tools=tools,
        guest=guest_bundle.files(),
        guest_digest=guest_bundle.digest(),
    )


def digest(parts: Mapping[str, bytes]) -> str:
    """`DIGEST_CHARS` hex digits over names and contents, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(parts):
        total.update(f"{len(name)}:{name}:{len(parts[name])}:".encode())
        total.update(parts[name])
    return total.hexdigest()[:DIGEST_CHARS]
