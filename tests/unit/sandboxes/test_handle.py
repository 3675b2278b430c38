"""The verbs of a sandbox, against a real guest that runs as a plain process."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.errors import CallForgotten, InvalidRequest, SandboxGone
from orchestrator.sandboxes.driver import SandboxSpec
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from tests.fakes.local_driver import IMAGE, LocalDriver

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(short_path: Path) -> AsyncGenerator[Sandbox, None]:
    driver = LocalDriver(short_path)
    refs = [ref async for ref in driver.create(SandboxSpec("one", IMAGE))]
    link = await Link.open(await driver.connect(refs[-1]), 1)
    yield Sandbox(refs[-1], link, {"GREETING": "hello"})
    await link.aclose()
    await asyncio.to_thread(driver.kill_all)


@pytest.fixture
def workspace(sandbox: Sandbox) -> Path:
    return Path(sandbox.ref.token) / "workspace"


async def bash(sandbox: Sandbox, code: str, call: str = "c", **limits: object) -> CallOutcome:
    return await sandbox.bash(call, code, **{"timeout_s": 10, "output_limit_bytes": 1 << 20, **limits})  # type: ignore[arg-type]


async def python(sandbox: Sandbox, code: str, call: str = "c", **limits: object) -> CallOutcome:
    return await sandbox.python(call, code, **{"timeout_s": 10, "output_limit_bytes": 1 << 20, **limits})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("echo $GREETING", b"hello\n"),
        ("-x() { echo dash; }; -x", b"dash\n"),
        ("--version", b"bash: line 1: --version: command not found\n"),
        ("", b""),
        ("# only a comment", b""),
        ("echo ä; echo $'\\xff'", "ä\n".encode() + b"\xff\n"),
        ("cat <<'END'\n$HOME `x`\nEND", b"$HOME `x`\n"),
        ('read line; echo "[$line]"', b"[]\n"),
        ("echo one; echo two >&2; echo three", b"one\ntwo\nthree\n"),
    ],
)
async def test_bash(sandbox: Sandbox, code: str, output: bytes) -> None:
    assert (await bash(sandbox, code)).head == output


@pytest.mark.parametrize("filler", ["#", "é", "漢", "😀", "\x01", "\\", '"', "\n"], ids=ascii)
@pytest.mark.parametrize("size", [30_000, 100_000, 600_000])
async def test_code_of_every_size_and_script_runs(sandbox: Sandbox, filler: str, size: int) -> None:
    """Short code is an argument, long code goes by standard input; what counts is how long it is in a frame."""
    comment = ": '" + filler * size + "'\n"
    outcome = await bash(sandbox, f'{comment}read x; echo end "[$x]" $0')
    assert outcome.verdict is Verdict.EXITED, outcome
    assert outcome.head == b"end [] bash\n"


async def test_long_code_keeps_its_exit_code_and_its_last_line(sandbox: Sandbox) -> None:
    outcome = await bash(sandbox, "#" * 300_000 + "\nexit 7")
    assert (outcome.verdict, outcome.exit_code) == (Verdict.EXITED, 7)


async def test_python_of_every_size(sandbox: Sandbox) -> None:
    for call, size in (("a", 10), ("b", 700_000), ("c", 3_000_000)):
        outcome = await python(sandbox, "#" * size + "\nGREETING = 1; len('x')", call)
        assert (outcome.verdict, outcome.head) == (Verdict.EXITED, b"1\n")


async def test_pictures_of_a_cell_are_attachments_if_they_are_pictures(sandbox: Sandbox) -> None:
    code = (
        "import socket\n"
        "from orchestrator.guest import frames\n"
        "answer = frames.encode_json(frames.MESSAGE, 1, {'ok': True, 'types': ['text/html', 'image/png', 'image/png'],"
        " 'sizes': [6, 7, 12]})\n"
        "answer += frames.encode(frames.DATA, 1, b'<html>' + b'nothing' + b'\\x89PNG\\r\\n\\x1a\\n1234')\n"
        "socket.socket(fileno=3).sendall(answer + frames.encode(frames.END, 1))\n"
        "import time; time.sleep(0.2)"
    )
    outcome = await python(sandbox, code)
    assert [(each.media_type, each.content) for each in outcome.attachments] == [
        ("image/png", b"\x89PNG\r\n\x1a\n1234")
    ]


async def test_cancelling_a_cell_keeps_the_interpreter(sandbox: Sandbox) -> None:
    await python(sandbox, "kept = 5", "a")
    started = asyncio.Event()
    call = asyncio.ensure_future(
        sandbox.python(
            "b",
            "print('begun', flush=True)\nwhile True: pass",
            timeout_s=60,
            output_limit_bytes=100,
            on_output=lambda _: started.set(),
        )
    )
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await python(sandbox, "kept", "c")).head == b"5\n"


async def test_content_comes_back_whole(sandbox: Sandbox) -> None:
    content = os.urandom(5_000_000)
    outcome = await sandbox.execute("c", ["cat"], content, timeout_s=20, output_limit_bytes=2 * len(content))
    assert outcome.head == content
    seen: list[bytes] = []
    await sandbox.execute(
        "d", ["cat"], content, timeout_s=20, output_limit_bytes=2 * len(content), on_output=seen.append
    )
    assert b"".join(seen) == content


async def test_a_slow_command_takes_its_content_slowly(sandbox: Sandbox) -> None:
    content = os.urandom(5_000_000)
    code = "import sys, time, hashlib\ndigest = hashlib.sha256()\nwhile data := sys.stdin.buffer.read(500_000):\n"
    code += "    digest.update(data); time.sleep(0.02)\nprint(digest.hexdigest())"
    outcome = await sandbox.execute("c", ["python3", "-c", code], content, timeout_s=20, output_limit_bytes=1000)
    assert outcome.head.decode().strip() == hashlib.sha256(content).hexdigest()


async def test_file_operations(sandbox: Sandbox, workspace: Path) -> None:
    written = await sandbox.file("a", "write", {"path": "x/y"}, b"content")
    assert written.verdict is Verdict.DONE
    assert written.result == {"path": f"{workspace}/x/y", "size_bytes": 7, "created": True}
    assert (await sandbox.file("b", "read", {"path": "x/y"})).head == b"content"
    refused = await sandbox.file("c", "read", {"path": "no"})
    assert refused.verdict is Verdict.REFUSED
    assert refused.error is not None
    assert refused.error.code == "enoent"
    assert not refused.is_ok


async def test_a_tar_goes_in_and_out(sandbox: Sandbox, workspace: Path) -> None:
    target = io.BytesIO()
    content = os.urandom(3_000_000)
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo("a/b")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    async def pieces() -> AsyncGenerator[bytes, None]:
        data = target.getvalue()
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    assert (await sandbox.put("c", "/workspace", pieces())).is_ok
    assert (workspace / "a/b").read_bytes() == content
    out = b"".join([piece async for piece in sandbox.get(["a"])])
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        file = archive.extractfile(f"{workspace}/a/b".lstrip("/"))
        assert file is not None
        assert file.read() == content


async def test_a_transfer_of_nothing_fails_at_its_end(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequest, match="missing"):
        _ = [piece async for piece in sandbox.get(["missing"])]


async def test_a_slow_reader_keeps_the_tar_in_the_sandbox(sandbox: Sandbox, workspace: Path) -> None:
    (workspace / "big").write_bytes(bytes(20_000_000))
    taken = 0
    async for piece in sandbox.get(["big"]):
        taken += len(piece)
        if taken < 2_000_000:
            await asyncio.sleep(0.005)
    assert taken > 20_000_000


async def test_hundred_calls_at_once(sandbox: Sandbox) -> None:
    outcomes = await asyncio.gather(*(bash(sandbox, f"echo {number}", f"c{number}") for number in range(100)))
    assert [outcome.head for outcome in outcomes] == [b"%d\n" % number for number in range(100)]


async def test_a_call_that_was_stopped_is_over_and_never_carried_out_again(sandbox: Sandbox, workspace: Path) -> None:
    running = asyncio.ensure_future(bash(sandbox, "echo x >> count; sleep 60"))
    while not (workspace / "count").exists():
        await asyncio.sleep(0.01)
    assert await sandbox.stop("c") is True
    assert (await running).verdict is Verdict.CANCELLED
    with pytest.raises(CallForgotten):
        await bash(sandbox, "echo x >> count")
    assert (workspace / "count").read_text() == "x\n"


async def test_what_nobody_claims_is_ended_and_forgotten_on_a_new_link(sandbox: Sandbox, workspace: Path) -> None:
    await bash(sandbox, "echo stored", "stored")
    await bash(sandbox, "echo wanted", "wanted")
    limits = {"timeout_s": 60, "output_limit_bytes": 1000}
    calls = [asyncio.ensure_future(bash(sandbox, "sleep 60", call, **limits)) for call in ("left", "followed")]
    await asyncio.sleep(0.1)
    sandbox.link.let_go()
    await sandbox.link.aclose()
    await asyncio.gather(*calls, return_exceptions=True)
    link = await Link.open(await LocalDriver(workspace.parent.parent).connect(sandbox.ref), 2)
    again = Sandbox(sandbox.ref, link, {})
    await again.settle({"wanted", "followed", "elsewhere"})
    assert (await link.ask({"service": "calls"}))["calls"] == {"followed": "running", "wanted": "finished"}
    for call in ("stored", "left"):
        with pytest.raises(CallForgotten):
            await bash(again, "echo again", call)
    await link.aclose()


async def test_everything_ends_with_the_guest(sandbox: Sandbox, workspace: Path) -> None:
    calls = [asyncio.ensure_future(bash(sandbox, "sleep 60", f"c{number}")) for number in range(5)]
    await asyncio.sleep(0.1)
    os.kill(int((workspace.parent / "pid").read_text()), 9)
    for call in calls:
        with pytest.raises(SandboxGone):
            await asyncio.wait_for(call, 5)
    assert not sandbox.is_connected
