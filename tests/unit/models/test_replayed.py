"""Answers that were recorded: the same again, or an error that says where the run leaves the recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ModelError
from orchestrator.models.cassettes import Exchange, Failure, Header, Key, dump_exchange, dump_header
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    TurnEnd,
    Usage,
)
from orchestrator.models.readings import Reading
from orchestrator.models.replayed import ReplayedModel
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import UserInput
from tests.conformance.model_suite import collect

pytestmark = pytest.mark.anyio

OWN, FOREIGN = "prj_0123456789abcdef", "prj_ffffffffffffffff"


def request(name: str = "x.jsonl", text: str = "Go.", **fields: Any) -> ModelRequest:
    history = (UserInput(content=[TextContent(text=text)]),)
    given = {"system": "s", "history": history, "tools": (), "turn": 0, **fields}
    return ModelRequest(model=f"replay:{name}", **given)


def exchange(*events: ModelEvent, failure: Failure | None = None, **fields: Any) -> Exchange:
    asked = request(**fields)
    return Exchange(Key.of(asked), Reading.of(asked, Scrubber()), events, failure)


def record(file: Path, *exchanges: Exchange, header: Header | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(dump_header(header or Header()) + b"".join(dump_exchange(each, None) for each in exchanges))


async def refusal(model: ReplayedModel, asked: ModelRequest) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await collect(model, asked)
    assert not caught.value.retryable
    return caught.value


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_each_call_gets_its_own_answer_in_any_order(tmp_path: Path) -> None:
    end = TurnEnd(Usage(5, 4, 3, 2, 1), is_cut=True)
    record(
        tmp_path / "x.jsonl",
        exchange(ThoughtDelta("Hm."), TextDelta("first"), CallStart("f"), CallDelta('{"a": 1}'), end),
        exchange(TextDelta("second"), TurnEnd(), turn=1),
        exchange(TextDelta("corrected"), TurnEnd(), turn=1, asked_again=1),
    )
    model = ReplayedModel(tmp_path)
    assert text_of(await collect(model, request(turn=1, asked_again=1))) == "corrected"
    assert text_of(await collect(model, request(turn=1))) == "second"
    first = [ThoughtDelta("Hm."), TextDelta("first"), CallStart("f"), CallDelta('{"a": 1}'), end]
    assert await collect(model, request()) == first == await collect(model, request())


async def test_long_texts_come_in_pieces_and_empty_ones_come(tmp_path: Path) -> None:
    text = "0123456789" * 10_000
    record(tmp_path / "x.jsonl", exchange(TextDelta(text), CallStart("f"), CallDelta(""), TurnEnd()))
    events = await collect(ReplayedModel(tmp_path), request())
    assert text_of(events) == text
    assert 2 <= sum(isinstance(event, TextDelta) for event in events) <= 100
    assert events[-2:] == [CallDelta(""), TurnEnd()]


async def test_a_failure_fails_again(tmp_path: Path) -> None:
    failure = Failure(code="model_quota_exceeded", message="no more", retryable=False)
    record(tmp_path / "x.jsonl", exchange(TextDelta("hal"), failure=failure))
    seen = []
    with pytest.raises(ModelError, match="no more") as caught:
        async for event in ReplayedModel(tmp_path).stream(request()):
            seen.append(event)
    assert (seen, caught.value.code, caught.value.retryable) == ([TextDelta("hal")], "model_quota_exceeded", False)


@pytest.mark.parametrize("is_tried_again", [True, False])
async def test_nobody_waits_for_a_recording_to_be_less_busy(tmp_path: Path, is_tried_again: bool) -> None:
    failure = Failure(code="model_rate_limited", message="busy", retryable=True, retry_after_s=100.0)
    again = [exchange(TextDelta("fine"), TurnEnd(), attempt=1)] if is_tried_again else []
    record(tmp_path / "x.jsonl", exchange(failure=failure), *again)
    with pytest.raises(ModelError) as caught:
        await collect(ReplayedModel(tmp_path), request())
    assert caught.value.retryable
    assert caught.value.retry_after_s == (None if is_tried_again else 100.0)


# leaving the recording


async def test_what_differs_is_named(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TextDelta("a"), TurnEnd(), turn=3))
    error = await refusal(ReplayedModel(tmp_path), request(text="Stop.", turn=3))
    assert error.code == "replay_diverged"
    assert error.message == (
        "The run leaves its recording 'x.jsonl' at turn 3: "
        'history[0] (user_input).content[0] (text).text: recorded "Go.", now "Stop.".'
    )


async def test_no_more_is_said_than_was_recorded(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TurnEnd()), exchange(TurnEnd(), turn=1))
    for asked, at in ((request(turn=2), "turn 2"), (request(turn=0, attempt=1), "turn 0, attempt 1")):
        error = await refusal(ReplayedModel(tmp_path), asked)
        assert error.code == "replay_diverged"
        assert f"at {at}: it has no such model call, of 2 in all" in error.message
    compaction = await refusal(ReplayedModel(tmp_path), request(purpose="compaction"))
    assert "at compaction at turn 0" in compaction.message


async def test_what_the_header_does_not_name_is_not_compared(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TextDelta("a"), TurnEnd()), header=Header(compare=["tools"]))
    assert text_of(await collect(ReplayedModel(tmp_path), request(text="Other.", system="other"))) == "a"


async def test_a_file_that_is_edited_is_read_again(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TextDelta("a"), TurnEnd()))
    model = ReplayedModel(tmp_path)
    assert text_of(await collect(model, request())) == "a"
    record(tmp_path / "x.jsonl", exchange(TextDelta("changed"), TurnEnd()))
    assert text_of(await collect(model, request())) == "changed"


# secrets


async def test_values_of_variables_come_back_and_differ_freely(tmp_path: Path) -> None:
    then, now = Scrubber({"TOKEN": "then-secret"}), Scrubber({"TOKEN": 'now "secret"'})
    asked = request(text="Use then-secret.")
    arguments = json.dumps({"code": "[redacted:TOKEN]"})
    answer = (
        TextDelta("I use [redacted:TOKEN], not [redacted:OTHER]."),
        CallStart("f"),
        CallDelta(arguments),
        TurnEnd(),
    )
    record(tmp_path / "x.jsonl", Exchange(Key.of(asked), Reading.of(asked, then), answer))
    model = ReplayedModel(tmp_path).within(OWN, now)
    events = await collect(model, request(text='Use now "secret".'))
    assert text_of(events) == 'I use now "secret", not [redacted:OTHER].'
    (call,) = [event for event in events if isinstance(event, CallDelta)]
    assert json.loads(call.arguments) == {"code": 'now "secret"'}
    error = await refusal(model, request(text='Take now "secret".'))
    assert "now \\" not in error.message.replace(", now ", "")
    assert "[redacted:TOKEN]" in error.message


# finding


@pytest.mark.parametrize(
    "name", ["", ".", "/", "missing.jsonl", "../x.jsonl", "a/../../x.jsonl", "folder", "\0", "loop"]
)
async def test_what_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    record(tmp_path / "x.jsonl", exchange(TurnEnd()))
    folder = tmp_path / "c"
    (folder / "folder").mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    error = await refusal(ReplayedModel(folder), request(name))
    assert error.code == "replay_not_found"
    assert f"no recording {name!r}" in error.message


async def test_an_absolute_path_is_none(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TurnEnd()))
    assert (await refusal(ReplayedModel(tmp_path), request(str(tmp_path / "x.jsonl")))).code == "replay_not_found"


async def test_a_link_may_not_lead_out(tmp_path: Path) -> None:
    record(tmp_path / "outside.jsonl", exchange(TurnEnd()))
    record(tmp_path / "c" / "inside.jsonl", exchange(TextDelta("inside"), TurnEnd()))
    (tmp_path / "c" / "out.jsonl").symlink_to("../outside.jsonl")
    (tmp_path / "c" / "away").symlink_to(tmp_path)
    (tmp_path / "c" / "in.jsonl").symlink_to("inside.jsonl")
    model = ReplayedModel(tmp_path / "c")
    for name in ("out.jsonl", "away/outside.jsonl"):
        assert (await refusal(model, request(name))).code == "replay_not_found"
    assert text_of(await collect(model, request("in.jsonl"))) == "inside"


async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    assert (await refusal(ReplayedModel(tmp_path), request())).code == "replay_not_found"


async def test_what_is_no_recording_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("Dear diary\n")
    error = await refusal(ReplayedModel(tmp_path), request())
    assert (error.code, error.message.startswith("The recording 'x.jsonl' cannot be read: line 1: ")) == (
        "replay_unreadable",
        True,
    )


async def test_projects_see_their_own_recordings_and_what_is_shared(tmp_path: Path) -> None:
    for place, text in ((f"{OWN}/x.jsonl", "own"), (f"{FOREIGN}/y.jsonl", "foreign"), ("z.jsonl", "shared")):
        record(tmp_path / place, exchange(TextDelta(text), TurnEnd()))
    record(tmp_path / "x.jsonl", exchange(TextDelta("hidden by the own one"), TurnEnd()))
    (tmp_path / "link.jsonl").symlink_to(f"{FOREIGN}/y.jsonl")
    own = ReplayedModel(tmp_path).within(OWN, Scrubber())
    assert text_of(await collect(own, request("x.jsonl"))) == "own"
    assert text_of(await collect(own, request("z.jsonl"))) == "shared"
    assert text_of(await collect(own, request(f"{OWN}/x.jsonl"))) == "own"
    for name in ("y.jsonl", f"{FOREIGN}/y.jsonl", f"./{FOREIGN}/y.jsonl", "link.jsonl"):
        assert (await refusal(own, request(name))).code == "replay_not_found", name
    nobodys = ReplayedModel(tmp_path)
    assert (await refusal(nobodys, request(f"{OWN}/x.jsonl"))).code == "replay_not_found"


def test_no_library_of_a_provider_is_needed(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", exchange(TextDelta("a"), TurnEnd()))
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.config import Settings\n"
        "from orchestrator.models.port import ModelRequest\n"
        "from orchestrator.models.providers import open_registry\n"
        "from orchestrator.wire.content import TextContent\n"
        "from orchestrator.wire.steps import UserInput\n"
        "said = UserInput(content=[TextContent(text='Go.')])\n"
        "name, model = open_registry(Settings(cassettes_dir=Path(sys.argv[1]))).resolve('replay:x.jsonl')\n"
        "asked = ModelRequest(model=name, system='s', history=(said,), tools=(), turn=0)\n"
        "async def main(): return [event async for event in model.stream(asked)]\n"
        "print(asyncio.run(main())[0].text)\n"
        "print([name for name in ('pydantic_ai', 'google', 'openai', 'anthropic', 'httpx2') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "a\n[]\n", done.stderr
