"""The Docker driver: Docker Engine 20.10 or newer, and Podman's compatible socket.

The only place that imports the SDK.
"""

from orchestrator.sandboxes.docker.container import GUEST_LABEL, INSTANCE_LABEL, SANDBOX_LABEL
from orchestrator.sandboxes.docker.dialing import Tls
from orchestrator.sandboxes.docker.driver import DockerDriver

__all__ = ["GUEST_LABEL", "INSTANCE_LABEL", "SANDBOX_LABEL", "DockerDriver", "Tls"]
