"""Hooks around calls: what they are asked, what their answers do, and that none is asked twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.agents.guidance import HooksFile
from orchestrator.egress.posting import Posted
from orchestrator.errors import NetworkError, SandboxGone, ToolError
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.tools.code import CodeArguments
from orchestrator.tools.gate import Asked, Deed, Gate
from orchestrator.tools.hooks import OUTPUT_LIMIT_BYTES, Answer
from orchestrator.tools.port import ToolResult
from tests.fakes.sandboxes import Asked as Ran
from tests.fakes.sandboxes import FakeSandbox, outcome

pytestmark = pytest.mark.anyio

DEED = Deed("c1", "code_execution", CodeArguments(language="bash", code="ls"))


def hooks(*commands: str, event: str = "pre_tool_execution", **fields: Any) -> HooksFile:
    each = [{"type": "command", "command": command, **fields} for command in commands]
    return HooksFile("/.agents/hooks.json", json.dumps({"g": {event: [{"hooks": each}]}}))


class Story:
    """The journal, in order."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.fields: list[dict[str, Any]] = []

    def note(self, kind: str, **fields: Any) -> None:
        json.dumps(fields)
        self.kinds.append(kind)
        self.fields.append(fields)

    async def flush(self) -> None:
        await asyncio.sleep(0)
        self.kinds.append("flushed")


class World:
    """A gate and its sandboxes, which it gets one after another; commands answer what they are."""

    def __init__(
        self,
        *files: HooksFile,
        asked: Mapping[str, Asked] | None = None,
        denies: bool = False,
        sandboxes: list[FakeSandbox] | None = None,
        posted: Posted | NetworkError | None = None,
    ) -> None:
        self.story = Story()
        self.sandboxes = sandboxes or [FakeSandbox(self._answer)]
        self.sandbox = self.sandboxes[0]
        self.reached = 0
        self.posts: list[tuple[str, dict[str, str], Any, float]] = []
        self._posted = posted
        limits = Limits(denies_on_hook_failure=denies, engine_patience_s=60, call_timeout_s=20)
        self.gate = Gate(lambda: files, asked or {}, self._sandbox, limits, self.story, "env-1", self._post)

    async def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, limit_bytes: int
    ) -> Posted:
        assert limit_bytes == OUTPUT_LIMIT_BYTES
        await asyncio.sleep(0)
        self.story.kinds.append("posted")
        self.posts.append((url, dict(headers), json.loads(body), timeout_s))
        if isinstance(self._posted, Posted):
            return self._posted
        raise self._posted or AssertionError("nothing was to be posted")

    async def _answer(self, ran: Ran) -> CallOutcome:
        await asyncio.sleep(0)
        return outcome(ran.what)

    async def _sandbox(self) -> Any:
        self.reached += 1
        return self.sandboxes.pop(0) if len(self.sandboxes) > 1 else self.sandboxes[0]


ALLOW, DENY = '{"decision": "allow"}', '{"decision": "deny", "reason": "No."}'


async def test_without_hooks_nothing_is_asked() -> None:
    world = World()
    await world.gate.before(DEED)
    await world.gate.after(DEED, ToolResult("fine"))
    assert (world.reached, world.story.kinds) == (0, [])


async def test_what_a_hook_is_asked() -> None:
    world = World(hooks(ALLOW, timeout=7))
    await world.gate.before(DEED)
    (ran,) = world.sandbox.asked
    assert json.loads(ran.content or b"") == {
        "tool_call": {"name": "code_execution", "args": {"language": "bash", "code": "ls"}},
        "environment_id": "env-1",
    }
    assert (ran.fields["timeout_s"], ran.fields["output_total_limit_bytes"]) == (7, 64 << 10)
    assert world.story.kinds == ["hook.started", "flushed", "hook.ended", "flushed"]
    assert world.sandbox.acknowledged == ["c1.pre-0"]


async def test_no_hook_takes_longer_than_a_call() -> None:
    world = World(hooks(ALLOW))
    await world.gate.before(DEED)
    assert world.sandbox.asked[0].fields["timeout_s"] == 20


async def test_the_first_denial_ends_the_asking() -> None:
    world = World(hooks(ALLOW, DENY, ALLOW))
    with pytest.raises(ToolError, match="denied the call: No") as denied:
        await world.gate.before(DEED)
    assert denied.value.code == "denied"
    assert world.sandbox.carried_out == ["c1.pre-0", "c1.pre-1"]


async def test_a_hook_after_the_call_hears_of_its_error_and_can_withhold_the_result() -> None:
    world = World(hooks(ALLOW, DENY, event="post_tool_execution"))
    await world.gate.before(DEED)
    assert world.reached == 0
    with pytest.raises(ToolError, match="was made, but"):
        await world.gate.after(DEED, ToolResult("broken", is_error=True))
    assert [json.loads(ran.content or b"")["error"] for ran in world.sandbox.asked] == ["broken", "broken"]


async def test_no_error_is_told_where_there_was_none() -> None:
    world = World(hooks(ALLOW, event="post_tool_execution"))
    await world.gate.after(DEED, ToolResult("fine"))
    assert "error" not in json.loads(world.sandbox.asked[0].content or b"")


@pytest.mark.parametrize("file", [hooks("nonsense"), HooksFile("/.agents/hooks.json", "", "broken")])
async def test_what_fails_counts_as_the_operator_says(file: HooksFile) -> None:
    await World(file).gate.before(DEED)
    with pytest.raises(ToolError):
        await World(file, denies=True).gate.before(DEED)


def http_hooks(event: str = "pre_tool_execution", **fields: Any) -> HooksFile:
    hook = {"type": "http", "url": "https://audit.example/hook", **fields}
    return HooksFile("/.agents/hooks.json", json.dumps({"g": {event: [{"hooks": [hook]}]}}))


async def test_an_address_is_told_the_call_and_its_answer_counts() -> None:
    world = World(http_hooks(headers={"X-Source": "sandbox"}, timeout=7), posted=Posted(200, DENY.encode()))
    with pytest.raises(ToolError, match=r"denied the call: No\."):
        await world.gate.before(DEED)
    (posted,) = world.posts
    assert posted == (
        "https://audit.example/hook",
        {"Content-Type": "application/json", "X-Source": "sandbox"},
        {
            "tool_call": {"name": "code_execution", "args": {"language": "bash", "code": "ls"}},
            "environment_id": "env-1",
        },
        7.0,
    )
    assert world.story.kinds == ["hook.started", "flushed", "posted", "hook.ended", "flushed"]
    assert world.reached == 0, "no sandbox is needed for it"


@pytest.mark.parametrize(
    ("posted", "told"),
    [
        (Posted(500, ALLOW.encode()), "answered with status 500"),
        (Posted(302, ALLOW.encode()), "answered with status 302"),
        (Posted(200, b"fine"), "its answer is not"),
        (Posted(204, b""), "its answer is not"),
        (NetworkError("audit.example is not in the allowlist"), "is not in the allowlist"),
    ],
)
async def test_an_address_that_does_not_answer_well_has_failed(posted: Posted | NetworkError, told: str) -> None:
    await World(http_hooks(), posted=posted).gate.before(DEED)
    with pytest.raises(ToolError, match=told):
        await World(http_hooks(), posted=posted, denies=True).gate.before(DEED)


async def test_an_address_that_was_asked_before_a_crash_is_not_asked_again() -> None:
    world = World(http_hooks(), asked={"c1.pre-0": Asked("c1", "")}, denies=True)
    with pytest.raises(ToolError, match="interrupted"):
        await world.gate.before(DEED)
    assert world.posts == []


async def test_what_was_answered_is_not_asked_again() -> None:
    past = {"c1.pre-0": Asked("c1", "guest-1", Answer("allow")), "c1.pre-1": Asked("c1", "guest-1", Answer("deny"))}
    world = World(hooks(ALLOW, ALLOW), asked=past)
    with pytest.raises(ToolError):
        await world.gate.before(DEED)
    assert world.reached == 0


async def test_a_hook_that_goes_on_is_followed() -> None:
    world = World(hooks(ALLOW), asked={"c1.pre-0": Asked("c1", "guest-1")})
    await world.sandbox.remember("c1.pre-0", outcome(DENY))
    with pytest.raises(ToolError, match="No"):
        await world.gate.before(DEED)
    assert world.sandbox.carried_out == []


async def test_a_hook_of_a_lost_sandbox_is_not_asked_again() -> None:
    world = World(hooks(ALLOW), asked={"c1.pre-0": Asked("c1", "guest-0")}, denies=True)
    with pytest.raises(ToolError, match="the sandbox ended while it ran"):
        await world.gate.before(DEED)
    assert world.sandbox.asked == []


async def test_a_hook_that_takes_its_sandbox_along_has_failed() -> None:
    async def die(_ran: Ran) -> CallOutcome:
        await asyncio.sleep(0)
        raise SandboxGone("cut")

    second = FakeSandbox(outcome(ALLOW), guest_id="guest-2")
    world = World(hooks(ALLOW), denies=True, sandboxes=[FakeSandbox(die), second])
    with pytest.raises(ToolError, match="the sandbox ended while it ran"):
        await world.gate.before(DEED)
    assert second.asked == []
