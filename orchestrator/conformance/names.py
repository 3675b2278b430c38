"""Checks of odd names: a name is bytes, and nothing interprets it."""

from __future__ import annotations

import json
import os

import pytest

from orchestrator.conformance.bench import error_code, execute, file, read, run, runs_python, write
from orchestrator.conformance.platform import Platform
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import Verdict

_NAMES = {
    "spaces": b" two  words ",
    "newline": b"two\nlines",
    "carriage return and tab": b"a\r\tb",
    "leading hyphen": b"-rf",
    "two hyphens": b"--help",
    "leading dot": b".hidden",
    "dots": b"...",
    "quotes": b'it\'s "quoted"',
    "shell": b"$(touch x) `id` ; | & > *",
    "backslash": b"a\\b\\",
    "tilde": b"~",
    "unicode": "ünï 🐎".encode(),
    "not composed": "u\u0308".encode(),
    "right to left": "a\u202etxt.exe".encode(),
    "no width": "a\u200bb".encode(),
    "no text": b"\xff\xfe\x80",
    "half a character": b"caf\xc3",
    "a surrogate": b"\xed\xa0\x80",
    "control characters": b"\x01\x1b[2J\x7f",
    "glob": b"[a-z]?*",
    "percent": b"%2e%2e%2f%s",
    "like a device": b"con:",
    "255 bytes": b"x" * 255,
    "255 bytes of unicode": "é".encode() * 127 + b"x",
}
_MAKE = "import os, sys; open(os.fsencode(sys.argv[1]) + b'/' + bytes.fromhex(sys.argv[2]), 'w').write('text')"
_NAMES_IN = "import os, sys; print([name.hex() for name in os.listdir(os.fsencode(sys.argv[1]))])"


class NameChecks(Platform):
    @pytest.mark.parametrize("kind", list(_NAMES))
    async def test_an_odd_name_goes_in_and_comes_out(self, box: Sandbox, folder: str, kind: str) -> None:
        path = f"{folder}/{os.fsdecode(_NAMES[kind])}"
        await write(box, path, b"text")
        assert await runs_python(box, _NAMES_IN, folder) == f"[{_NAMES[kind].hex()!r}]\n"
        assert await read(box, path) == b"text"
        listed = await file(box, "list", folder)
        assert [os.fsencode(json.loads(line)["name"]) for line in listed.head.splitlines()] == [_NAMES[kind]]
        assert (await file(box, "delete", path)).verdict is Verdict.DONE
        assert await runs_python(box, _NAMES_IN, folder) == "[]\n"

    @pytest.mark.parametrize("kind", list(_NAMES))
    async def test_an_odd_name_that_a_command_made_is_found(self, box: Sandbox, folder: str, kind: str) -> None:
        name = _NAMES[kind]
        await runs_python(box, _MAKE, folder, name.hex())
        listed = await file(box, "list", folder)
        found = [os.fsencode(json.loads(line)["name"]) for line in listed.head.splitlines()]
        assert found == [name]
        outcome = await execute(box, ["cat", "--", f"{folder}/{os.fsdecode(name)}"])
        assert outcome.head == b"text"
        searched = await file(box, "search", folder, pattern="^te.t$")
        assert searched.head == os.fsencode(folder) + b"/" + name + b":1: text\n"

    async def test_256_bytes_are_too_many(self, box: Sandbox, folder: str) -> None:
        assert error_code(await file(box, "write", f"{folder}/{'x' * 256}", b"text")) == "enametoolong"
        assert error_code(await file(box, "read", f"{folder}/{'x' * 256}")) == "enametoolong"

    async def test_a_path_may_be_too_long(self, box: Sandbox, folder: str) -> None:
        path = folder + "/" + "/".join(["x" * 200] * 40)
        assert error_code(await file(box, "write", path, b"text")) == "enametoolong"
        assert error_code(await file(box, "read", path)) == "enametoolong"

    async def test_nul_is_refused(self, box: Sandbox, folder: str) -> None:
        for operation in ("read", "list", "delete"):
            assert error_code(await file(box, operation, f"{folder}/a\0b")) == "bad_path"
        assert error_code(await file(box, "write", f"{folder}/a\0b", b"text")) == "bad_path"

    async def test_a_path_is_read_once(self, box: Sandbox, folder: str) -> None:
        """Nothing is decoded, expanded or trimmed on the way."""
        await write(box, f"{folder}/plain", b"text")
        for name in ("%70lain", "plain ", " plain", "$HOME/plain", "~/plain", "plain\n", "PLAIN"):
            assert error_code(await file(box, "read", f"{folder}/{name}")) == "enoent"
        for name in ("./plain", "../" + folder.rsplit("/", 1)[1] + "/plain", "//plain", "none/../plain"):
            assert await read(box, f"{folder}/{name}") == b"text"

    async def test_a_folder_whose_path_is_longer_than_the_kernel_takes(self, box: Sandbox, folder: str) -> None:
        """A command can make one step by step; listing passes over what it cannot name, and deleting does not hang."""
        program = (
            "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(40): os.mkdir('x' * 200); os.chdir('x' * 200)\n"
        )
        await runs_python(box, program, folder)
        assert (await file(box, "list", folder, recursive=True, limit_bytes=1 << 20)).verdict is Verdict.DONE
        assert (await file(box, "search", folder, pattern="x")).verdict is Verdict.DONE
        assert (await file(box, "delete", folder)).verdict in (Verdict.DONE, Verdict.REFUSED)
        await run(box, f"rm -rf {folder}")
