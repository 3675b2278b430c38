"""From what an agent's sandbox may take to what the driver is asked for. Pure."""

from __future__ import annotations

from orchestrator.policy.bounds import Bounds
from orchestrator.sandboxes.driver import Profile, Resources


class Profiles:
    """The profiles of one server: its image, and the bounds that hold where an agent says nothing."""

    def __init__(self, image: str, defaults: Bounds) -> None:
        self._image = image
        self._defaults = defaults
        self.default = self._profile(defaults)

    def of(self, bounds: Bounds) -> Profile | None:
        """The profile of an agent with `bounds`; None if it asks for nothing, so that the server's own holds."""
        return self._profile(bounds.over(self._defaults)) if bounds.shapes_sandbox else None

    def _profile(self, bounds: Bounds) -> Profile:
        plain = Resources()
        resources = Resources(
            memory_bytes=bounds.memory_bytes or plain.memory_bytes,
            cpus=bounds.cpus or plain.cpus,
            pids=bounds.pids_or_default,
            open_files=bounds.open_files or plain.open_files,
            disk_bytes=bounds.disk_bytes or plain.disk_bytes,
        )
        return Profile(self._image, resources, bounds.runtime or "")
