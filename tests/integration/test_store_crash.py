"""What survives the death of the process: everything that was acknowledged, and nothing that stands in the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import ConfigError
from orchestrator.store.lock import DataFolderLock
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.appending import LOGS, body_of
from tests.fakes.consistency import assert_store_consistent

ROUNDS = 4
ROOT = Path(__file__).parents[2]
HOLD_LOCK = """
import sys, time
from pathlib import Path
from orchestrator.store.lock import DataFolderLock
DataFolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, cwd=ROOT)


def acknowledged_until_killed(database: Path, seconds: float) -> dict[str, int]:
    """Lets the program append for some seconds after its first acknowledgement; the last seq of each of its logs."""
    process = start("-m", "tests.fakes.appending", str(database))
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    output = os.read(descriptor, 1_000_000)
    assert output, "the program ended before it appended anything"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        output += os.read(descriptor, 1_000_000)
    process.send_signal(signal.SIGKILL)
    output += process.stdout.read()
    process.wait()
    process.stdout.close()
    last: dict[str, int] = {}
    for line in output.decode().splitlines():
        log_id, seq = line.split()
        last[log_id] = max(last.get(log_id, 0), int(seq))
    return last


@pytest.mark.anyio
async def test_every_acknowledged_event_survives_a_kill(tmp_path: Path) -> None:
    database = tmp_path / "corral.db"
    acknowledged: dict[str, int] = {}
    for _ in range(ROUNDS):
        acknowledged |= acknowledged_until_killed(database, random.uniform(0.1, 0.4))
        store = SqliteStore(database, SystemClock())
        await store.open()
        for log_id, last in acknowledged.items():
            events = await store.read(log_id)
            assert len(events) >= last, f"{log_id}: {last} were acknowledged, {len(events)} are there"
            assert all(event.body == body_of(log_id, event.seq) for event in events)
        await assert_store_consistent(store)
        await store.aclose()
    assert len(acknowledged) > LOGS
    assert sum(acknowledged.values()) > 200


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = start("-c", HOLD_LOCK, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=f"process id {holder.pid};"):
        DataFolderLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with DataFolderLock(tmp_path):
        pass
