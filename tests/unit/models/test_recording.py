"""A recorded provider: it says what the other says, and writes down whole exchanges only."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from orchestrator.errors import ModelError
from orchestrator.models.cassettes import Cassette, Header, Key, parse_cassette
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.models.recording import Recordings
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import ModelOutput, Step, UserInput
from tests.conformance.model_suite import collect
from tests.fakes.runs import PlayedModel

pytestmark = pytest.mark.anyio

KEY = "crl_" + "aZ09_-" * 7 + "b"
PROJECT = "prj_0123456789abcdef"
Played = Sequence[ModelEvent | Exception]


def request(turn: int = 0, *more: str, **fields: Any) -> ModelRequest:
    history: list[Step] = [
        UserInput(content=[TextContent(text="Go.")]),
        *(ModelOutput(content=[TextContent(text=x)]) for x in more),
    ]
    return ModelRequest(model="m", system="s", history=tuple(history), tools=(), turn=turn, **fields)


class Recorded:
    """A folder of recordings, and a provider that is recorded into it."""

    def __init__(self, folder: Path, *turns: Played, variables: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.inner = PlayedModel(lambda asked: turns[min(asked.turn, len(turns) - 1)])
        self._variables = variables or {}
        self.file = folder / PROJECT / "v1_x.jsonl"
        self.model = self.again()

    def again(self) -> ModelProvider:
        """The next holder of the run."""
        header = Header(interaction="v1_x", agent="general", model="m")
        return Recordings(self.folder, ["provider-key"]).of(self.inner, PROJECT, header, self._variables)

    def cassette(self) -> Cassette:
        return parse_cassette(self.file.read_bytes())

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


async def test_it_says_the_same_and_writes_it_down(tmp_path: Path) -> None:
    events: list[ModelEvent] = [
        TextDelta("He"),
        TextDelta("llo"),
        ThoughtSignature("s"),
        CallStart("f"),
        CallDelta("{"),
        CallDelta("}"),
    ]
    recorded = Recorded(tmp_path / "c", [*events, TurnEnd()])
    assert await collect(recorded.model, request()) == [*events, TurnEnd()]
    (exchange,) = recorded.cassette().exchanges.values()
    assert exchange.key == Key("turn", 0)
    assert exchange.events == (TextDelta("Hello"), ThoughtSignature("s"), CallStart("f"), CallDelta("{}"), TurnEnd())
    assert recorded.cassette().header == Header(interaction="v1_x", agent="general", model="m")


async def test_it_is_written_before_the_end_is_told(tmp_path: Path) -> None:
    """Whoever hears the end asks for nothing more, and may close the stream."""
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    async with aclosing(recorded.model.stream(request())) as stream:
        async for event in stream:
            assert recorded.file.exists() is isinstance(event, TurnEnd)
            if isinstance(event, TurnEnd):
                break
    assert len(recorded.cassette().exchanges) == 1


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "c", [TurnEnd()])
    await collect(recorded.model, request())
    assert stat.S_IMODE(recorded.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(recorded.file.parent.stat().st_mode) == 0o700


async def test_a_conversation_is_written_once(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TurnEnd()])
    await collect(recorded.model, request(0))
    await collect(recorded.model, request(1, "a" * 1000))
    await collect(recorded.model, request(2, "a" * 1000, "b"))
    assert recorded.file.read_text().count("a" * 1000) == 1
    assert [line["read"].get("kept", 0) for line in recorded.lines[1:]] == [0, 1, 2]
    last = recorded.cassette().exchanges[Key("turn", 2)].reading
    assert last is not None
    assert len(last.history) == 3


async def test_a_failure_is_an_exchange_and_raised(tmp_path: Path) -> None:
    error = ModelError("busy provider-key", code="model_rate_limited", retryable=True, retry_after_s=2.0)
    recorded = Recorded(tmp_path, [TextDelta("hal"), error])
    with pytest.raises(ModelError) as caught:
        await collect(recorded.model, request(attempt=1))
    assert caught.value is error
    assert recorded.lines[1]["failed"] == {
        "code": "model_rate_limited",
        "message": "busy [redacted]",
        "retryable": True,
        "retry_after_s": 2.0,
    }
    (exchange,) = recorded.cassette().exchanges.values()
    assert (exchange.key, exchange.events) == (Key("turn", 0, 0, 1), (TextDelta("hal"),))


async def test_an_answer_without_an_end_is_one_in_the_recording(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("hal")])
    await collect(recorded.model, request())
    assert recorded.lines[1]["answered"] == [{"text": "hal"}]


async def test_a_call_that_is_given_up_is_none(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TextDelta("b"), TurnEnd()])
    async with aclosing(recorded.model.stream(request())) as stream:
        await anext(stream)
    assert not recorded.file.exists()


async def test_secrets_in_the_seams_of_pieces_are_taken_out(tmp_path: Path) -> None:
    arguments = json.dumps({"code": 'login "hunter22"'})
    pieces = [TextDelta(text) for text in (f"it is {KEY[:9]}", KEY[9:], " and provi", "der-key")]
    events: list[ModelEvent] = [
        *pieces,
        CallStart("f"),
        CallDelta(arguments[:20]),
        CallDelta(arguments[20:]),
        TurnEnd(),
    ]
    recorded = Recorded(tmp_path, events, variables={"LOGIN": 'login "hunter22"'})
    assert await collect(recorded.model, request()) == events
    written = recorded.file.read_text()
    assert KEY not in written
    assert "hunter22" not in written
    assert "provider-key" not in written
    assert recorded.lines[1]["answered"][0] == {"text": "it is [redacted] and [redacted]"}
    assert recorded.lines[1]["answered"][2] == {"arguments": '{"code": "[redacted:LOGIN]"}'}


# the next holder


async def test_the_next_holder_goes_on_with_the_file(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    await collect(recorded.model, request(0))
    await collect(recorded.again(), request(1, "x"))
    assert [line.get("turn") for line in recorded.lines] == [None, 0, 1]
    assert "kept" not in recorded.lines[2]["read"], "it does not know what was read before"
    assert list(recorded.cassette().exchanges) == [Key("turn", 0), Key("turn", 1)]


@pytest.mark.parametrize("left", [b"", b'{"cassette"', b'{"cassette": 1}\n{"turn": 0, "answ', b'{"cassette": 1}\n'])
async def test_what_a_crash_left_unfinished_is_written_over(tmp_path: Path, left: bytes) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    recorded.file.parent.mkdir(parents=True)
    recorded.file.write_bytes(left)
    await collect(recorded.model, request())
    (exchange,) = recorded.cassette().exchanges.values()
    assert exchange.events == (TextDelta("a"), TurnEnd())


async def test_a_long_unfinished_line_is_found_to_its_beginning(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    recorded.file.parent.mkdir(parents=True)
    recorded.file.write_bytes(b'{"cassette": 1}\n{"turn": 0, "answered": [{"text": "' + b"x" * 200_000)
    await collect(recorded.model, request())
    assert recorded.file.stat().st_size < 1000
    assert len(recorded.cassette().exchanges) == 1


async def test_a_file_that_somebody_removes_begins_anew_and_whole(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    await collect(recorded.model, request(0))
    recorded.file.unlink()
    await collect(recorded.model, request(1, "x"))
    last = recorded.cassette().exchanges[Key("turn", 1)].reading
    assert last is not None
    assert len(last.history) == 2


async def test_a_disk_that_refuses_is_an_error_in_the_log_and_nothing_more(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [TextDelta("a"), TurnEnd()])
    recorded.file.parent.parent.mkdir(exist_ok=True)
    recorded.file.parent.write_text("in the way")
    with structlog.testing.capture_logs() as lines:
        assert await collect(recorded.model, request(0)) == [TextDelta("a"), TurnEnd()]
    assert [(line["event"], line["log_level"]) for line in lines] == [("exchange_not_recorded", "error")]
    recorded.file.parent.unlink()
    await collect(recorded.model, request(1, "x"))
    assert list(recorded.cassette().exchanges) == [Key("turn", 1)]


async def test_closing_closes_the_other(tmp_path: Path) -> None:
    closed = asyncio.Event()

    class Closing(PlayedModel):
        async def aclose(self) -> None:
            await asyncio.sleep(0)
            closed.set()

    header = Header(interaction="v1_x")
    await Recordings(tmp_path).of(Closing(lambda _: []), PROJECT, header, {}).aclose()
    assert closed.is_set()
