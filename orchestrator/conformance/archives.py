"""Checks of tar streams into a sandbox and out of it."""

from __future__ import annotations

import asyncio
import io
import tarfile

import pytest

from orchestrator.conformance.bench import call_id, error_code, runs_python, says
from orchestrator.conformance.platform import Platform
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_sandbox_id
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome, Verdict

_WORKSPACE = "/workspace"


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


async def _taken(box: Sandbox, paths: list[str]) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    content = b"".join([piece async for piece in box.get(paths)])
    return await asyncio.to_thread(_unpacked, content)


def _unpacked(content: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            found[member.name] = (member, file.read() if file else b"")
    return found


async def _put(box: Sandbox, name: str, content: bytes) -> CallOutcome:
    return await box.put(call_id(), f"{_WORKSPACE}/{name}", content)


class ArchiveChecks(Platform):
    async def test_files_and_folders_go_in(self, box: Sandbox) -> None:
        """`/workspace` is where the commands run; folders on the way are made."""
        name = f"check-{new_sandbox_id()}"
        archive = _archive(
            (_member("plain"), b"text"),
            (_member("empty"), b""),
            (_member("folder", tarfile.DIRTYPE), b""),
            (_member("deep/er/tool", mode=0o755), b"#!/bin/sh\necho ran\n"),
            (_member("ünï 🐎\nname"), b"odd"),
        )
        outcome = await _put(box, name, archive)
        assert outcome.result == {"files": 4, "size_bytes": 26}
        assert await says(box, f"cd {name}; cat plain; deep/er/tool; test -d folder && cat 'ünï 🐎\nname'") == (
            b"textran\nodd"
        )
        assert await says(box, f"find {name}/plain -printf '%U\\n'") == await says(box, "id -u")

    async def test_a_large_archive_goes_in_and_comes_out(self, box: Sandbox, folder: str) -> None:
        name, content = folder.rsplit("/", 1)[1], bytes(range(256)) * 204_800  # 50 MiB
        await _put(box, name, _archive((_member("big"), content)))
        found = await _taken(box, [f"{folder}/big"])
        assert [data for _, data in found.values()] == [content]

    async def test_what_was_there_is_replaced(self, box: Sandbox, folder: str) -> None:
        name = folder.rsplit("/", 1)[1]
        await says(box, f"echo a longer old text > {folder}/file")
        await _put(box, name, _archive((_member("file"), b"new")))
        assert await says(box, f"cat {folder}/file") == b"new"

    async def test_privileges_are_stripped(self, box: Sandbox, folder: str) -> None:
        await _put(box, folder.rsplit("/", 1)[1], _archive((_member("tool", mode=0o6755), b"#!/bin/sh\n")))
        assert await says(box, f"find {folder}/tool -printf %m") == b"755"

    @pytest.mark.parametrize(
        "member",
        [
            _member("../outside"),
            _member("in/../../outside"),
            _member("link", tarfile.SYMTYPE, "/etc"),
            _member("link", tarfile.SYMTYPE, "below"),
            _member("hard", tarfile.LNKTYPE, "/etc/passwd"),
            _member("device", tarfile.CHRTYPE),
            _member("pipe", tarfile.FIFOTYPE),
        ],
        ids=["parent", "detour", "link out", "link inside", "hard link", "device", "pipe"],
    )
    async def test_what_is_no_file_below_the_target_is_refused(
        self, box: Sandbox, folder: str, member: tarfile.TarInfo
    ) -> None:
        outcome = await _put(box, folder.rsplit("/", 1)[1], _archive((member, b"")))
        assert error_code(outcome) == "bad_archive"
        assert await says(box, f"find {folder} -mindepth 1; ! test -e {folder}/../outside") == b""

    async def test_an_absolute_name_stays_below_the_target(self, box: Sandbox, folder: str) -> None:
        name = f"absolute-{new_sandbox_id()}"
        await _put(box, folder.rsplit("/", 1)[1], _archive((_member(f"/{name}"), b"text")))
        assert await says(box, f"cat {folder}/{name}; ! test -e /{name}") == b"text"

    async def test_a_link_that_is_there_leads_no_privilege_out(self, box: Sandbox, folder: str) -> None:
        """The agent may follow its own links; what it may not write stays as it is."""
        await says(box, f"ln -s /proc/sys/kernel {folder}/out")
        outcome = await _put(box, folder.rsplit("/", 1)[1], _archive((_member("out/hostname"), b"changed")))
        assert outcome.verdict is Verdict.REFUSED

    @pytest.mark.parametrize(
        "content",
        [b"", b"no archive", b"\0" * 5000, _archive((_member("a"), b"x" * 2000))[:1500]],
        ids=["empty", "text", "zeros", "cut off"],
    )
    async def test_what_is_no_archive_harms_nobody(self, box: Sandbox, folder: str, content: bytes) -> None:
        outcome = await _put(box, folder.rsplit("/", 1)[1], content)
        assert outcome.verdict in (Verdict.REFUSED, Verdict.DONE)
        assert await says(box, "echo hello") == b"hello\n"

    async def test_the_same_archive_twice_is_unpacked_once(self, box: Sandbox, folder: str) -> None:
        call, name = call_id(), folder.rsplit("/", 1)[1]
        archive = _archive((_member("file"), b"text"))
        await box.put(call, f"{_WORKSPACE}/{name}", archive)
        await says(box, f"echo changed > {folder}/file")
        assert (await box.put(call, f"{_WORKSPACE}/{name}", archive)).verdict is Verdict.DONE
        assert await says(box, f"cat {folder}/file") == b"changed\n"

    async def test_files_folders_and_links_come_out(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; mkdir -p sub/empty; echo text > sub/file; chmod 750 sub/file; mkfifo sub/pipe")
        await says(box, f"cd {folder}; ln -s /etc/passwd sub/link; printf x > $'sub/odd\\n\\xff'")
        found = await _taken(box, [f"{folder}/sub"])
        names = {name.rsplit("/sub", 1)[1]: member for name, (member, _) in found.items()}
        assert set(names) == {"", "/empty", "/file", "/link", "/odd\n\udcff"}
        assert names["/link"].issym()
        assert names["/link"].linkname == "/etc/passwd"
        assert names["/file"].mode == 0o750
        assert next(data for name, (_, data) in found.items() if name.endswith("/file")) == b"text\n"

    async def test_several_paths_come_out_at_once(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; echo 1 > one; echo 2 > two; echo 3 > three")
        found = await _taken(box, [f"{folder}/one", f"{folder}/two"])
        assert sorted(data for _, data in found.values()) == [b"1\n", b"2\n"]

    async def test_what_is_not_there_is_said(self, box: Sandbox, folder: str) -> None:
        with pytest.raises(InvalidRequest):
            await _taken(box, [f"{folder}/none"])
        assert await says(box, "echo hello") == b"hello\n"

    async def test_a_file_that_grows_comes_out_as_some_whole_archive(self, box: Sandbox, folder: str) -> None:
        await says(box, f"(timeout 3 bash -c 'while :; do echo line >> {folder}/log; done') >/dev/null 2>&1 &")
        await asyncio.sleep(0.1)
        try:
            found = await _taken(box, [folder])
        except InvalidRequest:
            return  # said, not broken
        assert any(name.endswith("/log") for name in found)

    async def test_whoever_stops_reading_harms_nobody(self, box: Sandbox, folder: str) -> None:
        await says(box, f"head -c 30000000 /dev/zero > {folder}/big")
        transfer = box.get([f"{folder}/big"])
        await anext(transfer)
        await transfer.aclose()
        assert await says(box, "echo hello") == b"hello\n"

    async def test_many_files_come_out(self, box: Sandbox, folder: str) -> None:
        await runs_python(box, "import sys\nfor n in range(2000): open(f'{sys.argv[1]}/{n}', 'w').write('x')", folder)
        assert len(await _taken(box, [folder])) == 2001
