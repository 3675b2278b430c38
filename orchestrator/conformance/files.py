"""Checks of file operations: whole contents, in both directions, and what stands in the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.conformance.bench import Bench, error_code, file, read, says, write
from orchestrator.conformance.differences import Difference
from orchestrator.conformance.platform import Platform
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_BIG_BYTES = 50 << 20
_CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "ends of lines of Windows": b"one\r\ntwo\r\n",
    "no end of line": b"one\ntwo",
    "every byte": bytes(range(256)) * 300,
    "NUL": b"\0\0\0",
    "unicode": "ünï 🐎 \u202e\u200b".encode(),
    "no text": b"\xff\xfe\xc3(",
    "byte order mark": b"\xef\xbb\xbfone",
    "one long line": b"x" * 1_000_000,
    "a window's size": b"y" * (512 << 10),
    "a window's size and one": b"z" * ((512 << 10) + 1),
}


class FileChecks(Platform):
    # contents

    @pytest.mark.parametrize("kind", list(_CONTENTS))
    async def test_what_is_written_is_what_is_read(self, box: Sandbox, folder: str, kind: str) -> None:
        content = _CONTENTS[kind]
        await write(box, f"{folder}/file", content)
        assert await read(box, f"{folder}/file", 4 << 20) == content
        digest = hashlib.sha256(content).hexdigest().encode()
        assert (await says(box, f"sha256sum < {folder}/file")).split()[0] == digest

    async def test_fifty_mebibytes_go_in_and_come_out(self, box: Sandbox, folder: str) -> None:
        block = hashlib.sha256(b"seed").hexdigest().encode() * (1 << 14)
        content = block * (_BIG_BYTES // len(block))

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 1 << 20):
                yield content[start : start + (1 << 20)]

        outcome = await file(box, "write", f"{folder}/big", pieces())
        assert outcome.result is not None
        assert outcome.result["size_bytes"] == _BIG_BYTES
        digest = hashlib.sha256(content).hexdigest().encode()
        assert (await says(box, f"sha256sum {folder}/big")).split()[0] == digest
        assert await read(box, f"{folder}/big", 2 * _BIG_BYTES) == content
        await says(box, f"rm {folder}/big")

    async def test_what_a_command_wrote_is_read_at_once(self, box: Sandbox, folder: str) -> None:
        for number in range(10):
            await says(box, f"echo {number} > {folder}/file")
            assert await read(box, f"{folder}/file") == b"%d\n" % number

    async def test_files_are_the_agents_own(self, box: Sandbox, folder: str) -> None:
        await write(box, f"{folder}/new/deep/file", b"text")
        owner = (await says(box, "id -u; id -g")).split()
        shown = await says(box, f"cd {folder}; find new -printf '%U %G %m\\n'")
        assert [line.split() for line in shown.splitlines()] == [[*owner, mode] for mode in (b"755", b"755", b"644")]

    async def test_a_new_content_keeps_the_old_mode(self, box: Sandbox, folder: str) -> None:
        await says(box, f"echo old > {folder}/tool; chmod 751 {folder}/tool")
        outcome = await file(box, "write", f"{folder}/tool", b"new")
        assert outcome.result is not None
        assert outcome.result["created"] is False
        assert await says(box, f"find {folder}/tool -printf '%m\\n'; cat {folder}/tool") == b"751\nnew"

    async def test_a_new_content_goes_through_a_link_to_its_target(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; echo old > target; ln -s target link")
        await write(box, f"{folder}/link", b"new")
        assert await says(box, f"cd {folder}; readlink link; cat target") == b"target\nnew"

    async def test_two_who_write_at_once_leave_one_whole_content(self, box: Sandbox, folder: str) -> None:
        contents = [letter * 300_000 for letter in (b"a", b"b", b"c")]
        await asyncio.gather(*(write(box, f"{folder}/file", content) for content in contents))
        assert await read(box, f"{folder}/file", 1 << 20) in contents
        assert await says(box, f"find {folder} -mindepth 1 -printf '%P\\n'") == b"file\n"

    async def test_a_cancelled_write_leaves_the_old_content(self, box: Sandbox, folder: str) -> None:
        await write(box, f"{folder}/file", b"old")

        async def never_ending() -> AsyncIterator[bytes]:
            yield b"new" * 100_000
            await asyncio.sleep(60)

        writing = asyncio.create_task(file(box, "write", f"{folder}/file", never_ending()))
        await asyncio.sleep(0.3)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert await read(box, f"{folder}/file") == b"old"

    async def test_lines_can_be_asked_for(self, box: Sandbox, folder: str) -> None:
        await says(box, f"seq 1 100 > {folder}/lines")
        assert (await file(box, "read", f"{folder}/lines", first_line=10, line_count=2)).head == b"10\n11\n"
        assert (await file(box, "read", f"{folder}/lines", first_line=100)).head == b"100\n"
        assert (await file(box, "read", f"{folder}/lines", first_line=101, line_count=5)).head == b""

    async def test_reading_beyond_the_limit_keeps_beginning_and_end(self, box: Sandbox, folder: str) -> None:
        await says(box, f"seq 1 100000 > {folder}/lines")
        outcome = await file(box, "read", f"{folder}/lines", limit_bytes=1000)
        assert outcome.head.startswith(b"1\n2\n")
        assert outcome.tail.endswith(b"99999\n100000\n")
        assert outcome.dropped_bytes > 500_000

    # edit, list, search, delete

    async def test_a_text_is_replaced_where_it_is_one(self, box: Sandbox, folder: str) -> None:
        await write(box, f"{folder}/file", "one\r\ntwö\r\nthree".encode())
        change = json.dumps({"old": "twö\r\n", "new": "2\n"}).encode()
        outcome = await file(box, "edit", f"{folder}/file", change)
        assert outcome.result is not None
        assert (outcome.result["replacements"], outcome.result["line"]) == (1, 2)
        assert await read(box, f"{folder}/file") == b"one\r\n2\nthree"

    async def test_a_text_that_is_not_there_or_not_one_is_refused(self, box: Sandbox, folder: str) -> None:
        await write(box, f"{folder}/file", b"a a b")

        def change(old: str, **more: object) -> bytes:
            return json.dumps({"old": old, "new": "x"} | more).encode()

        assert error_code(await file(box, "edit", f"{folder}/file", change("c"))) == "no_match"
        assert error_code(await file(box, "edit", f"{folder}/file", change("a"))) == "ambiguous"
        assert error_code(await file(box, "edit", f"{folder}/file", change(""))) == "bad_request"
        assert await read(box, f"{folder}/file") == b"a a b"
        assert (await file(box, "edit", f"{folder}/file", change("a", replace_all=True))).verdict is Verdict.DONE
        assert await read(box, f"{folder}/file") == b"x x b"

    async def test_a_folder_is_listed(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; mkdir sub; echo text > sub/file; ln -s nowhere link; mkfifo pipe")
        outcome = await file(box, "list", folder)
        entries = {entry["name"]: entry["type"] for entry in map(json.loads, outcome.head.splitlines())}
        assert entries == {"sub": "directory", "link": "symlink", "pipe": "other"}
        outcome = await file(box, "list", folder, recursive=True)
        assert {json.loads(line)["name"] for line in outcome.head.splitlines()} == {
            f"{folder}/{name}" for name in ("sub", "sub/file", "link", "pipe")
        }

    async def test_files_are_searched(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; echo needle > a.txt; echo needle > b.py; printf 'needle\\0' > c.txt; mkfifo p")
        outcome = await file(box, "search", folder, pattern="n[e]+dle", glob="*.txt")
        assert outcome.head.decode() == f"{folder}/a.txt:1: needle\n"
        assert error_code(await file(box, "search", folder, pattern="(")) == "bad_request"

    async def test_files_and_folders_are_deleted_and_links_not_followed(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; mkdir -p sub/deep keep; touch sub/deep/file keep/file; ln -s keep link")
        for name in ("sub", "link"):
            assert (await file(box, "delete", f"{folder}/{name}")).verdict is Verdict.DONE
        assert await says(box, f"cd {folder}; find . -type f") == b"./keep/file\n"

    async def test_the_working_directory_cannot_be_deleted(self, box: Sandbox) -> None:
        for path in (".", "/", ".."):
            assert error_code(await file(box, "delete", path)) in ("refused", "eacces", "eperm", "erofs", "ebusy")
        assert await says(box, "echo hello") == b"hello\n"

    # what stands in the way

    async def test_a_directory_in_the_way(self, box: Sandbox, folder: str) -> None:
        await says(box, f"mkdir {folder}/name; touch {folder}/name/file")
        assert error_code(await file(box, "write", f"{folder}/name", b"text")) == "is_a_directory"
        assert error_code(await file(box, "read", f"{folder}/name")) == "not_a_file"
        assert await says(box, f"find {folder} -mindepth 1 -printf '%P\\n'") == b"name\nname/file\n"

    async def test_a_file_where_a_folder_should_be(self, box: Sandbox, folder: str) -> None:
        await write(box, f"{folder}/file", b"text")
        assert error_code(await file(box, "write", f"{folder}/file/below", b"text")) in ("enotdir", "eexist")
        assert error_code(await file(box, "read", f"{folder}/file/below")) == "enotdir"
        assert await read(box, f"{folder}/file") == b"text"

    async def test_what_is_not_there(self, box: Sandbox, folder: str) -> None:
        await says(box, f"ln -s nowhere {folder}/dangling; ln -s loop {folder}/loop")
        for name, code in (("none", "enoent"), ("no/ne", "enoent"), ("dangling", "enoent"), ("loop", "eloop")):
            assert error_code(await file(box, "read", f"{folder}/{name}")) == code
        assert error_code(await file(box, "delete", f"{folder}/none")) == "enoent"
        assert error_code(await file(box, "list", f"{folder}/none")) == "enoent"

    async def test_what_is_forbidden_to_the_agent_is_forbidden(self, box: Sandbox, folder: str) -> None:
        await says(box, f"cd {folder}; mkdir closed; echo text > closed/file; echo text > unreadable")
        await says(box, f"cd {folder}; chmod 0 unreadable; chmod 0 closed")
        attempts = [
            await file(box, "read", f"{folder}/unreadable"),
            await file(box, "read", f"{folder}/closed/file"),
            await file(box, "write", f"{folder}/closed/new", b"text"),
            await file(box, "delete", f"{folder}/closed/file"),
        ]
        await says(box, f"chmod 755 {folder}/closed")
        if self.states(Difference.NO_ISOLATION) and await says(box, "id -u") == b"0\n":
            assert [attempt.verdict for attempt in attempts] == [Verdict.DONE] * 4  # root may
            return
        assert [error_code(attempt) for attempt in attempts] == ["eacces"] * 4

    @pytest.mark.parametrize("path", ["/etc/passwd", "/usr/bin/python3", "/new", "/etc/new", "/proc/sys/kernel/new"])
    async def test_nothing_is_written_outside_the_agents_folders(self, box: Sandbox, folder: str, path: str) -> None:
        if self.states(Difference.NO_ISOLATION):
            # Not tried: it would be this machine's own file.
            assert await self.shares_this_machine(box, "mnt")
            return
        await says(box, f"ln -s {path} {folder}/link")
        for name in (path, f"{folder}/link"):
            assert error_code(await file(box, "write", name, b"text")) in ("eacces", "erofs", "eperm", "enoent")

    @pytest.mark.parametrize("path", ["/etc/shadow", "/root/.profile", "/proc/1/environ", "/proc/1/mem"])
    async def test_a_link_leads_nowhere_that_the_agent_may_not_go(self, box: Sandbox, folder: str, path: str) -> None:
        if self.states(Difference.NO_ISOLATION):
            assert await self.shares_this_machine(box, "mnt")
            return
        if self.states(Difference.OWN_KERNEL) and path == "/proc/1/environ":
            assert b"PATH=" in await read(box, path)  # it is the image's own
            return
        await says(box, f"ln -s {path} {folder}/link; ln -s / {folder}/root")
        for name in (path, f"{folder}/link", f"{folder}/root{path}", f"../..{path}"):
            assert error_code(await file(box, "read", name)) in (
                # A kernel of its own may take a link to the root with more behind it for the root itself.
                "eacces",
                "eperm",
                "enoent",
                "esrch",
                "not_a_file",
            )

    @pytest.mark.parametrize("name", ["pipe", "socket", "/dev/zero", "/dev/stdin", "/proc/self/fd/0"])
    async def test_what_is_no_file_is_not_waited_for(self, box: Sandbox, folder: str, name: str) -> None:
        bind = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
        await says(box, f"cd {folder}; mkfifo pipe; python3 -c '{bind}' socket")
        path = name if name.startswith("/") else f"{folder}/{name}"
        async with asyncio.timeout(10):
            outcome = await file(box, "read", path)
        assert error_code(outcome) in ("not_a_file", "enxio", "enoent", "eacces", "enodev")

    @pytest.mark.parametrize("arguments", [{"first_line": "x"}, {"first_line": [1]}, {"line_count": {}}])
    async def test_arguments_that_make_no_sense_are_refused(
        self, box: Sandbox, folder: str, arguments: dict[str, Any]
    ) -> None:
        await write(box, f"{folder}/file", b"text")
        assert error_code(await file(box, "read", f"{folder}/file", **arguments)) == "bad_request"

    async def test_operations_go_on_beside_each_other(self, bench: Bench, box: Sandbox, folder: str) -> None:
        async def turn(number: int) -> bytes:
            await write(box, f"{folder}/{number}", b"%d" % number)
            return await read(box, f"{folder}/{number}")

        assert await asyncio.gather(*(turn(number) for number in range(20))) == [b"%d" % n for n in range(20)]
