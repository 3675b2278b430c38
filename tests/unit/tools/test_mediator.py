"""The one door: the order of what happens, what the model is told, and what gets into the journal."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

import pytest

from orchestrator.errors import CallForgotten, EngineUnavailable, InvalidRequest, SandboxGone, StoreError, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.policy.redaction import redact
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.tools import mediator as module
from orchestrator.tools.mediator import Begun, Mediator, ToolCall
from orchestrator.tools.port import Arguments, SandboxTool, ToolContext, ToolResult
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.content import ImageContent, TextContent
from tests.fakes.clock import ManualClock
from tests.fakes.sandboxes import Asked, FakeSandbox, outcome

pytestmark = pytest.mark.anyio

KEY = "crl_" + "A" * 43


class Story:
    """What happened, in order: the journal's entries, its flushes, and what tools did."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.fails = False

    def note(self, kind: str, **fields: Any) -> None:
        json.dumps(fields)
        self.events.append((kind, fields))

    async def flush(self) -> None:
        if self.fails:
            raise StoreError("the disk is full")
        self.events.append("flushed")

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [event[1] for event in self.events if event[0] == kind]

    @property
    def order(self) -> list[str]:
        return [event if isinstance(event, str) else event[0] for event in self.events]


class ProbeArguments(Arguments):
    text: str = ""
    number: int = 0


class Probe(SandboxTool):
    """Does what the test gives it to do."""

    name: ClassVar[str] = "probe"
    description: ClassVar[str] = "A probe."
    arguments: ClassVar[type[Arguments]] = ProbeArguments

    def __init__(self, story: Story) -> None:
        self._story = story
        self.does: Any = lambda _context: ToolResult("fine")
        self.contexts: list[ToolContext] = []

    async def carry_out(self, arguments: Any, context: ToolContext) -> ToolResult:
        self._story.events.append("carried out")
        self.contexts.append(context)
        result = self.does(context)
        if asyncio.iscoroutine(result):
            result = await result
        assert isinstance(result, ToolResult)
        return result


class Door:
    """A mediator with one tool, its story and its sandboxes, which it gets one after another."""

    def __init__(self, *sandboxes: FakeSandbox | Exception, last_guest: str | None = None) -> None:
        self.story = Story()
        self.probe = Probe(self.story)
        self.sandboxes = list(sandboxes) or [FakeSandbox()]
        self.clock = ManualClock()
        limits = Limits(engine_patience_s=60)
        self.mediator = Mediator(Toolbox([self.probe]), self._sandbox, limits, self.story, self.clock, last_guest)

    async def _sandbox(self) -> Sandbox:
        self.story.events.append("sandbox")
        given = self.sandboxes.pop(0) if len(self.sandboxes) > 1 else self.sandboxes[0]
        if isinstance(given, Exception):
            raise given
        return given.as_sandbox()

    async def call(self, arguments: str = "{}", name: str = "probe", **fields: Any) -> ToolResult:
        return await self.mediator.carry_out(ToolCall("c1", name, arguments), **fields)


async def test_the_call_is_durable_before_it_is_carried_out() -> None:
    door = Door()
    result = await door.call('{"text": "x"}')
    assert result == ToolResult("fine")
    assert door.story.order == ["sandbox", "tool.started", "flushed", "carried out", "tool.ended"]
    assert door.story.entries("tool.started") == [
        {"call_id": "c1", "tool": "probe", "arguments": {"text": "x", "number": 0}, "guest": "guest-1"}
    ]
    (ended,) = door.story.entries("tool.ended")
    assert (ended["call_id"], ended["verdict"], ended["exit_code"]) == ("c1", "done", None)


class Unreached:
    """A way out on which connections fail while the probe runs."""

    def __init__(self, *said: str) -> None:
        self.said = list(said)
        self.unreached_count = 3

    def unreached_since(self, count: int) -> list[str]:
        return self.said if self.unreached_count > count else []


@pytest.mark.parametrize("content", ["out\n", [TextContent(text="out\n")]])
async def test_whom_a_call_did_not_reach_is_told_at_its_end(content: Any) -> None:
    sandbox = FakeSandbox()
    way_out = Unreached("denied a:443: no", "denied a:443: no", "denied b:443: no")
    sandbox.way_out = way_out
    door = Door(sandbox)
    assert await door.call() == ToolResult("fine")

    def fail_to_reach(_context: ToolContext) -> ToolResult:
        way_out.unreached_count += 3
        return ToolResult(content)

    door.probe.does = fail_to_reach
    told = (await door.call()).content
    text = told if isinstance(told, str) else "".join(each.text for each in told if isinstance(each, TextContent))
    assert text.rstrip("\n") == "out\n[network: denied a:443: no]\n[network: denied b:443: no]"


async def test_a_call_that_cannot_be_written_down_is_not_made() -> None:
    door = Door()
    door.story.fails = True
    with pytest.raises(StoreError):
        await door.call()
    assert "carried out" not in door.story.order


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"text": 5}', "text"),
        ('{"number": "five"}', "number"),
        ('{"unknown": 1}', "unknown"),
        ('{"text": "a", "text": "b"}', "text"),
        ('{"number": NaN}', "cannot be read"),
        ('{"a":' * 500 + "1" + "}" * 500, "cannot be read"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model_and_nothing_is_done(arguments: str, told: str) -> None:
    door = Door()
    result = await door.call(arguments)
    assert result.is_error
    assert isinstance(result.content, str)
    assert told in result.content
    assert result.content.startswith("the arguments of probe")
    assert door.story.order == ["tool.ended"]


async def test_no_arguments_are_an_empty_object() -> None:
    assert (await Door().call("")).content == "fine"


async def test_an_unknown_tool_is_told_with_those_that_are_there() -> None:
    door = Door()
    result = await door.call(name="format_disk")
    assert (result.content, result.is_error) == ("there is no tool 'format_disk'; there are: probe", True)
    assert door.story.order == ["tool.ended"]


@pytest.mark.parametrize("error", [ToolError(f"no, says {KEY}"), InvalidRequest(f"no, says {KEY}")])
async def test_what_a_tool_refuses_is_told_without_secrets(error: Exception) -> None:
    door = Door()

    def refuse(_context: ToolContext) -> ToolResult:
        raise error

    door.probe.does = refuse
    result = await door.call()
    assert (result.content, result.is_error) == ("no, says [redacted]", True)
    assert door.story.entries("tool.ended")[0]["verdict"] == "refused"


async def test_the_journal_has_the_verdict_of_a_call_that_failed() -> None:
    door = Door()

    def fail(_context: ToolContext) -> ToolResult:
        raise ToolError("disk full: x", code="disk_full")

    door.probe.does = fail
    assert await door.call() == ToolResult("disk full: x", is_error=True, verdict="disk_full")
    assert door.story.entries("tool.ended")[0]["verdict"] == "disk_full"


async def test_a_platform_that_fails_is_raised() -> None:
    door = Door(EngineUnavailable("away"))
    with pytest.raises(EngineUnavailable):
        await door.call()
    assert "tool.started" not in door.story.order


# the sandbox ends, or the link to it


def gone_once(door: Door) -> Any:
    seen: list[ToolContext] = []

    def does(context: ToolContext) -> ToolResult:
        seen.append(context)
        if len(seen) == 1:
            raise SandboxGone("cut")
        return ToolResult("found again")

    return does


async def test_a_cut_link_is_followed_on_the_next() -> None:
    door = Door(FakeSandbox(guest_id="g"), FakeSandbox(guest_id="g"))
    door.probe.does = gone_once(door)
    assert (await door.call()).content == "found again"
    assert [context.call_id for context in door.probe.contexts] == ["c1", "c1"]
    assert door.story.order.count("tool.started") == 1


async def test_a_restarted_guest_is_told_and_the_call_not_repeated() -> None:
    door = Door(FakeSandbox(guest_id="before"), FakeSandbox(guest_id="after"))
    door.probe.does = gone_once(door)
    result = await door.call()
    assert result.is_error
    assert result.verdict == "lost"
    assert door.story.order.count("carried out") == 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.0)


def cut(door: Door, *seconds: float) -> Any:
    """The link is cut once for each of `seconds`, which have passed by then."""
    waiting = list(seconds)

    def does(_context: ToolContext) -> ToolResult:
        if waiting:
            door.clock.advance(waiting.pop(0))
            raise SandboxGone("cut")
        return ToolResult("found again")

    return does


@pytest.mark.usefixtures("quick")
async def test_a_call_that_goes_on_inside_is_followed_over_many_cuts() -> None:
    door = Door()
    door.probe.does = cut(door, *[5.0] * 10)
    assert (await door.call()).content == "found again"
    assert door.story.order.count("tool.started") == 1


@pytest.mark.usefixtures("quick")
async def test_links_that_are_cut_at_once_are_the_platforms_failure_in_the_end() -> None:
    door = Door()
    door.probe.does = cut(door, *[1.0] * 62)
    with pytest.raises(SandboxGone):
        await door.call()
    assert 59 <= door.clock.monotonic() <= 63


@pytest.mark.usefixtures("quick")
async def test_links_that_held_are_each_a_trouble_of_their_own() -> None:
    door = Door()
    door.probe.does = cut(door, *[20.0] * 62)
    assert (await door.call()).content == "found again"


@pytest.mark.usefixtures("quick")
async def test_an_engine_that_is_away_is_waited_for_while_a_call_is_in_flight() -> None:
    door = Door(FakeSandbox(), *[EngineUnavailable("away")] * 5, FakeSandbox())
    door.probe.does = gone_once(door)
    assert (await door.call()).content == "found again"


@pytest.mark.usefixtures("quick")
async def test_a_sandbox_that_is_gone_for_good_is_not_waited_for() -> None:
    door = Door(FakeSandbox(), SandboxGone("gone, and its files with it"), FakeSandbox())
    door.probe.does = gone_once(door)
    with pytest.raises(SandboxGone, match="files"):
        await door.call()


# a call of an earlier holder


@pytest.mark.parametrize(
    ("guest", "calls", "found", "carried_out"),
    [
        ("guest-1", {"c1": "running"}, "running", 1),
        ("guest-1", {"c1": "finished"}, "finished", 1),
        ("guest-1", {}, "never_started", 1),
        ("guest-0", {}, "unknown", 0),
    ],
)
async def test_a_call_of_an_earlier_holder(guest: str, calls: dict[str, str], found: str, carried_out: int) -> None:
    """It is in the journal already: the same guest is asked again, another one cannot know it."""
    sandbox = FakeSandbox(guest_id="guest-1")
    sandbox.link.calls = calls
    door = Door(sandbox)
    result = await door.call(begun=Begun(guest))
    assert door.story.order.count("carried out") == carried_out
    assert result.is_error is not bool(carried_out)
    assert "tool.started" not in door.story.order
    assert door.story.entries("tool.taken_up") == [{"call_id": "c1", "found": found}]


async def test_a_call_that_its_guest_has_forgotten_is_told_and_not_repeated() -> None:
    door = Door()

    def does(_context: ToolContext) -> ToolResult:
        raise CallForgotten("no such call")

    door.probe.does = does
    result = await door.call(begun=Begun("guest-1"))
    assert (result.is_error, result.verdict) == (True, "unknown")
    assert "not known" in str(result.content)
    assert door.story.order.count("carried out") == 1


@pytest.mark.usefixtures("quick")
async def test_an_engine_that_is_away_is_waited_for_when_a_call_is_taken_up() -> None:
    door = Door(EngineUnavailable("away"), EngineUnavailable("away"), FakeSandbox())
    assert (await door.call(begun=Begun("guest-1"))).content == "fine"


# what was lost between calls


@pytest.mark.parametrize(("last_guest", "told"), [(None, False), ("guest-1", False), ("guest-0", True)])
async def test_a_sandbox_that_began_anew_between_calls_is_told_once(last_guest: str | None, told: bool) -> None:
    door = Door(last_guest=last_guest)
    first, second = await door.call(), await door.call()
    assert str(first.content).startswith("[the sandbox was started again since your last call") is told
    assert str(first.content).endswith("fine")
    assert second.content == "fine"
    assert len(door.story.entries("tool.told_of_loss")) == told


async def test_a_sandbox_that_began_anew_is_told_beside_an_error_too() -> None:
    door = Door(last_guest="guest-0")

    def refuse(_context: ToolContext) -> ToolResult:
        raise ToolError("no such file")

    door.probe.does = refuse
    assert str((await door.call()).content).splitlines()[1:] == ["no such file"]
    assert (await door.call()).content == "no such file"


async def test_what_an_earlier_holder_could_not_tell_is_told() -> None:
    door = Door(last_guest="guest-0")
    assert str((await door.call(begun=Begun("guest-1"))).content).startswith("[the sandbox was started again")
    assert (await door.call()).content == "fine"


async def test_a_sandbox_that_began_anew_is_told_beside_images_too() -> None:
    door = Door(last_guest="guest-0")
    picture = ImageContent(data="aGk=", mime_type="image/png")
    door.probe.does = lambda _context: ToolResult([picture])
    content = (await door.call()).content
    assert isinstance(content, list)
    assert [block.type for block in content] == ["text", "image"]


async def test_what_the_result_tells_is_not_told_again_by_the_next() -> None:
    door = Door(FakeSandbox(guest_id="before"), FakeSandbox(guest_id="after"))
    door.probe.does = gone_once(door)
    assert (await door.call()).verdict == "lost"
    assert (await door.call()).content == "found again"


# acknowledging


async def test_a_result_is_acknowledged_once_it_is_stored_and_not_before() -> None:
    sandbox = FakeSandbox()
    door = Door(sandbox)
    await door.call()
    assert sandbox.acknowledged == []
    door.mediator.acknowledge(ToolCall("c1", "probe", "{}"))
    door.mediator.acknowledge(ToolCall("c1", "probe", "{}"))
    assert sandbox.acknowledged == ["c1"]


async def test_what_never_reached_a_sandbox_is_not_acknowledged() -> None:
    sandbox = FakeSandbox()
    door = Door(sandbox)
    await door.call("{")
    door.mediator.acknowledge(ToolCall("c1", "probe", "{"))
    assert sandbox.acknowledged == []


async def test_a_cancelled_call_is_not_acknowledged_and_its_output_kept() -> None:
    """The guest may forget it when the run's end is stored, and not before: else it could run twice."""
    sandbox = FakeSandbox()
    door = Door(sandbox)

    async def waits(context: ToolContext) -> ToolResult:
        context.on_output(b"so far")
        await asyncio.sleep(60)
        raise AssertionError

    door.probe.does = waits
    call = asyncio.ensure_future(door.call())
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sandbox.acknowledged == []
    assert [entry["text"] for entry in door.story.entries("tool.output")] == ["so far"]


# live output


def writes(*pieces: bytes, pause_s: float = 0.0) -> Any:
    async def does(context: ToolContext) -> ToolResult:
        for piece in pieces:
            context.on_output(piece)
            await asyncio.sleep(pause_s)
        return ToolResult("fine")

    return does


async def output_of(*pieces: bytes, pause_s: float = 0.0) -> list[str]:
    door = Door()
    door.probe.does = writes(*pieces, pause_s=pause_s)
    await door.call()
    assert door.story.order[-1] == "tool.ended"
    return [entry["text"] for entry in door.story.entries("tool.output")]


async def test_output_is_gathered() -> None:
    assert await output_of(*[b"x"] * 1000) == ["x" * 1000]


async def test_output_comes_while_the_tool_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OUTPUT_INTERVAL_S", 0.01)
    assert await output_of(b"one ", b"two", pause_s=0.03) == ["one ", "two"]


async def test_output_that_is_followed_again_is_journaled_once() -> None:
    door = Door()
    attempts: list[int] = []

    async def does(context: ToolContext) -> ToolResult:
        attempts.append(1)
        if len(attempts) == 1:
            context.on_output(b"one two ")
            raise SandboxGone("cut")
        for piece in (b"one", b" two three", b" four"):
            context.on_output(piece)
        return ToolResult("fine")

    door.probe.does = does
    await door.call()
    assert "".join(entry["text"] for entry in door.story.entries("tool.output")) == "one two three four"


@pytest.mark.parametrize("shown", [b"", b"one ", "one twö".encode(), b"one two crl", b"crl_" + b"A" * 43 + b" c"])
@pytest.mark.parametrize("rest", [b" three", "ä".encode() * 40])
async def test_a_later_holder_goes_on_with_the_output_from_where_the_journal_is(shown: bytes, rest: bytes) -> None:
    """The pieces of both together are the whole, however much of the first was held back."""
    first = Door()

    async def is_cut_off(context: ToolContext) -> ToolResult:
        context.on_output(shown)
        raise asyncio.CancelledError

    first.probe.does = is_cut_off
    with pytest.raises(asyncio.CancelledError):
        await first.call()
    entries = first.story.entries("tool.output")
    second = Door()
    second.probe.does = writes(shown + rest)
    until_bytes = entries[-1]["until_bytes"] if entries else 0
    await second.call(begun=Begun("guest-1", until_bytes))
    together = "".join(entry["text"] for entry in entries + second.story.entries("tool.output"))
    assert together == redact((shown + rest).decode())


async def test_no_output_is_no_entry() -> None:
    assert await output_of() == []


@pytest.mark.parametrize(("size", "more"), [(0, False), (-1, False), (1, True), (1000, True)])
async def test_output_in_the_journal_is_capped_and_says_so(size: int, more: bool) -> None:
    pieces = await output_of(b"x" * (module._JOURNALED_OUTPUT_BYTES + size), b"")
    assert sum(piece.count("x") for piece in pieces) == min(module._JOURNALED_OUTPUT_BYTES + size, 65536)
    assert ("more output" in pieces[-1]) is more


@pytest.mark.parametrize("shown_bytes", [3, 10, 40, len(KEY) - 1])
async def test_a_key_that_the_cap_goes_through_is_not_shown(shown_bytes: int) -> None:
    filler = b"-\n" * (module._JOURNALED_OUTPUT_BYTES // 2)
    pieces = await output_of(filler[shown_bytes:] + KEY.encode())
    assert "crl" not in "".join(pieces)


async def test_characters_are_whole_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OUTPUT_INTERVAL_S", 0.0)
    data = "aä😀".encode()
    pieces = await output_of(*[data[at : at + 1] for at in range(len(data))], pause_s=0.005)
    assert "".join(pieces) == "aä😀"
    assert await output_of(b"a\xc3", b"\xff\0") == ["a\ufffd\ufffd\ufffd"]
    assert await output_of(b"end\xc3") == ["end\ufffd"], "what is left of a character is shown at the end"


async def test_secrets_are_taken_out_also_where_pieces_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OUTPUT_INTERVAL_S", 0.0)
    for at in (1, 3, 4, 20, 46):
        text = f"see {KEY} there"
        cut = 4 + at
        pieces = await output_of(text[:cut].encode(), text[cut:].encode(), pause_s=0.01)
        assert "".join(pieces) == "see [redacted] there"
    assert "".join(await output_of(b"crl_short", b" and cr", pause_s=0.01)) == "crl_short and cr"


async def test_arguments_in_the_journal_are_short_and_without_secrets() -> None:
    door = Door()
    for text in (f"{KEY}", "x" * 1980 + KEY, "y" * 10_000):
        await door.call(json.dumps({"text": text}))
    shown = [entry["arguments"]["text"] for entry in door.story.entries("tool.started")]
    assert shown[0] == "[redacted]"
    assert "crl_" not in shown[1]
    assert shown[2] == "y" * 2000 + " … (10000 characters)"


async def test_durations_are_measured() -> None:
    door = Door()

    def does(_context: ToolContext) -> ToolResult:
        door.clock.advance(1.5)
        return ToolResult("fine", verdict="exited", exit_code=3)

    door.probe.does = does
    await door.call()
    assert door.story.entries("tool.ended") == [
        {"call_id": "c1", "verdict": "exited", "exit_code": 3, "duration_ms": 1500.0}
    ]


async def test_the_real_tools_pass_through_it() -> None:
    async def answer(asked: Asked) -> Any:
        return outcome(f"{asked.verb} {asked.what}\n")

    sandbox = FakeSandbox(answer)
    story = Story()

    async def one() -> Sandbox:
        return sandbox.as_sandbox()

    from orchestrator.wire.tools import CodeExecutionTool

    toolbox = Toolbox.choose((CodeExecutionTool(),), has_environment=True)
    mediator = Mediator(toolbox, one, Limits(), story, ManualClock())
    result = await mediator.carry_out(ToolCall("c1", "code_execution", '{"language": "bash", "code": "ls"}'))
    assert result.content == "bash ls\n"
    assert [entry["text"] for entry in story.entries("tool.output")] == ["bash ls\n"]
