"""The Docker driver: Docker Engine 20.10 or newer, and Podman's compatible socket.

The only place that imports the SDK.
"""

# ruff: noqa: E402 - what is not to be imported is said before anything is

import sys

# The SDK imports paramiko for a way over SSH that nobody takes here (`dialing.py` has its own): a sixth of the server's
# start. None is Python's word for a module that cannot be imported; the SDK goes on without that way.
sys.modules.setdefault("docker.transport.sshconn", None)  # type: ignore[arg-type]  # typeshed knows modules only

from orchestrator.sandboxes.docker.container import GUEST_LABEL, INSTANCE_LABEL, SANDBOX_LABEL
from orchestrator.sandboxes.docker.dialing import Tls
from orchestrator.sandboxes.docker.driver import DockerDriver

__all__ = ["GUEST_LABEL", "INSTANCE_LABEL", "SANDBOX_LABEL", "DockerDriver", "Tls"]
