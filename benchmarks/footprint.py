"""Memory of an idle sandbox on the host: all its processes, the engine's shim among them, and the kernel's share.

Baseline: an idle container (`sleep`), counted in the same way. Works only where the engine runs on this machine.
"""

from __future__ import annotations

from pathlib import Path

import uvloop

from benchmarks.figures import Row, Unit, p50_at_most, summarize
from benchmarks.plain_engine import PlainEngine
from benchmarks.plan import Plan
from benchmarks.sandbox import open_sandboxes

_SANDBOXES = 4
_MIB = 1 << 20


def run(plan: Plan) -> list[Row]:
    return uvloop.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    engine = PlainEngine(plan.settings)
    try:
        with engine.idle_containers(_SANDBOXES) as containers:
            plain_mib = [_resident_mib(engine, each) for each in containers]
        async with open_sandboxes(plan, _SANDBOXES) as sandboxes:
            ours_mib = [_resident_mib(engine, each.ref.token) for each in sandboxes]
    except FileNotFoundError:
        return []  # the engine's processes are not on this machine
    finally:
        engine.close()
    return [
        Row(
            "memory, idle sandbox",
            Unit.MIB,
            summarize(ours_mib, Unit.MIB),
            f"{engine.name} run, sleep",
            summarize(plain_mib, Unit.MIB),
            (p50_at_most(25),),
        )
    ]


def _resident_mib(engine: PlainEngine, container_id: str) -> float:
    """Pages that processes share count in parts. Raises `FileNotFoundError` if they are not on this machine."""
    main = int(engine.api.inspect_container(container_id)["State"]["Pid"])
    processes = engine.processes(container_id)
    shim = _parent(main)
    return (sum(map(_proportional_bytes, [*processes, shim])) + _kernel_bytes(main)) / _MIB


def _parent(pid: int) -> int:
    return int(_field(Path(f"/proc/{pid}/status"), "PPid:"))


def _proportional_bytes(pid: int) -> int:
    return int(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")) * 1024


def _kernel_bytes(pid: int) -> int:
    """Stacks, sockets, page tables and the like that the container's control group is charged with."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if controllers == "memory":
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes").read_text())
    unified = next(path for number, _, path in groups if number == "0")
    return int(_field(Path(f"/sys/fs/cgroup{unified}/memory.stat"), "kernel"))


def _field(file: Path, name: str) -> str:
    for line in file.read_text().splitlines():
        first, *rest = line.split()
        if first == name:
            return rest[0]
    raise ValueError(f"no {name} in {file}")
