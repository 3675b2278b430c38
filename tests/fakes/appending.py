"""A program that appends until it is killed: `python -m tests.fakes.appending DATABASE`.

Several logs grow at once, by batches of different sizes. After each acknowledged append it prints `LOG_ID LAST_SEQ`. A
body is a function of log and seq (`body_of`), so whoever reads the database later knows what must stand there.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import sys
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.store.records import NewEvent
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.rows import interaction_row

LOGS = 6


def body_of(log_id: str, seq: int) -> bytes:
    """Between 64 bytes and 16 KiB."""
    digest = hashlib.sha256(f"{log_id} {seq}".encode()).hexdigest().encode()
    return digest * (256 if seq % 17 == 0 else seq % 8 + 1)


async def main(path: Path) -> None:
    store = SqliteStore(path, SystemClock())
    await store.open()
    project = await store.default_project()

    async def grow(number: int) -> None:
        now = SystemClock().now()
        row = interaction_row(project.id, created=now)
        await store.create_interaction(row, [])
        seq = 1
        for size in itertools.cycle(range(1, number + 2)):
            events = [NewEvent("step.delta", body_of(row.id, seq + offset)) for offset in range(size)]
            await store.append(row.id, events, generation=1, expected_seq=seq)
            seq += size
            # One write call, so that the last line is whole however the program ends.
            os.write(sys.stdout.fileno(), f"{row.id} {seq - 1}\n".encode())

    await asyncio.gather(*(grow(number) for number in range(LOGS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
