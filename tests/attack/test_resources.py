"""Taking more than one's share (cases R1 to R12): what the attacker gets, and what everybody else notices."""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from tests.attack.attacker import Attacker, Neighbour, Times, p95, program_sources, resident_bytes
from tests.attack.conftest import settings
from tests.attack.report import Case, Verdict
from tests.e2e import streams
from tests.e2e.caller import Caller
from tests.e2e.programs import bash, call, only_result, python, results, run_bash, script, text_of
from tests.e2e.server import ServerProcess

DIFFERS = Verdict.DIFFERS
KILL_S = 3.0
GROWTH_BYTES = 40 << 20
"""What the server may grow while others misbehave: caches and buffers, not their data."""


def judge_neighbour(case: Case, what: str, neighbour: Neighbour, times: Times) -> None:
    """Records how others fared. The bound on others' calls is generous where the attacker may use all CPUs."""
    assert times.calls, "the watch was too short"
    during, quiet = p95(times.calls), neighbour.quiet_p95
    text = (
        f"p95 {during * 1000:.0f} ms, quiet {quiet * 1000:.0f} ms ({during / quiet - 1:+.0%}), {len(times.calls)} calls"
    )
    if during <= max(quiet * 1.2, quiet + 0.01):
        case.tried(f"{what}: calls of a neighbour", text, ok=True)
    elif during < 2.0:
        case.differs(f"{what}: calls of a neighbour", f"{text}: attacker and neighbour share {os.cpu_count()} CPUs")
    else:
        case.tried(f"{what}: calls of a neighbour", text, ok=False)
    case.tried(f"{what}: faults of a neighbour", times.faults[:3] or "none", ok=not times.faults)
    slow = p95(times.health)
    judged = DIFFERS if slow < 1.0 else Verdict.FAILED
    case.tried(
        f"{what}: /healthz", f"p95 {slow * 1000:.0f} ms of {len(times.health)}", ok=slow <= 0.1, otherwise=judged
    )
    if times.memory_bytes:
        grown = max(times.memory_bytes) - times.memory_bytes[0]
        text = f"{grown / (1 << 20):+.1f} MiB, at most {max(times.memory_bytes) >> 20} MiB"
        case.tried(f"{what}: the server's memory", text, ok=grown < GROWTH_BYTES)


def judge_kill(case: Case, what: str, attacker: Attacker, running: str) -> None:
    """Cancels, and records how long it took and whether the sandbox works afterwards."""
    duration_s, verdict = attacker.cancel(running)
    text = f"{duration_s:.2f} s, verdict {verdict}"
    is_typed = verdict in ("cancelled", "lost", "oom", "pids")
    # In gVisor all processes of a sandbox are threads of one; whoever kills them waits for their turns.
    late = Verdict.DIFFERS if case.runtime == "runsc" and duration_s <= 10 and is_typed else Verdict.FAILED
    case.tried(f"{what}: cancelled", text, ok=duration_s <= KILL_S and is_typed, otherwise=late)
    shown = attacker.bash("/bin/echo on | cat; ps -eo stat,args --no-headers | grep -c '[a]ttack.inside'")
    case.tried(f"{what}: the next call", shown.strip().replace("\n", ", "), ok=shown.startswith("on\n0\n"))


@pytest.mark.case("R1")
@pytest.mark.parametrize("bomb", ["shell", "forks", "daemons", "threads"])
def test_fork_bomb(case: Case, attacker: Attacker, neighbour: Neighbour, server: ServerProcess, bomb: str) -> None:
    code = (
        "echo begun; bomb() { bomb | bomb & wait; }; bomb" if bomb == "shell" else attacker.command("processes", bomb)
    )
    running = attacker.start(code)
    attacker.caller.await_output(running, "begun")
    with neighbour.watching(server.pid) as times:
        time.sleep(3)
    judge_neighbour(case, bomb, neighbour, times)
    judge_kill(case, bomb, attacker, running)


@pytest.mark.case("R1")
def test_fork_bomb_ends_with_a_type(case: Case, attacker: Attacker) -> None:
    verdict, text = attacker.ended(attacker.command("processes", "until_refused"))
    case.tried("forks until it is refused", f"verdict {verdict}: {text[-90:]}", ok=verdict in ("pids", "lost"))
    verdict, text = attacker.ended(":(){ :|:& };:; sleep 2; /bin/echo late")
    case.tried("the classic, with a command behind it", f"verdict {verdict}: {text[-90:]}", ok=verdict in PIDS_OR_WELL)
    after = [attacker.ended("/bin/echo on | cat") for _ in range(3)]
    case.tried("calls while it goes on", [verdict for verdict, _ in after], ok=after[-1] == ("exited", "on\n"))


PIDS_OR_WELL = ("pids", "exited", "killed", "lost")


MEMORY = (
    *("anonymous", "families", "memfd", "tmpfs", "shm_file"),
    *("page_cache", "page_tables", "pipes", "messages"),
)
MEMORY_THAT_STAYS = ("sockets", "system_v")
"""Held by what outlives the process, or by many of them: tried last."""

MEMORY_IN_GVISOR = ("anonymous", "tmpfs", "sockets", "memfd")
"""Each costs a restart of the sandbox there."""


@pytest.mark.case("R2")
def test_memory_bombs(case: Case, attacker: Attacker, neighbour: Neighbour, server: ServerProcess) -> None:
    with neighbour.watching(server.pid) as times:
        for kind in MEMORY_IN_GVISOR if case.runtime == "runsc" else (*MEMORY, *MEMORY_THAT_STAYS):
            running = attacker.start(attacker.command("memory", kind) + " 2>&1")
            deadline = time.monotonic() + 30
            while (ended := attacker.caller.read(running))["status"] == "in_progress" and time.monotonic() < deadline:
                time.sleep(0.1)
            if ended["status"] == "in_progress":
                duration_s, _ = attacker.cancel(running)
                happened = f"the sandbox hangs: still at it after 30 s, cancelled after {duration_s:.1f} s"
                case.tried(f"{kind}: its end", happened, ok=False)
                return
            verdict, text = attacker.verdict(running), only_result(ended)
            lines = text.strip().splitlines() or [""]
            is_well = verdict == "oom"
            if case.runtime == "runsc" and verdict == "lost":
                case.differs(f"{kind}: its end", "lost: gVisor is one process to the host, which ends it whole")
                continue
            if kind in ("tmpfs", "shm_file"):
                is_well |= any("No space" in line for line in lines)
            if kind in ("page_cache", "pipes", "messages"):  # the kernel gives none, or takes it back
                is_well |= verdict in ("exited", "disk_full")
            case.tried(f"{kind}: its end", f"verdict {verdict}: {' '.join(lines[-2:])[-120:]}", ok=is_well)
            attacker.bash("rm -f /tmp/bomb /dev/shm/bomb")
        after = [attacker.ended("/bin/echo on | cat") for _ in range(3)]
        case.tried("the next calls", [verdict for verdict, _ in after], ok=after[-1] == ("exited", "on\n"))
    judge_neighbour(case, "memory", neighbour, times)


DISK_BYTES = 96 << 20
FULL = ("ENOSPC", "EDQUOT", "EFBIG", "EMLINK")
UNWRITABLE = ("/", "/etc", "/opt/corral/guest", "/usr/local/bin", "/run", "/mnt", "/var/lib", "/dev", "/root")


@pytest.mark.case("R3")
def test_disk_by_default(case: Case, attacker: Attacker, server: ServerProcess) -> None:
    limit = Settings().resources.disk_bytes
    free = free_bytes(server.data_dir)
    (got,) = attacker.run("disk", "allocated", "/workspace")
    taken = int(got.got.split()[2]) << 20 if got.got.startswith(FULL) else 0
    case.tried(got.tried, f"{got.got}, limit {limit >> 20} MiB", ok=limit * 0.8 < taken <= limit)
    case.tried("allocated: the host's free space", f"{free - free_bytes(server.data_dir) >> 20} MiB less", ok=True)
    verdict, text = attacker.ended("head -c 1G /dev/zero >/workspace/more")
    case.tried("a command on the full disk", f"verdict {verdict}: {text[-120:]}", ok=verdict == "disk_full")
    refused, read, ran = attacker.play(
        call("write_file", path="new", content="x" * 5000),
        call("read_file", path="/home/agent/attack/tests/attack/inside/disk.py", line_count=1),
        run_bash("/bin/echo on | cat"),
    )
    is_typed = "full" in refused or "No space" in refused
    case.tried("write_file on the full disk", refused[-100:], ok=is_typed)
    case.tried("reading and running on the full disk", f"{read[:20]!r} {ran.strip()}", ok=bool(read) and ran == "on\n")
    for folder in UNWRITABLE:
        shown = attacker.bash(f"touch {folder}/x 2>&1; mkdir {folder}/y 2>&1; true")
        case.tried(f"write {folder}", shown.splitlines()[0][-60:] if shown else "written", ok=shown.count("\n") == 2)
    attacker.run("disk", "clean", "/workspace")
    case.tried("after cleaning up", attacker.bash("echo x >/workspace/x; cat /workspace/x").strip(), ok=True)


@pytest.mark.case("R3")
def test_small_disk(case: Case, engine: Settings, runtime: str, tmp_path: Path) -> None:
    """The same with bytes that are really written, on disks that are soon full."""
    server = ServerProcess(engine, tmp_path, RESOURCES__DISK_BYTES=str(DISK_BYTES), **settings(runtime))
    server.start()
    with server.caller() as caller:
        attacker = Attacker(caller, caller.new_environment(sources=program_sources()))
        neighbour = Neighbour(caller, caller.new_environment())
        with neighbour.watching(server.pid) as times:
            for folder in ("/workspace", "/home/agent", "/var/tmp", "/tmp"):
                verdict, said = fill(attacker, "written", folder)
                is_full = said.startswith("ENOSPC") and verdict == "disk_full"
                case.tried(f"written in {folder}", f"{said}, verdict {verdict}", ok=is_full)
                attacker.run("disk", "clean", folder)
            for attack in ("holes", "small_files", "long_folder", "attributes"):
                verdict, said = fill(attacker, attack, "/workspace")
                is_full = said.startswith((*FULL, "ENOTSUP")) or (attack == "holes" and "terabytes between" in said)
                is_full &= verdict == "disk_full" or attack not in ("small_files", "attributes") or "ENOTSUP" in said
                case.tried(f"{attack} in /workspace", f"{said}, verdict {verdict}", ok=is_full)
                disks = sorted(server.data_dir.rglob("sandboxes/*.img"))
                taken = max((disk.stat().st_blocks * 512 for disk in disks), default=0)
                if disks:
                    case.tried(f"{attack}: what it takes of the host", f"{taken >> 20} MiB", ok=taken <= DISK_BYTES)
                attacker.run("disk", "clean", "/workspace")
            verdict, said = fill(attacker, "small_files", "/tmp")
            well = "files" in said and verdict in ("exited", "disk_full", "oom")
            case.tried("small_files in /tmp", f"{said}, verdict {verdict}", ok=well)
        judge_neighbour(case, "disk fill", neighbour, times)
        fill(attacker, "written", "/workspace")
        logged = caller.create(bash("echo logged"), neighbour.environment_id)
        is_logged = any(each["kind"] == "interaction.completed" for each in caller.journal(logged["id"]))
        case.tried("the log store meanwhile", f"{len(caller.journal(logged['id']))} entries", ok=is_logged)
    server.close()


def fill(attacker: Attacker, attack: str, folder: str) -> tuple[str, str]:
    """The verdict of a call that fills a folder, and what it says."""
    verdict, text = attacker.ended(attacker.command("disk", attack, folder))
    said = re.search(r'"got": "([^"]*)"', text)
    return verdict, said.group(1) if said else text[-100:]


def free_bytes(path: Path) -> int:
    """Room on the file system of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@pytest.mark.case("R4")
@pytest.mark.parametrize("kind", ["files", "file_families", "connections", "timers", "queues", "leases"])
def test_handles(case: Case, attacker: Attacker, shared_attacker: Attacker, kind: str) -> None:
    take(case, attacker, shared_attacker, kind)


@pytest.mark.case("R4")
@pytest.mark.parametrize("kind", ["inotify", "big_pipes", "in_flight"])
def test_handles_that_the_kernel_counts_per_user(
    case: Case, attacker: Attacker, shared_attacker: Attacker, kind: str
) -> None:
    take(case, attacker, shared_attacker, kind)


def take(case: Case, attacker: Attacker, other: Attacker, kind: str) -> None:
    """One sandbox holds all that it can get of a kind, another needs a little of it."""
    running = attacker.start(attacker.command("handles", "take", kind))
    before = time.monotonic()
    while "begun" not in (output := output_of(attacker.caller, running)):
        ended = attacker.caller.read(running)["status"] != "in_progress"
        if ended or time.monotonic() - before > 40:
            break
        time.sleep(0.1)
    said = re.search(r'"got": "([^"]*)"', output)
    case.tried(f"{kind}: take all", said.group(1) if said else f"ended: {output[-100:]}", ok=True)
    answers = attacker.caller.http.get("/healthz").status_code
    case.tried(f"{kind}: the API", answers, ok=answers == 200)
    for each in other.run("handles", "probe"):
        is_well = each.got.startswith("succeeded")
        why = "" if is_well else ": the kernel counts it per user ID, and all sandboxes share one"
        case.tried(f"{kind}: {each.tried} in another sandbox", each.got + why, ok=is_well, otherwise=DIFFERS)
    fresh = other.play(run_bash("/bin/echo on | cat"), call("read_file", path="/etc/hostname"))
    case.tried(f"{kind}: calls in another sandbox", fresh[0].strip(), ok=fresh[0] == "on\n")
    if attacker.caller.read(running)["status"] == "in_progress":
        judge_kill(case, kind, attacker, running)


def output_of(caller: Caller, interaction_id: str) -> str:
    """What a call has written so far, as the journal has it."""
    return "".join(
        str(each["body"]["text"]) for each in caller.journal(interaction_id) if each["kind"] == "tool.output"
    )


@pytest.mark.case("R5")
def test_spin(case: Case, attacker: Attacker, neighbour: Neighbour, server: ServerProcess) -> None:
    for each in attacker.run("spin"):
        is_refused = each.got in ("EPERM", "EACCES", "ENOSYS")
        # gVisor keeps a niceness that nothing obeys, and knows neither real time nor groups of sessions.
        judged = DIFFERS if case.runtime == "runsc" else Verdict.FAILED
        case.tried(each.tried, each.got, ok=is_refused, otherwise=judged)
    code = "echo begun; for i in $(seq 16); do (while :; do :; done) & done; wait"
    running = attacker.start(code)
    attacker.caller.await_output(running, "begun")
    container = server.container(attacker.environment_id)
    with neighbour.watching(server.pid) as times:
        used, before = cpu_s(container), time.monotonic()
        time.sleep(4)
        share = (cpu_s(container) - used) / (time.monotonic() - before)
    container.client.close()
    limit = Settings().resources.cpus
    case.tried("sixteen loops", f"{share:.2f} CPUs of {limit:g}", ok=0 < share <= limit * 1.15)
    judge_neighbour(case, "sixteen loops", neighbour, times)
    judge_kill(case, "sixteen loops", attacker, running)


def cpu_s(container: Any) -> float:
    """CPU time that a container has used so far."""
    return float(container.stats(stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


@pytest.mark.case("R6")
def test_output_flood(case: Case, shared_attacker: Attacker, neighbour: Neighbour, server: ServerProcess) -> None:
    caller, environment = shared_attacker.caller, shared_attacker.environment_id
    flood = "for i in 1 2 3 4 5; do head -c 512K /dev/zero | tr '\\0' o; head -c 512K /dev/zero | tr '\\0' e >&2; done"
    with caller.stream(bash(flood), environment) as pieces:
        events = list(streams.events(pieces))
    case.tried("5 MiB, output and errors in turns: events of its stream", len(events), ok=len(events) <= 50)
    entries = len(caller.journal(events[0]["interaction"]["id"]))
    case.tried("5 MiB: entries of its journal", entries, ok=entries <= 50)
    text = shared_attacker.bash(flood)
    marked = re.search(r"\[… (\d+) bytes of output dropped …\]", text)
    case.tried("5 MiB: the cut is marked", marked.group(0) if marked else text[:80], ok=marked is not None)

    with neighbour.watching(server.pid) as times:
        before = time.monotonic()
        running = shared_attacker.start("yes $(head -c 4000 /dev/zero | tr '\\0' y) & yes >&2 & wait")
        ended = caller.wait(running, timeout_s=60)
        duration_s = time.monotonic() - before
    verdict, text = shared_attacker.verdict(running), only_result(ended)
    dropped = re.search(r"\[… (\d+) bytes of output dropped …\]", text)
    total_bytes = int(dropped.group(1)) if dropped else 0
    rate = total_bytes / duration_s / (1 << 20)
    happened = f"verdict {verdict} after {total_bytes >> 20} MiB, {rate:.0f} MiB/s: {text[-90:]}"
    case.tried("two floods without end", happened, ok=verdict == "output_limit")
    judge_neighbour(case, "flood", neighbour, times)
    left = shared_attacker.bash("pgrep -c yes")
    case.tried("floods that are left", left.split()[0], ok=left.startswith("0"))


HOSTILE = (
    b"plain\n\0\0nul\xff\xfe\xed\xa0\x80\xed\xbf\xbf\xc0\xaf\xf4\x90\x80\x80 \x1b[31mred\x1b[0m \x1b]0;title\x07"
    b"\x1b]52;c;Y29ycmFs\x07\x1bP+q544e\x1b\\ \x9b31m \x1b[6n \x1b[2J \r overwritten \x08\x08 \xe2\x80\xae gnirts\n"
)


@pytest.mark.case("R7")
def test_hostile_bytes(case: Case, shared_attacker: Attacker, server: ServerProcess) -> None:
    caller, environment = shared_attacker.caller, shared_attacker.environment_id
    before = time.monotonic()
    size = "1G" if case.runtime == "runc" else "128M"
    text = shared_attacker.bash(f"head -c {size} /dev/zero | tr '\\0' x")
    duration_s = time.monotonic() - before
    limit = Settings().output_limit_bytes
    is_cut = "bytes of output dropped" in text and len(text) < limit + 200
    case.tried(f"one line of {size}", f"{len(text)} characters in {duration_s:.1f} s", ok=is_cut and duration_s < 50)

    raw = caller.create(bash(f"printf '{''.join(f'{chr(92)}{byte:03o}' for byte in HOSTILE)}'"), environment)
    shown = only_result(raw)
    expected = HOSTILE.decode("utf-8", "replace").replace("\0", "\ufffd")
    case.tried("bytes that are no text, in JSON", ascii(shown)[:60], ok=shown == expected)
    journal = output_of(caller, raw["id"])
    case.tried("the same in the journal", ascii(journal)[:60], ok=journal == expected)
    case.differs(
        "bytes preserved in a raw log", "the journal keeps text: what is no UTF-8 is replaced before it is stored"
    )
    stream = caller.replay(raw["id"])
    is_text = b"\x1b" not in stream and b"\0" not in stream
    case.tried("the same as server-sent events", f"{len(stream)} bytes", ok=is_text)
    dangerous = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
    for arguments in (("logs", raw["id"]), ("logs", environment)):
        ran = server.cli(*arguments)
        found = dangerous.search(ran.stdout + ran.stderr)
        is_shown = ran.returncode == 0 and "red" in ran.stdout
        what = ascii(found.group(0)) if found else "nothing that a terminal obeys"
        case.tried(f"corral {arguments[0]} of it", what, ok=is_shown and found is None)
    program = bash(f"printf '{''.join(f'{chr(92)}{byte:03o}' for byte in HOSTILE)}'")
    ran = server.cli("run", "--env", environment, program)
    found = dangerous.search(ran.stdout + ran.stderr)
    is_shown = ran.returncode == 0 and "red" in ran.stdout
    case.tried(
        "corral run of it",
        ascii(found.group(0)) if found else "nothing that a terminal obeys",
        ok=is_shown and not found,
    )
    name = "\\x1b]0;owned\\x07\\x1b[31m"
    shown = shared_attacker.play(run_bash(f"cd /workspace; touch $'{name}'"), call("list_files", path="."))[1]
    case.tried("the same as a file's name", ascii(shown)[-80:], ok=dangerous.search(shown) is None)


@pytest.mark.case("R8")
def test_nobody_reads(case: Case, shared_attacker: Attacker, server: ServerProcess) -> None:
    caller, environment = shared_attacker.caller, shared_attacker.environment_id
    before = resident_bytes(server.pid)
    code = "time (head -c 256M /dev/zero); cp /dev/null /workspace/written"
    with caller.stream(bash(code), environment) as pieces:
        next(pieces)  # and then the reader stalls
        deadline = time.monotonic() + 40
        with server.caller() as other:
            while other.read(_latest(other))["status"] == "in_progress" and time.monotonic() < deadline:
                time.sleep(0.1)
        duration_s = time.monotonic() - deadline + 40
    case.tried("256 MiB to a client that stalls", f"done in {duration_s:.1f} s", ok=duration_s < 30)
    grown = resident_bytes(server.pid) - before
    case.tried("256 MiB: the server's memory", f"{grown / (1 << 20):+.1f} MiB", ok=grown < GROWTH_BYTES)


def _latest(caller: Caller) -> str:
    running = caller.ps()["interactions"]
    if running:
        _LAST.append(str(running[0]["id"]))
    return _LAST[-1]


_LAST: list[str] = []


@pytest.mark.case("R8")
def test_writer_outlives_the_server(case: Case, engine: Settings, runtime: str, tmp_path: Path) -> None:
    server = ServerProcess(engine, tmp_path, **settings(runtime))
    server.start()
    with server.caller() as caller:
        environment = caller.new_environment()
        flood = "for i in $(seq 64); do head -c 1M /dev/zero | tr '\\0' w; done"
        code = f"echo begun; sleep 0.5; {flood}; date +%s%N >/workspace/end"
        running = caller.start(bash(code), environment)
        caller.await_output(running, "begun")
    server.kill()
    killed = time.time()
    time.sleep(4)
    server.start()
    started = time.time()
    with server.caller() as caller:
        ended = caller.wait(running, timeout_s=40)
        text = only_result(ended)
        end = int(only_result(caller.create(bash("cat /workspace/end"), environment))) / 1e9
    server.close()
    happened = f"64 MiB written {end - killed:.1f} s after the kill, {started - end:.1f} s before the next start"
    case.tried("server killed while 64 MiB are written: the writer", happened, ok=killed <= end < started)
    case.tried(
        "its result afterwards", f"{len(text)} characters: {ended['status']}", ok="bytes of output dropped" in text
    )


@pytest.mark.case("R9")
def test_short_lived_processes(case: Case, attacker: Attacker, server: ServerProcess) -> None:
    container = server.container(attacker.environment_id)
    attacker.bash("true")
    before = inside_guest(container)
    count = 10_000 if case.runtime == "runc" else 500  # gVisor needs many times as long for each
    verdict, text = attacker.ended(attacker.command("processes", "short_lived", count))
    case.tried(
        f"{count} processes, a third of them orphans",
        f"verdict {verdict}: {text.strip()}",
        ok=text == f"made {count}\n",
    )
    zombies = attacker.bash("sleep 0.5; ps -eo stat,pid --no-headers | grep -c ^Z; ps -e --no-headers | wc -l").split()
    case.tried("zombies afterwards, processes in all", zombies, ok=zombies[0] == "0" and int(zombies[-1]) < 20)
    attacker.bash(attacker.command("processes", "leave_daemons"))
    left = attacker.bash("pgrep -fc leave_daemons")
    case.tried("50 deaf daemons after a normal end: left alone, as documented", left.strip(), ok=left.startswith("50"))
    running = attacker.start(attacker.command("processes", "deaf_daemons"))
    attacker.caller.await_output(running, "begun")
    duration_s, verdict = attacker.cancel(running)
    left = attacker.bash("pgrep -fc deaf_daemons").split()[0]
    happened = f"{left} are left after {duration_s:.2f} s"
    case.tried("50 deaf daemons of a cancelled call", happened, ok=left == "0" and duration_s <= KILL_S)
    for _ in range(20):
        attacker.bash("true")
    after = inside_guest(container)
    container.client.close()
    if before:
        case.tried("the guest's descriptors", f"{before} before, {after} after", ok=0 < after <= before + 60)
    else:
        case.not_tried("the guest's descriptors", "from outside nobody can count them in this runtime")


def inside_guest(container: Any) -> int:
    """How many descriptors the guest has open, asked as the sandbox's root. 0: it cannot be asked."""
    code = "ls /proc/$(pgrep -o -u root -f guest.main -P 1)/fd | wc -l"
    answer = container.exec_run(["sh", "-c", code], user="0:0").output.decode().split()
    return int(answer[-1]) if answer and answer[-1].isdigit() else 0


STUBBORN = ("ignoring", "trapping", "stopped", "traced", "uninterruptible", "nested", "stop_all", "kill_all")


@pytest.mark.case("R10")
def test_stubborn_processes(case: Case, attacker: Attacker) -> None:
    for name in STUBBORN:
        running = attacker.start(attacker.command("processes", name))
        if name not in ("kill_all",):
            attacker.caller.await_output(running, "begun")
        time.sleep(0.7)
        duration_s, verdict = attacker.cancel(running)
        is_ended = verdict in ("cancelled", "lost", "killed")
        case.tried(f"{name}: cancelled", f"{duration_s:.2f} s, verdict {verdict}", ok=duration_s <= KILL_S and is_ended)
        before = time.monotonic()
        shown = attacker.bash("/bin/echo on | cat; sleep 0.2; pgrep -fc 'attack.insid[e]'")
        waited_s = time.monotonic() - before
        happened = f"{shown.split()[:2]} after {waited_s:.1f} s"
        case.tried(f"{name}: the next call", happened, ok=shown.startswith("on\n0") and waited_s < 15)
    fuse = attacker.bash("ls /dev/fuse 2>&1; python3 -c \"open('/dev/fuse', 'rb')\" 2>&1 | tail -1")
    assert "No such file" in fuse or "Invalid" in fuse, fuse
    case.not_tried("D-state on FUSE", "a sandbox has no /dev/fuse and may not mount; vfork's wait stands for it")


@pytest.mark.case("R11")
def test_huge_requests(case: Case, shared_attacker: Attacker) -> None:
    caller, environment = shared_attacker.caller, shared_attacker.environment_id

    def record(what: str, happened: str, before: float, *, ok: bool) -> None:
        duration_s = time.monotonic() - before
        case.tried(what, f"{happened[:150]} ({duration_s:.1f} s)", ok=ok and duration_s < 15)

    before = time.monotonic()
    answer = caller.http.post("/v1beta/interactions", content=b'{"input": "' + b"x" * (33 << 20) + b'"}')
    record("body of 33 MiB", f"{answer.status_code} {answer.text}", before, ok=answer.status_code == 413)
    for name, environment_of in {
        "variable of 1 MiB": {"env": {"BIG": "x" * (1 << 20)}},
        "10,000 variables": {"env": {f"V{number}": "x" * 100 for number in range(10_000)}},
        "variable of 130 KiB": {"env": {"BIG": "x" * (130 << 10)}},
    }.items():
        before = time.monotonic()
        answer = caller.post(bash("echo ${#BIG}"), {"type": "remote", **environment_of}, background=False)
        text = answer.text
        is_typed = 400 <= answer.status_code < 500
        if answer.status_code == 200:
            ended = answer.json()
            is_typed = ended["status"] == "completed" or bool(ended.get("errors"))
            text = f"{ended['status']} {ended.get('errors')} {[text_of(each) for each in results(ended)]}"
        record(name, f"{answer.status_code} {text}", before, ok=is_typed)
    program = "#" + "x" * (5 << 20)
    for name, text, expected in (
        ("bash of 5 MiB", bash(program), "longer than"),
        ("bash of 3 MiB", bash(program[: 3 << 20] + "\necho on"), "on"),
        ("python of 5 MiB", python(program), "longer than"),
        ("argument of 3 MiB", bash("x=$(head -c 3M /dev/zero | tr '\\0' x); /bin/echo $x"), "too long"),
        ("environment of 3 MiB", bash("export X=$(head -c 3M /dev/zero | tr '\\0' x); /bin/true"), "too long"),
        ("input of 64 MiB to a program", bash("head -c 64M /dev/zero | wc -c"), "67108864"),
        ("path of 64 KiB", script(call("read_file", path="x/" * (1 << 15))), "4096"),
        ("a name of 300 bytes", script(call("write_file", path="n" * 300, content="x")), "too long"),
        ("a regular expression that explodes", script(call("search_files", path="/etc", pattern="(a|a)*" * 9)), ""),
    ):
        before = time.monotonic()
        made = caller.post(text, environment)
        if made.status_code != 200:
            record(name, f"{made.status_code} {made.text}", before, ok=400 <= made.status_code < 500)
            continue
        shown = only_result(made.json())
        record(name, shown[-150:], before, ok=expected in shown)
    before = time.monotonic()
    answer = caller.http.post("/v1beta/interactions", content=b'{"input":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    record("200,000 brackets", f"{answer.status_code} {answer.text}", before, ok=answer.status_code == 400)


@pytest.mark.case("R12")
def test_environments_at_once(case: Case, engine: Settings, runtime: str, tmp_path: Path) -> None:
    limit = 12
    default = Settings().max_environments_per_project
    case.tried("the quota by default", default, ok=default <= 200)
    case.differs("the quota as tried", f"{limit}, so that this machine need not start {default} sandboxes")
    server = ServerProcess(engine, tmp_path, MAX_ENVIRONMENTS_PER_PROJECT=str(limit), **settings(runtime))
    server.start()
    made = [
        json.loads(server.cli("keys", "create", "--project", project, "--json").stdout)["key"]
        for project in ("greedy", "modest")
    ]
    server.keys = list(made)
    with server.caller(made[0]) as greedy, server.caller(made[1]) as modest:
        other = Neighbour(modest, modest.new_environment())
        before = time.monotonic()
        with ThreadPoolExecutor(16) as threads:
            asked = threads.map(lambda _: greedy.post("x", "remote", background=True).status_code, range(1000))
            began = modest.create(bash("/bin/echo beside | cat"), other.environment_id)
            answers = list(asked)
        duration_s = time.monotonic() - before
        counts = {code: answers.count(code) for code in sorted(set(answers))}
        case.tried(
            "1,000 environments at once",
            f"{counts} in {duration_s:.1f} s",
            ok=counts == {200: limit, 429: 1000 - limit},
        )
        case.tried(
            "a call of another project meanwhile", only_result(began).strip(), ok=only_result(began) == "beside\n"
        )
        refused = greedy.post("x", "remote")
        has_hint = "retry-after" in refused.headers and refused.json()["error"]["code"] == "too_many_requests"
        case.tried("the refusal", f"{refused.status_code} {refused.text[:120]}", ok=has_hint)
        fresh = modest.post("x", "remote")
        case.tried("a new environment of another project", fresh.status_code, ok=fresh.status_code == 200)
    server.close()
