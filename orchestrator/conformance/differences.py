"""What a platform may do otherwise than the checks expect. Imports nothing.

A driver states its differences; a check that meets a stated one asks for what is stated here instead. Nothing is passed
over in silence, and a difference that is stated and not there fails.
"""

from __future__ import annotations

from enum import StrEnum


class Difference(StrEnum):
    """One way in which a platform is not as the others."""

    NO_ISOLATION = "no_isolation"
    """Sandboxes are plain processes of the machine and the user that run the checks: same namespaces, same user. For
    tests of other things only.
    """
    NO_LIMITS = "no_limits"
    """`Resources` are taken and have no effect."""
    NO_DISK_LIMIT = "no_disk_limit"
    """`Resources.disk_bytes` has no effect: a sandbox writes as much as the platform's own disk holds."""
    NO_SNAPSHOTS = "no_snapshots"
    """`snapshot`, `drop_snapshot` and `snapshots` raise `NotImplementedError`."""
    COARSE_SNAPSHOTS = "coarse_snapshots"
    """A snapshot keeps times to the second, fills holes with zeros and drops extended attributes: Docker's layers are
    archives. Nothing else of a file is lost, and a sandbox that is only stopped and started keeps all.
    """
    NO_PAUSE = "no_pause"
    """`pause` and `resume` raise `NotImplementedError`."""
    WRITABLE_ROOT = "writable_root"
    """The root file system is mounted writable. The agent still has no right to change anything outside its folders."""
    OWN_KERNEL = "own_kernel"
    """Sandboxes have a kernel of their own, as under gVisor. What others refuse it may allow, since it reaches no
    further: a device node that leads nowhere, a mount namespace of one's own, the guest's first variables and memory
    map under `/proc` (never its memory). The guest itself cannot be signalled or traced there either. Named pipes are
    the kernel's, not the disk's: a snapshot does not hold them.
    """
    NO_AUTOMOUNT_FLAG = "no_automount_flag"
    """The kernel refuses the flag `AT_NO_AUTOMOUNT`, with which `ls FILE`, `ls -l` and `stat` of coreutils 9 ask: they
    fail with "Invalid argument" (gVisor of 2022). Everything else can look at files.
    """
    OOM_ENDS_THE_SANDBOX = "oom_ends_the_sandbox"
    """Going over the memory limit ends the whole sandbox instead of one process: calls raise `SandboxGone`, the state
    is `EXITED`, and `start` brings it back with its files.
    """
    PIDS_END_THE_SANDBOX = "pids_end_the_sandbox"
    """Going over the process limit ends the whole sandbox; calls raise `SandboxGone`, and `start` brings it back."""
