"""Files in and out: one large file as a tar stream through the link and as itself over HTTP, and the memory that this
takes on both sides.

Baseline: `docker cp` of the same file into and out of a container that does nothing. What the one before has left to be
written to the machine's disk is written before the next begins.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import uvloop

from benchmarks.figures import Row, Unit, p50_at_most, summarize, times_better
from benchmarks.http_files import http_files
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import open_sandboxes
from orchestrator.sandboxes.handle import Sandbox

_MIB = 1 << 20
_SIZE_MIB = 256
_PIECE_BYTES = 256 * 1024
_LEAST_ROUNDS = 2
_ROUNDS_SHARE = 4
"""A round moves a gigabyte: there are fewer of them."""
_NAME = "large.bin"
_TAR_BLOCK_BYTES = 512

_ids = (f"transfer-{number}" for number in count())


def run(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="transfers-", dir=plan.output) as folder:
        return uvloop.run(_measure(plan, Path(folder)))


async def _measure(plan: Plan, folder: Path) -> list[Row]:
    source, target = folder / _NAME, folder / "back.bin"
    with source.open("wb") as file:
        for _ in range(_SIZE_MIB):
            file.write(os.urandom(_MIB))
    up: list[float] = []
    down: list[float] = []
    plain_up: list[float] = []
    plain_down: list[float] = []
    memory: list[float] = []
    plain_memory: list[float] = []
    http_up: list[float] = []
    http_down: list[float] = []
    http_memory: list[float] = []
    engine = PlainEngine(plan.settings)
    try:
        with engine.idle_containers(1) as (idle,), http_files(plan) as http:
            async with open_sandboxes(plan, 1) as (sandbox,):
                for _ in range(max(_LEAST_ROUNDS, plan.rounds // _ROUNDS_SHARE)):
                    with _peak_mib(engine, sandbox) as peak:
                        up.append(_per_s(await _put(sandbox, source)))
                        down.append(_per_s(await _get(sandbox, target)))
                    memory.append(peak())
                    if target.stat().st_size < source.stat().st_size:
                        raise RuntimeError("not all of the file came back")
                    await asyncio.to_thread(os.sync)
                    took_s, mib = engine.copy(str(source), f"{idle}:/root/{_NAME}")
                    plain_up.append(_per_s(took_s))
                    plain_memory.append(mib)
                    await asyncio.to_thread(os.sync)
                    plain_down.append(_per_s(engine.copy(f"{idle}:/root/{_NAME}", str(target))[0]))
                    target.unlink()
                    with http.peak() as taken:
                        await asyncio.to_thread(os.sync)
                        http_up.append(_per_s(await asyncio.to_thread(http.put, source)))
                        await asyncio.to_thread(os.sync)
                        http_down.append(_per_s(await asyncio.to_thread(http.get, target)))
                    http_memory += taken
                    if target.stat().st_size != source.stat().st_size:
                        raise RuntimeError("not all of the file came back over HTTP")
                    target.unlink()
    finally:
        engine.close()
    name = f"{engine.name} cp"
    goal = (times_better(0.8),)
    unit = Unit.MIB_PER_S
    return [
        Row(f"files in, {_SIZE_MIB} MiB", unit, summarize(up, unit), name, summarize(plain_up, unit), goal),
        Row(f"files out, {_SIZE_MIB} MiB", unit, summarize(down, unit), name, summarize(plain_down, unit), goal),
        Row(f"files API up, {_SIZE_MIB} MiB", unit, summarize(http_up, unit), name, summarize(plain_up, unit), goal),
        Row(
            f"files API down, {_SIZE_MIB} MiB",
            unit,
            summarize(http_down, unit),
            name,
            summarize(plain_down, unit),
            goal,
        ),
        Row(
            "files API, the server's memory",
            Unit.MIB,
            summarize(http_memory, Unit.MIB),
            f"{name}, the command",
            summarize(plain_memory, Unit.MIB),
            (p50_at_most(32),),
        ),
        Row(
            "files, memory while they move",
            Unit.MIB,
            summarize(memory, Unit.MIB),
            f"{name}, the command",
            summarize(plain_memory, Unit.MIB),
            (p50_at_most(32),),
        ),
    ]


def _per_s(took_s: float) -> float:
    return _SIZE_MIB / took_s


async def _put(sandbox: Sandbox, source: Path) -> float:
    call_id = next(_ids)
    await asyncio.to_thread(os.sync)
    started = time.perf_counter()
    outcome = await sandbox.put(call_id, "/workspace", _tar(source))
    took_s = time.perf_counter() - started
    sandbox.acknowledge(call_id)
    if not outcome.is_ok:
        raise RuntimeError(f"put failed: {outcome}")
    return took_s


async def _tar(source: Path) -> AsyncIterator[bytes]:
    member = tarfile.TarInfo(source.name)
    with source.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        yield member.tobuf()
        while piece := file.read(_PIECE_BYTES):
            yield piece
    yield bytes(-member.size % _TAR_BLOCK_BYTES + 2 * _TAR_BLOCK_BYTES)


async def _get(sandbox: Sandbox, target: Path) -> float:
    await asyncio.to_thread(os.sync)
    started = time.perf_counter()
    with target.open("wb") as file:
        async for piece in sandbox.get([_NAME]):
            file.write(piece)
    return time.perf_counter() - started


@contextmanager
def _peak_mib(engine: PlainEngine, sandbox: Sandbox) -> Iterator[Callable[[], float]]:
    """Afterwards: what this process and those of the sandbox took at most besides what they had before."""
    processes = [*engine.processes(sandbox.ref.token), os.getpid()]
    before = {}
    for pid in processes:
        # 5: the high-water mark begins anew.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before[pid] = _status_kib(pid, "VmRSS:")
    yield lambda: sum(_status_kib(pid, "VmHWM:") - before[pid] for pid in processes) / 1024


def _status_kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(f"no {field} for process {pid}")
