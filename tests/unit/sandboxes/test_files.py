"""Files of a sandbox, as far as it depends on what its guest says: nothing of that is believed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.errors import Conflict, CorralError, InvalidRequest, NotFound, SandboxGone
from orchestrator.sandboxes import files
from orchestrator.sandboxes.files import Target
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallError, Verdict
from tests.fakes.sandboxes import FakeSandbox, done, outcome

pytestmark = pytest.mark.anyio

ENTRY = {"path": "workspace/a", "type": "file", "size_bytes": 3, "created": 1.0, "modified": 2.0}


class Told:
    """A channel whose guest says `data` in pieces, then `message`; or refuses."""

    def __init__(self, *data: bytes, message: Any = None, refusal: CorralError | None = None) -> None:
        self._data = [*data, b""]
        self._message = {"result": {"is_complete": True}} if message is None else message
        self._refusal = refusal
        self.is_closed = False

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self._refusal is not None:
            raise self._refusal
        return self._data.pop(0) if self._data else b""

    async def message(self) -> Any:
        await asyncio.sleep(0)
        return self._message

    def close(self) -> None:
        self.is_closed = True


def sandbox_that(told: Told) -> Sandbox:
    made = FakeSandbox()
    made.link.channel = lambda _request: told
    return made.as_sandbox()


async def listed(told: Told, limit: int = 10) -> Any:
    sandbox = sandbox_that(told)
    try:
        return await files.entries(sandbox, b"workspace", is_recursive=False, after=b"", limit=limit)
    finally:
        assert told.is_closed
        assert sandbox.transfers == 0


def line(**changes: Any) -> bytes:
    return json.dumps({**ENTRY, **changes}).encode() + b"\n"


async def test_entries_come_in_whatever_pieces() -> None:
    whole = line() + line(path="workspace/\udcff", type="other")
    found, is_complete = await listed(Told(*(whole[at : at + 7] for at in range(0, len(whole), 7))))
    assert [each.path for each in found] == [b"workspace/a", b"workspace/\xff"]
    assert is_complete


@pytest.mark.parametrize(
    "data",
    [
        b"no json\n",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        line(type="evil"),
        line(size_bytes=-1),
        line(size_bytes=1 << 70),
        line(modified=float("nan")),
        line(path="\ud800"),
        line(path=None),
        b"x" * 100_000,
        line() * 12,
    ],
    ids=lambda data: ascii(data[:30]),
)
async def test_what_is_no_listing_ends_the_trust(data: bytes) -> None:
    with pytest.raises(SandboxGone):
        await listed(Told(data))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("enoent", NotFound),
        ("enotdir", NotFound),
        ("eloop", InvalidRequest),
        ("exdev", Conflict),
        ("x\x1b[", InvalidRequest),
    ],
)
async def test_refusals_are_told_in_words_of_ours(code: str, expected: type[CorralError]) -> None:
    hostile = {"error": {"code": code, "message": "<script>\x1b]0;x"}}
    with pytest.raises(expected) as caught:
        await listed(Told(message=hostile))
    assert "\x1b" not in caught.value.message
    assert "<script>" not in caught.value.message


async def test_a_guest_of_an_earlier_release_is_named_as_such() -> None:
    with pytest.raises(Conflict, match="earlier release"):
        await listed(Told(refusal=InvalidRequest("the guest refused: KeyError: 'paths'")))


async def test_a_download_is_as_long_as_was_said() -> None:
    for said, data, is_right in ((3, b"abc", True), (2, b"abc", False), (4, b"abc", False)):
        header = json.dumps({"entry": ENTRY, "first": 0, "count": said}).encode() + b"\n"
        sandbox = sandbox_that(Told(header + data[:1], data[1:], message={"result": {}}))
        media = await files.media(sandbox, b"workspace/a")
        try:
            assert b"".join([piece async for piece in media]) == data
            assert is_right
        except SandboxGone:
            assert not is_right
        media.close()
        assert sandbox.transfers == 0


async def test_outcomes_of_uploads() -> None:
    target = Target(b"workspace/a", overwrite=False, is_archive=False)
    for ended, expected in (
        (done(temporary=1), SandboxGone),
        (outcome(verdict=Verdict.DISK_FULL, exit_code=None), Conflict),
        (outcome(verdict=Verdict.OOM, exit_code=None), SandboxGone),
        (outcome(verdict=Verdict.REFUSED, exit_code=None, error=CallError("exists", "workspace/a")), Conflict),
        (outcome(verdict=Verdict.REFUSED, exit_code=None, error=CallError("bad_request", "KeyError")), Conflict),
    ):
        made = FakeSandbox(ended)
        with pytest.raises(expected):
            await files.begin_upload(made.as_sandbox(), target)
        assert made.acknowledged == made.carried_out
