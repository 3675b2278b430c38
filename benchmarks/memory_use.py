"""What a server's process and its connections take of this machine's memory, as the kernel counts it. Linux only.

Connections are asked for by netlink (sock_diag), as `ss -tm` does it: `/proc/net/tcp` knows what is queued, not what
the queue takes. Only the server's ends are counted; what a reader's end takes is the reader's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_SOCK_DIAG_BY_FAMILY = 20
_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST_DUMP = 0x001 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SKMEMINFO = 7
_ALL_STATES = 0xFFFFFFFF
_LISTENING = 10
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states, a socket's id that is not asked for
_MESSAGE_BYTES = 72
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_MEMORY = struct.Struct("=8I")  # rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem, backlog


def resident_bytes(pid: int) -> int:
    """A process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory (any more)")


def connection_bytes(port: int) -> int:
    """Kernel memory of all TCP connections over IPv4 whose local end is `port`."""
    return sum(_sockets(port))


def _sockets(port: int) -> Iterator[int]:
    """The bytes of each."""
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_SKMEMINFO - 1), _ALL_STATES)
    head = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(head + request)
        while True:
            data = kernel.recv(1 << 20)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel does not tell about sockets")
                message, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                state, local_port = message[1], int.from_bytes(message[4:6], "big")
                if local_port == port and state != _LISTENING:
                    yield _memory_bytes(message[_MESSAGE_BYTES:])


def _memory_bytes(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _SKMEMINFO:
            received, _, _, _, reserved, queued, options, backlog = _MEMORY.unpack_from(attributes, _ATTRIBUTE.size)
            return int(received + reserved + queued + options + backlog)
        attributes = attributes[(length + 3) & ~3 :]
    return 0  # it is over, and the kernel only keeps its name for a while
