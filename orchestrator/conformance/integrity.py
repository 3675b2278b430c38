"""Checks that files last: whatever is done to a sandbox, each of them is afterwards what it was, to the nanosecond.

What is compared is everything that a program can see of a file besides its number: name, kind, mode, owner, links,
size, time of change, attributes, holes and content.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.conformance.bench import Bench, entered, execute, make, runs_python, says
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.driver import SandboxDriver, SandboxState
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_FOLDERS = ("made", "~/made")
_MANIFEST_LIMIT_BYTES = 8 << 20

_MAKE = r"""
import errno, os, random, sys

random.seed(7)
has_pipes = sys.argv[1] == "pipes"

def write(path, content, mode=0o644, when_ns=None):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    if when_ns is not None:
        os.utime(path, ns=(0, when_ns))

def make(top):
    os.makedirs(top)
    os.chdir(top)
    for folder in range(20):
        os.mkdir(f"many-{folder}")
        for number in range(50):
            write(f"many-{folder}/{number}", random.randbytes(random.randrange(200)), when_ns=random.randrange(1 << 60))
    for size in (0, 1, 4095, 4096, 4097, 1 << 20):
        write(f"size-{size}", random.randbytes(size))
    with open("holes", "wb") as file:
        for start in (0, 20 << 20, 40 << 20):
            file.seek(start)
            file.write(b"island")
        file.truncate(50 << 20)
    for mode in (0o000, 0o200, 0o444, 0o751, 0o1644, 0o2755, 0o4755, 0o6777):
        write(f"mode-{mode:o}", b"mode", mode)
    for when_ns in (0, 1, 10**9 - 1, 1234567890_123456789, 2**31 * 10**9 - 1, 2**31 * 10**9 + 1):
        write(f"time-{when_ns}", b"time", when_ns=when_ns)
    os.mkdir("names")
    for name in (b"n" * 255, b"\xff\xfe", b"new\nline", b"tab\t", b" ", b"-rf", b"*", b"\\", b'"', b"'", b"\x01\x7f",
                 "\u00e9".encode(), "e\u0301".encode(), "\U0001f600".encode(), b"case", b"CASE", b"..."):
        write(b"names/" + name, name)
    deep = "/".join(["deep"] * 40)
    os.makedirs(deep)
    write(f"{deep}/file", b"deep")
    for name, target in (("dangling", "there-is-none"), ("loop", "loop"), ("folder-link", "names"), ("odd", b"\xff\n"),
                         ("absolute", "/etc/passwd"), ("upwards", "../../.."), ("long", "x/" * 500)):
        os.symlink(target, name)
        os.utime(name, ns=(0, 1_111_111_111), follow_symlinks=False)
    for name in ("hard-1", "names/hard-2", "many-3/hard-3"):
        os.link("size-4097", name)
    os.link("dangling", "hard-dangling")
    if has_pipes:
        os.mkfifo("pipe", 0o640)
    write("attributes", b"attributes")
    try:
        os.setxattr("attributes", "user.corral", b"a\0b\xff")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    for mode in (0o555, 0o700, 0o1777, 0o2755):
        os.mkdir(f"empty-{mode:o}")
        os.chmod(f"empty-{mode:o}", mode)
    os.mkdir("locked")
    write("locked/file", b"locked")
    os.chmod("locked", 0o555)
    for number, (folder, _, _) in enumerate(os.walk(".", topdown=False)):
        os.utime(folder, ns=(0, 1_000_000_000_000_000_001 + number))

for top in map(os.path.abspath, map(os.path.expanduser, sys.argv[2:])):
    make(top)
"""

_LIST = r"""
import hashlib, json, os, stat, sys

first_names = {}

def look(path, name):
    at = os.lstat(path)
    seen = {"mode": f"{at.st_mode:o}", "owner": [at.st_uid, at.st_gid], "links": at.st_nlink}
    seen["mtime_ns"] = at.st_mtime_ns
    if not stat.S_ISDIR(at.st_mode):
        seen["size"] = at.st_size
        seen["same_as"] = first_names.setdefault((at.st_dev, at.st_ino), name)
    if stat.S_ISLNK(at.st_mode):
        seen["target"] = ascii(os.readlink(path))
    elif stat.S_ISREG(at.st_mode):
        seen["has_holes"] = at.st_blocks * 512 < at.st_size // 2
        try:
            with open(path, "rb") as file:
                seen["sha256"] = hashlib.sha256(file.read()).hexdigest()
            seen["attributes"] = {each: os.getxattr(path, each).hex() for each in os.listxattr(path)}
        except PermissionError:
            seen["sha256"] = "not ours to read"
        except OSError:
            seen["attributes"] = "none here"
    return seen

def complain(error):
    raise error

manifest = {}
for top in sys.argv[1:]:
    start = os.fsencode(os.path.expanduser(top))
    for folder, below, files in os.walk(start, onerror=complain):
        below.sort()
        for path in sorted(os.path.join(folder, name) for name in [b"", *below, *files]):
            name = top + ascii(path[len(start):])
            manifest[name] = look(path, name)
json.dump(manifest, sys.stdout)
"""

_WRITE_AND_SYNC = r"""
import hashlib, os, sys

def synced(path, flags, content):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    os.write(fd, content)
    os.fsync(fd)
    os.close(fd)

os.mkdir("synced")
number = 0
while True:
    content = os.urandom(50_000)
    synced(f"synced/{number}", os.O_TRUNC, content)
    synced("log", os.O_APPEND, f"{hashlib.sha256(content).hexdigest()}  synced/{number}\n".encode())
    number += 1
"""

Manifest = dict[str, dict[str, Any]]


def _changed(before: Manifest, after: Manifest) -> dict[str, tuple[Any, Any]]:
    """Of each file that is not what it was: what it was, and what it is."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _coarse(manifest: Manifest) -> Manifest:
    """What an archive of old keeps of files: see `Difference.COARSE_SNAPSHOTS`."""
    second_ns = 10**9
    coarse = {"has_holes": False, "attributes": {}}
    return {
        name: {key: coarse.get(key, value) for key, value in seen.items()}
        | {"mtime_ns": seen["mtime_ns"] // second_ns * second_ns}
        for name, seen in manifest.items()
    }


class IntegrityChecks(Platform):
    async def _made(self, box: Sandbox) -> Manifest:
        """Files of every kind in a sandbox, and what is to be seen of them."""
        pipes = "no pipes" if self.states(Difference.OWN_KERNEL) else "pipes"
        await runs_python(box, _MAKE, pipes, *_FOLDERS)
        return await self._seen(box)

    async def _seen(self, box: Sandbox) -> Manifest:
        outcome = await execute(
            box, ["python3", "-c", _LIST, *_FOLDERS], output_limit_bytes=_MANIFEST_LIMIT_BYTES, timeout_s=60.0
        )
        assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 0), outcome.head[-2000:]
        manifest: Manifest = json.loads(outcome.head + outcome.tail)
        assert len(manifest) > 2000
        return manifest

    def _in_snapshot(self, manifest: Manifest) -> Manifest:
        """What a snapshot on this platform keeps of files."""
        if not self.states(Difference.COARSE_SNAPSHOTS):
            return manifest
        coarse = _coarse(manifest)
        assert coarse != manifest
        return coarse

    async def test_stopping_and_starting_changes_no_file(self, opened: SandboxDriver) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as box:
            before = await self._made(box)
        for _ in range(3):
            await opened.stop(ref)
            await opened.start(ref)
            async with entered(opened, ref) as box:
                assert _changed(before, await self._seen(box)) == {}

    async def test_pausing_changes_no_file(self, bench: Bench) -> None:
        if self.states(Difference.NO_PAUSE):
            return
        box = await bench.fresh()
        before = await self._made(box)
        for _ in range(3):
            await bench.driver.pause(box.ref)
            await bench.driver.resume(box.ref)
        assert _changed(before, await self._seen(box)) == {}

    @pytest.mark.parametrize("state", [SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.EXITED])
    async def test_a_snapshot_holds_every_file_as_it_is(self, opened: SandboxDriver, state: SandboxState) -> None:
        if self.states(Difference.NO_SNAPSHOTS) or (state is SandboxState.PAUSED and self.states(Difference.NO_PAUSE)):
            return
        parent, name = await make(opened, self.spec()), f"whole-{new_sandbox_id()[-10:]}"
        async with entered(opened, parent) as box:
            before = await self._made(box)
        if state is SandboxState.PAUSED:
            await opened.pause(parent)
        elif state is SandboxState.EXITED:
            await opened.stop(parent)
        await opened.snapshot(parent, name)
        async with entered(opened, await make(opened, self.spec(snapshot=name))) as child:
            assert _changed(self._in_snapshot(before), await self._seen(child)) == {}
        await opened.start(parent) if state is SandboxState.EXITED else await opened.resume(parent)
        async with entered(opened, parent) as box:
            assert _changed(before, await self._seen(box)) == {}, "and the parent's are its own"
        await opened.drop_snapshot(name)

    async def test_a_fork_of_a_fork_of_a_fork_that_was_restarted_has_every_file(self, opened: SandboxDriver) -> None:
        if self.states(Difference.NO_SNAPSHOTS):
            return
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as box:
            before = await self._made(box)
        for number in range(3):
            name = f"whole-{number}-{new_sandbox_id()[-10:]}"
            await opened.snapshot(ref, name)
            await opened.destroy(ref)
            ref = await make(opened, self.spec(snapshot=name))
            await opened.drop_snapshot(name)
            await opened.stop(ref)
            await opened.start(ref)
        async with entered(opened, ref) as box:
            assert _changed(self._in_snapshot(before), await self._seen(box)) == {}

    @pytest.mark.timeout(240)  # under gVisor it takes 25 s, and waits for the disk: on a busy one above a minute
    async def test_what_was_synced_is_whole_though_the_end_came_while_more_was_written(
        self, opened: SandboxDriver
    ) -> None:
        ref = await make(opened, self.spec())
        async with entered(opened, ref) as box:
            before = await self._made(box)
            await says(box, "sync")
        for _ in range(3):
            async with entered(opened, ref) as box:
                await says(box, "rm -rf synced log")
                writing = asyncio.create_task(execute(box, ["python3", "-c", _WRITE_AND_SYNC]))
                async with asyncio.timeout(30):
                    await says(box, "until test -s log; do sleep 0.05; done")
                await asyncio.sleep(0.3)
                await opened.stop(ref)
                await asyncio.gather(writing, return_exceptions=True)
            await opened.start(ref)
            async with entered(opened, ref) as box:
                # The log's last line may have been cut: its file was synced before, the line was not.
                await says(box, "grep -E '^[0-9a-f]{64}  synced/[0-9]+$' log | sha256sum --quiet -c && wc -l < log")
                assert _changed(before, await self._seen(box)) == {}
