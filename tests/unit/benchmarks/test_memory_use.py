"""What the kernel says a server takes."""

from __future__ import annotations

import os
import socket

import pytest

from benchmarks.memory_use import connection_bytes, resident_bytes


def test_what_nobody_reads_is_counted_at_the_end_that_sent_it():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(listening.getsockname())
            sender, _ = listening.accept()
            with sender:
                before = connection_bytes(port)
                sender.setblocking(False)
                sent = sender.send(b"x" * 500_000)
                assert sent - 50_000 < connection_bytes(port) - before < 2 * sent
                assert connection_bytes(reader.getsockname()[1]) < 50_000
        assert connection_bytes(port) == 0


def test_memory_that_is_used_is_resident():
    before = resident_bytes(os.getpid())
    used = bytearray(os.urandom(32 << 20))
    assert resident_bytes(os.getpid()) - before > len(used) // 2


def test_a_process_that_is_gone_has_no_memory():
    with pytest.raises(FileNotFoundError):
        resident_bytes(2**22 + 1)
