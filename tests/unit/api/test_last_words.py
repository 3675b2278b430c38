"""What callers hear whose requests are cut off."""

from __future__ import annotations

import asyncio
import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from orchestrator.api.application import LastWords
from orchestrator.api.server import _is_fault

pytestmark = pytest.mark.anyio


async def cut_off(*, says: list[Message], is_closing: bool) -> tuple[list[Message], bool]:
    """What was sent to a caller whose request was cut off after `says`, and whether the cut went on outward."""
    sent: list[Message] = []
    closing = asyncio.Event()
    if is_closing:
        closing.set()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in says:
            await send(message)
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    request = asyncio.ensure_future(LastWords(app, closing)({"type": "http"}, receive, send))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    return sent, request.cancelled()


async def test_a_request_that_the_end_cuts_off_is_answered() -> None:
    (start, body), was_cut = await cut_off(says=[], is_closing=True)
    assert not was_cut
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert b"unavailable" in body["body"]


@pytest.mark.parametrize(
    ("says", "is_closing"), [([{"type": "http.response.start", "status": 200}], True), ([], False)]
)
async def test_an_answer_that_has_begun_and_a_caller_who_has_left_are_left_alone(
    says: list[Message], is_closing: bool
) -> None:
    assert await cut_off(says=says, is_closing=is_closing) == (says, True)


def test_a_request_that_was_cut_off_is_no_mistake_and_one_that_broke_is() -> None:
    def record(error: BaseException) -> logging.LogRecord:
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception", (), (type(error), error, None))

    assert not _is_fault(record(asyncio.CancelledError()))
    assert _is_fault(record(ValueError()))
