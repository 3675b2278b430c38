"""The seccomp profile of every sandbox: which system calls reach the kernel. Pure.

An allowlist; what is not on it fails with EPERM. Docker 20.10's own default lets AF_VSOCK, AF_ALG, AF_PACKET and
io_uring through (design 7); ours knows only the socket families that a sandbox without a network can use. `clone3`
fails with ENOSYS, since its flags cannot be inspected; the C library then uses `clone`, whose namespace flags are
refused.

There are no rules for 32-bit calls: `socketcall` would go around the rules on families.
"""

from __future__ import annotations

import json
from typing import Any

_EPERM = 1
_ENOSYS = 38
_EPROTONOSUPPORT = 93
_NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE, _NETLINK_AUDIT = 0, 9
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""Plain Linux, its 32-bit view, both without the 3 GB hole, and the query."""

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr
lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat statfs
statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice
write writev
"""
_MEMORY = """
brk cachestat madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock
munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise process_mrelease remap_file_pages set_mempolicy
get_mempolicy mbind map_shadow_stack
"""
_PROCESSES = """
arch_prctl capget capset chroot execve execveat exit exit_group fork getegid geteuid getgid getgroups getpgid getpgrp
getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kcmp
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_getfd pidfd_open pidfd_send_signal prctl
prlimit64 process_vm_readv process_vm_writev ptrace rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list get_robust_list set_tid_address
setfsgid setfsuid setgid setgroups setitimer getitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setuid sigaltstack tgkill times tkill uname vfork wait4 waitid sysinfo
"""
_WAITING = """
alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake getcpu
getrandom gettimeofday io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit nanosleep pause pipe pipe2
poll ppoll pselect6 restart_syscall select signalfd signalfd4 time timer_create timer_delete timer_getoverrun
timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
_COMMUNICATION = """
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg
sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair
"""

ALLOWED: frozenset[str] = frozenset(f"{_FILES} {_MEMORY} {_PROCESSES} {_WAITING} {_COMMUNICATION}".split())
"""Allowed whatever their arguments."""


def profile() -> str:
    """The profile as the engine takes it: JSON text for `security_opt`."""
    rules: list[dict[str, Any]] = [
        {"names": sorted(ALLOWED), "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        _when("clone", _masked(0, _NAMESPACE_FLAGS)),
        *(_when("personality", _equal(0, value)) for value in _PERSONALITIES),
        *(_when("socket", _equal(0, family)) for family in (_AF_UNIX, _AF_INET, _AF_INET6)),
        _when("socket", _equal(0, _AF_NETLINK), _equal(2, _NETLINK_ROUTE)),
        # As in a kernel without it: told EPERM, `useradd` and `groupadd` give up, and with them every package that
        # makes a user of its own.
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": _EPROTONOSUPPORT,
            "args": [_equal(0, _AF_NETLINK), _equal(2, _NETLINK_AUDIT)],
        },
    ]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": _EPERM,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
            ],
            "syscalls": rules,
        },
        separators=(",", ":"),
    )


def _when(name: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int) -> dict[str, Any]:
    """All bits of `mask` are zero."""
    return {"index": index, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
