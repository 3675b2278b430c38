"""Hostile images (cases E2, E8 and E9), started through the driver as the server would start them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest

from orchestrator.config import Settings
from orchestrator.errors import CorralError
from orchestrator.sandboxes.disks import Disks, can_use_disks
from orchestrator.sandboxes.docker import DockerDriver
from orchestrator.sandboxes.driver import SandboxRef, SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from tests.attack.attacker import resident_bytes
from tests.attack.report import Case, Verdict
from tests.e2e.server import ServerProcess

Build = Callable[..., str]
START_S = 25.0
FLOOD = "#!/usr/bin/env bash\nexec yes garbage\n"
PROBE = (
    "id -u; id -g; touch /workspace/corral-was-here 2>/dev/null && echo wrote; "
    "grep -c '^Cap[A-Z][a-z]*:.*[1-9a-f]' /proc/self/status; true"
)
HOST_FOLDERS = ("/", "/etc", "/root", "/home", "/tmp", "/proc", "/dev")

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def build(engine: Settings, runtime: str) -> Iterator[Build]:
    """Builds an image on top of ours: lines of a Dockerfile, and files by name. All are removed again."""
    client = docker.DockerClient(base_url=engine.engine_url)
    made: list[str] = []

    def build(name: str, *lines: str, **files: str) -> str:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for path, text in {"Dockerfile": "\n".join((f"FROM {engine.image}", *lines)), **files}.items():
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(text.encode()), 0o755
                tar.addfile(member, io.BytesIO(text.encode()))
        context.seek(0)
        tag = f"corral/attack:{name}"
        network = {"network_mode": "none"}
        client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, **network)
        made.append(tag)
        return tag

    yield build
    for tag in made:
        with contextlib.suppress(docker.errors.APIError):
            client.images.remove(tag, force=True)
    client.close()


@pytest.fixture
async def driver(engine: Settings, short_path: Path) -> AsyncIterator[DockerDriver]:
    """As a server on this machine has it."""
    disks = None if can_use_disks(engine.engine_url) else Disks(short_path / "disks")
    driver = DockerDriver(engine.engine_url, f"attack-{uuid.uuid4().hex[:8]}", disks)
    await driver.open()
    yield driver
    async for found in driver.owned():
        await driver.destroy(found.ref)
    await driver.aclose()


@asynccontextmanager
async def started(driver: DockerDriver, image: str, runtime: str) -> AsyncIterator[Sandbox]:
    """A sandbox of an image; gone afterwards. Raises what the driver or the link says."""
    ref = SandboxRef(uuid.uuid4().hex, "")
    try:
        async with asyncio.timeout(START_S):
            async for made in driver.create(SandboxSpec(ref.sandbox_id, image, runtime=runtime)):
                ref = made
            link = await Link.open(await driver.connect(ref), 1)
        try:
            yield Sandbox(ref, link, {})
        finally:
            await link.aclose()
    finally:
        if ref.token:
            await driver.destroy(ref)


async def run(sandbox: Sandbox, code: str, cwd: str | None = None) -> str:
    argv = ["bash", "-c", code]
    outcome = await sandbox.execute(uuid.uuid4().hex, argv, timeout_s=15, output_limit_bytes=1 << 16, cwd=cwd)
    refusal = f" refused: {outcome.error.message}" if outcome.error else ""
    return (outcome.head + outcome.tail).decode(errors="replace") + refusal


def host_marks() -> dict[str, tuple[int, int, int]]:
    """Owner and mode of folders of the host."""
    marks = {}
    for path in HOST_FOLDERS:
        found = Path(path).stat()
        marks[path] = (found.st_uid, found.st_gid, found.st_mode)
    return marks


async def judge_image(case: Case, driver: DockerDriver, what: str, image: str, *, may_fail: bool = False) -> str:
    """Starts a hostile image: it works as the agent's own, or is refused with a type. The host stays as it is."""
    before, began, shown = host_marks(), time.monotonic(), ""
    own = resident_bytes(os.getpid())
    try:
        async with started(driver, image, case.runtime) as sandbox:
            shown = await run(sandbox, PROBE)
        lines = shown.split()
        is_well = lines[:2] == ["1000", "1000"] and lines[-1] == "0"
        happened = f"runs as {' '.join(lines)[:80]}"
    except (CorralError, TimeoutError) as error:
        is_well = may_fail
        happened = f"refused: {type(error).__name__}: {error}"[:200]
    duration_s = time.monotonic() - began
    case.tried(what, f"{happened} ({duration_s:.1f} s)", ok=is_well and duration_s < START_S + 5)
    strays = [path for path in HOST_FOLDERS if Path(path, "corral-was-here").exists()]
    is_same = host_marks() == before and not strays
    grown = resident_bytes(os.getpid()) - own
    text = f"{strays or 'as before'}, our memory {grown / (1 << 20):+.1f} MiB"
    case.tried(f"{what}: the host", text, ok=is_same and grown < 64 << 20)
    return shown


LINKS = {
    "/workspace, /.agents and the guest's folder are links": (
        "rm -rf /workspace /.agents /opt/corral && ln -s ../../../../../../root /workspace "
        "&& ln -s /proc/1/root/etc /.agents && ln -s /workspace /opt/corral"
    ),
    "/workspace is a link to /etc": "rm -rf /workspace && ln -s /etc /workspace",
    "/home/agent is a link to /": "rm -rf /home/agent && ln -s / /home/agent",
    "/tmp is a link to /proc": "rm -rf /tmp && ln -s /proc /tmp",
    "/run and /var/tmp are links": "rm -rf /run /var/tmp; ln -s /etc /run; ln -s /proc/self/fd /var/tmp",
    "links out where files are copied, and an agent called root": (
        "ln -s /etc /workspace/a && ln -s / /home/agent/b && ln /etc/passwd /workspace/c "
        "&& sed -i 's/^agent:x:1000:1000/agent:x:0:0/' /etc/passwd"
    ),
}


@pytest.mark.case("E9")
async def test_links_in_an_image(case: Case, build: Build, driver: DockerDriver) -> None:
    for number, (what, line) in enumerate(LINKS.items()):
        # A shell that needs none of what it replaces; the build's own mounts stay as they are.
        await judge_image(case, driver, what, build(f"links{number}", f"RUN {line}"), may_fail=True)


@pytest.mark.case("E9")
async def test_programs_in_an_image(case: Case, build: Build, driver: DockerDriver) -> None:
    marked = 'open("/run/owned", "w").write("x")'
    image = build(
        "launcher",
        "COPY evil /evil",
        'ENTRYPOINT ["/evil"]',
        'CMD ["/evil"]',
        "USER agent",
        "WORKDIR /evil-folder",
        "ENV PYTHONPATH=/evil-folder PYTHONSTARTUP=/evil PYTHONHOME=/evil BASH_ENV=/evil ENV=/evil",
        "COPY owned.py /usr/lib/python3/dist-packages/sitecustomize.py",
        "COPY owned.py /evil-folder/socket.py",
        "ONBUILD RUN /evil",
        "STOPSIGNAL SIGCONT",
        evil="#!/bin/sh\ntouch /run/owned /workspace/owned 2>/dev/null\n",
        **{"owned.py": marked},
    )
    await judge_image(
        case, driver, "entry point, user, folder, variables and modules of its own", image, may_fail=False
    )
    async with started(driver, image, case.runtime) as sandbox:
        shown = await run(sandbox, "ls /run/owned 2>/dev/null; ps -eo user:9,args | grep -v 'ps -eo'")
    case.tried("its programs as root", shown.splitlines()[:1], ok="/run/owned" not in shown and "/evil" not in shown)

    layers = build("layers", *(f"COPY file /many/{number}" for number in range(20)), file="x")
    await judge_image(case, driver, "20 more layers", layers)
    for what, lines in {
        "python3 that floods": "RUN cp /flood /usr/local/sbin/python3",
        "a shell that floods": "RUN cp /flood /tmp/sh && rm /bin/sh && cp /tmp/sh /bin/sh",
        "no python3": "RUN rm -f /usr/bin/python3* /usr/local/bin/python3*",
    }.items():
        image = build(f"program{abs(hash(what)) % 1000}", "COPY flood /flood", lines, flood=FLOOD)
        await judge_image(case, driver, what, image, may_fail=True)


@pytest.mark.case("E9")
async def test_volumes_and_health_checks_of_an_image(case: Case, build: Build, driver: DockerDriver) -> None:
    image = build(
        "volumes",
        "RUN mkdir -p /data && chmod 777 /data",
        "VOLUME /data /usr/local/bin /workspace",
        "HEALTHCHECK --interval=1s --timeout=1s --start-period=1s CMD touch /run/checked",
    )
    await judge_image(case, driver, "volumes of its own", image)
    async with started(driver, image, case.runtime) as sandbox:
        shown = await run(
            sandbox,
            "head -c 600M /dev/zero >/data/fill 2>&1; ls -l /data/fill | cut -d' ' -f5; df --output=size -B1M /data",
        )
        await asyncio.sleep(2.5)
        checked = await run(sandbox, "ls /run/checked 2>/dev/null")
    is_refused = not any(line.isdigit() and int(line) >= 600 << 20 for line in shown.split())
    case.tried("600 MiB into the image's own volume", shown.replace("\n", ", "), ok=is_refused)
    case.tried("the image's health check, which runs as root", checked.strip() or "never runs", ok=not checked.strip())


@pytest.mark.case("E2")
async def test_set_id_programs_in_an_image(case: Case, build: Build, driver: DockerDriver) -> None:
    all_of_them = "010000020000000000000000ffffffffffffffff"
    capability = f"import os; os.setxattr('/capsh', 'security.capability', bytes.fromhex('{all_of_them}'))"
    image = build(
        "setid",
        "RUN cp /bin/bash /rootsh && chmod 6755 /rootsh",
        f'RUN cp /bin/bash /capsh && python3 -c "{capability}" || true',
    )
    async with started(driver, image, case.runtime) as sandbox:
        for path in ("/rootsh", "/capsh"):
            command = f"{path} -p -c 'id -u; grep CapEff /proc/self/status' 2>&1"
            shown = await run(sandbox, command)
            lines = shown.split()
            is_refused = "not permitted" in shown
            is_inert = is_refused or ("1000" in lines and lines[-1].strip("0") == "")
            case.tried(f"{path} of the image, owned by root", " ".join(lines), ok=is_inert)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, mode in {"upload/suid": 0o4755, "upload/sgid": 0o2755, "upload/sticky": 0o7777}.items():
                member = tarfile.TarInfo(f"workspace/{name}")
                member.size, member.mode, member.uid, member.gid = 3, mode, 0, 0
                tar.addfile(member, io.BytesIO(b"id\n"))
        await sandbox.put(uuid.uuid4().hex, "/", archive.getvalue())
        status = "s = os.stat('/workspace/upload/' + n); print(oct(s.st_mode & 0o7777), s.st_uid)"
        code = f"import os\nfor n in ('suid', 'sgid', 'sticky'): {status}"
        shown = await run(sandbox, f'python3 -c "{code}"')
        expected = ["0o755 1000", "0o755 1000", "0o777 1000"]
        case.tried("set-id bits of an upload", shown.replace("\n", ", "), ok=shown.splitlines() == expected)


@pytest.mark.case("E8")
async def test_runc_escapes(case: Case, build: Build, driver: DockerDriver) -> None:
    runc = shutil.which("runc")
    before = hashlib.sha256(Path(runc).read_bytes()).hexdigest() if runc else ""
    host = Path("/etc/hostname").read_text() if Path("/etc/hostname").exists() else "no host name"

    for number in (7, 9):
        image = build(f"cwd{number}", f"WORKDIR /proc/self/fd/{number}")
        await judge_image(case, driver, f"CVE-2024-21626: WORKDIR /proc/self/fd/{number}", image)
    async with started(driver, image, case.runtime) as sandbox:
        for number in (*range(3, 12), "../../.."):
            code = f"pwd -P; cat ../../../../../etc/hostname 2>/dev/null; ls ../../../../../{Path.cwd()} 2>/dev/null"
            shown = await run(sandbox, code, cwd=f"/proc/self/fd/{number}")
            is_inside = host not in shown and "pyproject.toml" not in shown
            case.tried(f"CVE-2024-21626: a call in /proc/self/fd/{number}", shown.strip()[:80], ok=is_inside)
        attempts = {
            "CVE-2025-31133: replace /dev/null": "rm -f /dev/null; ln -sf /proc/sys/kernel/core_pattern /dev/null",
            "CVE-2025-52565: replace /dev/console": "rm -f /dev/console; ln -sf /proc/sysrq-trigger /dev/console",
            "CVE-2025-52565: replace /dev/pts/ptmx": "rm -f /dev/pts/ptmx; mkdir /dev/pts/x",
            "CVE-2025-52881: mount over /proc/self/attr": "mount --bind /workspace /proc/self/attr",
            "CVE-2019-5736: write process 1's program": "exec 3>/proc/1/exe",
            "CVE-2019-5736: write the system's shell": "cp /bin/true /bin/sh",
        }
        for what, code in attempts.items():
            shown = await run(sandbox, f"({code}) 2>&1 && echo DONE")
            case.tried(what, shown.strip()[-90:], ok="DONE" not in shown)
        mounts = await run(sandbox, "cut -d' ' -f5 /proc/self/mountinfo")
    writable = ("/workspace/", "/home/agent/", "/.agents/", "/var/tmp/", "/tmp/")
    nested = [path for path in mounts.split() if path.startswith(writable)]
    case.tried("CVE-2021-30465: mount targets where the agent writes", nested or "none", ok=not nested)

    image = build(
        "masks",
        "RUN mkdir -p /x && ln -sf /proc/sys/kernel/core_pattern /x/null",
        "COPY sh /usr/local/sbin/python3",
        sh="#!/proc/self/exe\n",
    )
    await judge_image(case, driver, "CVE-2019-5736: python3 is a script of /proc/self/exe", image, may_fail=True)
    image = build("self", "RUN ln -sf /proc/self/exe /usr/local/sbin/python3")
    await judge_image(case, driver, "CVE-2019-5736: python3 is a link to /proc/self/exe", image, may_fail=True)
    if runc:
        after = hashlib.sha256(Path(runc).read_bytes()).hexdigest()
        case.tried("CVE-2019-5736: the host's runc", "unchanged" if after == before else "CHANGED", ok=after == before)
    else:
        case.not_tried("CVE-2019-5736: the host's runc", "the engine is elsewhere: its program cannot be compared")


@pytest.mark.case("E8")
def test_doctor_tells_of_the_runtime(case: Case, server: ServerProcess) -> None:
    ran = server.cli("doctor")
    found = [line.strip() for line in ran.stdout.splitlines() if "runc" in line]
    is_grave = any(line.startswith("✗") for line in found)
    verdict = Verdict.DIFFERS if found else Verdict.FAILED
    case.tried(
        "corral doctor",
        " / ".join(found)[:280],
        ok=bool(found) and all(line.startswith("✓") for line in found),
        otherwise=verdict,
    )
    case.tried("corral doctor: known ways out of these sandboxes", "open" if is_grave else "none", ok=not is_grave)
