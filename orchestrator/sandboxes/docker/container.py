"""What a sandbox's container is made of: labels, the guest's command, every protection that Docker sets. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from docker.types import Ulimit

from orchestrator.sandboxes import seccomp
from orchestrator.sandboxes.docker.storage import GUEST_FOLDER, Placement
from orchestrator.sandboxes.driver import SandboxSpec

INSTANCE_LABEL = "corral.instance"
SANDBOX_LABEL = "corral.sandbox"
READER_LABEL = "corral.reader"
"""Instead of both, on a container that never starts and is only read from: the instance."""
GUEST_LABEL = "corral.guest"
"""On an image: the digest of the guest it carries."""
_SHM_BYTES = 64 << 20
"""At most; together with /tmp a quarter of the memory (design 4.2)."""
_SENTRY_PIDS = 4096
"""Under gVisor the limit counts threads of its kernel, about 60 of them before anything runs; who meets it ends."""
_GUEST_CAPABILITIES = ["SETUID", "SETGID", "KILL", "SETPCAP"]
_SETUP_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"]
"""What installing programs takes beside those. Only where a template is set up."""
# The image's PATH begins with folders that the agent can write to; what runs as root must not be found there.
_SYSTEM_PYTHON = "$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v python3)"
_GUEST_PROGRAM = f"import sys; sys.path[:0] = ['{GUEST_FOLDER}']; from guest.main import main; main()"
GUEST_COMMAND = ["/bin/sh", "-c", f"exec {_SYSTEM_PYTHON} -I -S -c {shlex.quote(_GUEST_PROGRAM)}"]
BRIDGE_COMMAND = [
    "/bin/sh",
    "-c",
    f"exec {_SYSTEM_PYTHON} -I -S {GUEST_FOLDER}/guest/bridge.py /run/corral/guest.sock",
]


def container_config(
    spec: SandboxSpec,
    instance: str,
    placement: Placement,
    host_config: Callable[..., Any],
    *,
    volumes: Sequence[str] = (),
    is_linked: bool = False,
    podman_profile: str = "",
) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`: every protection of the design's section 7 that Docker sets.

    `is_linked`: who creates it attaches to the guest's standard input and output before the start.
    `podman_profile`: the engine is Podman, on this machine, and reads the seccomp profile from there.
    `volumes` are those that the image declares: it gets a little memory there instead.
    """
    resources = spec.resources
    shm_bytes = min(_SHM_BYTES, resources.memory_bytes // 8)
    tmp_bytes = resources.memory_bytes // 4 - shm_bytes
    bound = {bind.split(":")[1] for bind in placement.binds}
    return {
        "image": placement.image,
        "command": guest_command(is_linked=is_linked, is_setup=spec.is_setup),
        "entrypoint": [],
        # An image's own would run as root, every few seconds.
        "healthcheck": {"test": ["NONE"]},
        # Open for the first who attaches, closed with them: a stale server cannot speak to the guest again.
        "stdin_open": is_linked,
        "name": f"corral-{spec.name}" if spec.name else None,
        "hostname": "sandbox",
        # Then the namespace with nothing but loopback is the runtime's alone. With `none` the engine's network layer
        # goes over it again, in a process that takes half the time of a start (180 instead of 90 ms).
        "network_disabled": placement.has_hosts,
        "user": "0:0",
        "working_dir": "/",
        "labels": {INSTANCE_LABEL: instance, SANDBOX_LABEL: spec.sandbox_id},
        "host_config": host_config(
            network_mode="none",
            # It would lie below the folders of a changed system. The guest is one itself.
            init=not placement.has_system,
            read_only=placement.is_read_only,
            binds=list(placement.binds),
            cap_drop=["ALL"],
            cap_add=_GUEST_CAPABILITIES + (_SETUP_CAPABILITIES if spec.is_setup else []),
            security_opt=["no-new-privileges", f"seccomp={podman_profile or seccomp.profile()}"],
            mem_limit=resources.memory_bytes,
            memswap_limit=resources.memory_bytes,
            nano_cpus=int(resources.cpus * 1e9),
            pids_limit=_pids_limit(spec),
            runtime=spec.runtime or None,
            shm_size=shm_bytes,
            tmpfs={
                **{path: "rw,noexec,nosuid,nodev,mode=755,size=1m" for path in volumes if path not in bound},
                "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={tmp_bytes}",  # noqa: S108 - the sandbox's own
                "/run": "rw,noexec,nosuid,nodev,mode=755,size=1m",
            },
            ulimits=[
                Ulimit(name="nofile", soft=resources.open_files, hard=resources.open_files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            ipc_mode="private",
            log_config={"Type": "none"},
        ),
    }


def guest_command(*, is_linked: bool, is_setup: bool) -> list[str]:
    """The container's main process. `is_linked`: its standard input and output are its first link; `is_setup`: what it
    runs is root's.
    """
    options = (" --linked yes" if is_linked else "") + (" --commands-as root" if is_setup else "")
    return [*GUEST_COMMAND[:2], f"{GUEST_COMMAND[2]}{options}"]


def _pids_limit(spec: SandboxSpec) -> int:
    return max(spec.resources.pids, _SENTRY_PIDS) if spec.runtime == "runsc" else spec.resources.pids
