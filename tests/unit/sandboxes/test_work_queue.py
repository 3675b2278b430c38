"""The work queue: verb by verb, and any story of asking, ending, failing and giving up against a plain model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.clock import SystemClock
from orchestrator.errors import EngineUnavailable, ImageMissing
from orchestrator.sandboxes import work_queue as module
from orchestrator.sandboxes.work_queue import Urgency, WorkQueue
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.001)


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Job:
    """Work that ends when the test says so, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.was_cancelled = False
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            return await self.end
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


def fails(errors: list[Exception], result: str = "done") -> Callable[[], Awaitable[str]]:
    """Work that raises one error after another, then succeeds."""

    async def work() -> str:
        if errors:
            raise errors.pop(0)
        return result

    return work


# do


async def test_who_asks_meanwhile_gets_the_same_result() -> None:
    queue, job = WorkQueue(ManualClock(), at_once=1, patience_s=0), Job()
    asking = [asyncio.ensure_future(queue.do("key", job)) for _ in range(3)]
    await settle()
    job.end.set_result("result")
    assert await asyncio.gather(*asking) == ["result"] * 3
    assert job.begun == 1
    assert await queue.do("key", fails([], "afresh")) == "afresh", "what is over is done again"


async def test_different_keys_are_done_side_by_side() -> None:
    queue, one, other = WorkQueue(ManualClock(), at_once=1, patience_s=0), Job(), Job()
    asking = [asyncio.ensure_future(queue.do("one", one)), asyncio.ensure_future(queue.do("other", other))]
    await settle()
    assert (one.begun, other.begun) == (1, 1), "only turns are counted, not work"
    one.end.set_result("1")
    other.end.set_result("2")
    assert await asyncio.gather(*asking) == ["1", "2"]


async def test_a_failure_that_may_not_pass_comes_to_all_at_once() -> None:
    queue, job = WorkQueue(ManualClock(), at_once=1, patience_s=60), Job()
    asking = [asyncio.ensure_future(queue.do("key", job)) for _ in range(2)]
    await settle()
    job.end.set_exception(ImageMissing("no image"))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in results] == [ImageMissing, ImageMissing]
    assert job.begun == 1


async def test_a_failure_that_may_pass_is_waited_out() -> None:
    queue = WorkQueue(SystemClock(), at_once=1, patience_s=60)
    assert await queue.do("key", fails([EngineUnavailable("away")] * 4)) == "done"


async def test_patience_ends_and_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = ManualClock(), list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr(module, "_FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 4.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    queue = WorkQueue(clock, at_once=1, patience_s=12)
    with pytest.raises(EngineUnavailable):
        await queue.do("key", fails([EngineUnavailable("away")] * 100))
    assert waits == [1.0, 2.0, 4.0, 4.0]
    waits.clear()
    with pytest.raises(EngineUnavailable):
        await queue.do("key", fails([EngineUnavailable("away")] * 100))
    assert waits == [1.0, 2.0, 4.0, 4.0], "every asking has its own patience"


async def test_without_patience_nothing_is_begun_again() -> None:
    queue = WorkQueue(SystemClock(), at_once=1, patience_s=0)
    errors: list[Exception] = [EngineUnavailable("away")] * 2
    with pytest.raises(EngineUnavailable):
        await queue.do("key", fails(errors))
    assert len(errors) == 1


async def test_cancelling_one_who_waits_leaves_the_work_to_the_others() -> None:
    queue, job = WorkQueue(ManualClock(), at_once=1, patience_s=0), Job()
    first, second = (asyncio.ensure_future(queue.do("key", job)) for _ in range(2))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not job.was_cancelled
    job.end.set_result("result")
    assert await second == "result"


async def test_cancelling_the_last_one_ends_the_work_first() -> None:
    queue, steps = WorkQueue(ManualClock(), at_once=1, patience_s=60), list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            steps.append("tidied up")

    asking = asyncio.ensure_future(queue.do("key", work))
    await settle()
    asking.cancel()
    await settle()
    again = asyncio.ensure_future(queue.do("key", fails([], "afresh")))
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert steps == ["tidied up"]
    assert await again == "afresh", "who asks while it ends gets work of their own, after it"


async def test_cancelling_while_a_failure_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 30.0)
    queue = WorkQueue(SystemClock(), at_once=1, patience_s=60)
    asking = asyncio.ensure_future(queue.do("key", fails([EngineUnavailable("away")])))
    await settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_closing_ends_the_work_and_those_who_wait() -> None:
    queue, job = WorkQueue(ManualClock(), at_once=1, patience_s=0), Job()
    asking = asyncio.ensure_future(queue.do("key", job))
    await settle()
    await queue.aclose()
    await queue.aclose()
    assert job.was_cancelled
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_failure_that_nobody_waits_for_any_more_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    queue = WorkQueue(ManualClock(), at_once=1, patience_s=0)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ImageMissing("no image") from None

    asking = asyncio.ensure_future(queue.do("key", work))
    await settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await settle()
    assert not caplog.records


# turn


async def test_so_much_at_once_and_the_urgent_first() -> None:
    queue, order, gates = WorkQueue(ManualClock(), at_once=2, patience_s=0), list[str](), dict[str, asyncio.Event]()

    async def take(name: str, urgency: Urgency) -> None:
        async with queue.turn(urgency):
            order.append(name)
            await gates.setdefault(name, asyncio.Event()).wait()

    tasks = []
    for name in ("first", "second", "ahead", "ahead too", "awaited", "awaited too"):
        urgency = Urgency.AHEAD if name.startswith("ahead") else Urgency.AWAITED
        tasks.append(asyncio.ensure_future(take(name, urgency)))
        await settle()
    assert order == ["first", "second"]
    for name in ("second", "awaited", "awaited too"):
        gates[name].set()
        await settle()
    assert order == ["first", "second", "awaited", "awaited too"], "nothing is done ahead while one is awaited"
    for name in ("first", "ahead", "ahead too"):
        gates[name].set()
        await settle()
    await asyncio.gather(*tasks)
    assert order == ["first", "second", "awaited", "awaited too", "ahead", "ahead too"]


async def test_a_turn_that_is_given_to_one_who_was_cancelled_goes_on() -> None:
    queue = WorkQueue(ManualClock(), at_once=1, patience_s=0)
    inside = asyncio.Event()

    async def take(leave: asyncio.Event) -> None:
        async with queue.turn(Urgency.AWAITED):
            inside.set()
            await leave.wait()

    leave = asyncio.Event()
    holder = asyncio.ensure_future(take(leave))
    await settle()
    cancelled = asyncio.ensure_future(take(asyncio.Event()))
    await settle()
    leave.set()
    while not holder.done():  # the turn is handed over, who gets it has not run yet
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    async with asyncio.timeout(1), queue.turn(Urgency.AHEAD):
        pass


# any story


class Story(RuleBasedStateMachine):
    """Keys `0` to `3`, two turns; every work waits in its turn until the story ends it."""

    at_once = 2
    keys = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue = WorkQueue(ManualClock(), at_once=self.at_once, patience_s=0)
        self.asking: list[tuple[int, asyncio.Future[str]]] = []
        """Those who wait: the key, their task."""
        self.begun: dict[int, Urgency] = {}
        """By key, work that was begun and is not over."""
        self.inside: dict[int, asyncio.Future[str]] = {}
        self.broken: list[str] = []

    def run(self, work: Callable[[], Any]) -> None:
        async def story() -> None:
            async with asyncio.timeout(5):
                work()
                await settle()

        self.runner.run(story())

    async def _work(self, key: int, urgency: Urgency) -> str:
        if key in self.begun:
            self.broken.append(f"{key} is done twice at once")
        self.begun[key] = urgency
        try:
            async with self.queue.turn(urgency):
                if urgency is Urgency.AHEAD and Urgency.AWAITED in self.begun.values():
                    self.broken.append(f"{key} began beside one that is awaited")
                self.inside[key] = asyncio.get_running_loop().create_future()
                try:
                    return await self.inside[key]
                finally:
                    del self.inside[key]
        finally:
            del self.begun[key]

    @rule(key=keys, urgency=st.sampled_from(Urgency))
    def ask(self, key: int, urgency: Urgency) -> None:
        self.run(
            lambda: self.asking.append(
                (key, asyncio.ensure_future(self.queue.do(key, lambda: self._work(key, urgency))))
            )
        )

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), is_failure=st.booleans())
    def end(self, data: st.DataObject, is_failure: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.inside)))
        future = self.inside[key]
        self.run(lambda: future.set_exception(ImageMissing(str(key))) if is_failure else future.set_result(str(key)))
        waited = [task for each, task in self.asking if each == key]
        self.asking = [(each, task) for each, task in self.asking if each != key]
        assert waited
        assert all(task.done() for task in waited), "everybody hears of it"
        for task in waited:
            assert str(task.exception() if is_failure else task.result()) == str(key)

    @precondition(lambda self: self.asking)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        key, task = self.asking.pop(data.draw(st.integers(0, len(self.asking) - 1)))
        self.run(task.cancel)
        assert task.cancelled()
        assert (key in self.begun) == (key in {each for each, _ in self.asking})

    @invariant()
    def holds(self) -> None:
        assert self.broken == []
        assert set(self.begun) == {key for key, _ in self.asking}, "what somebody waits for is being done, and no more"
        awaited = [key for key, urgency in self.begun.items() if urgency is Urgency.AWAITED]
        ahead = [key for key in self.begun if key not in awaited and key not in self.inside]
        assert len(self.inside) <= self.at_once
        if len(self.inside) < self.at_once:
            assert set(awaited) <= set(self.inside), "as much at once as may be"
            assert awaited or not ahead
        assert not any(task.done() for _, task in self.asking)

    def teardown(self) -> None:
        self.runner.run(self.queue.aclose())
        self.run(lambda: None)
        assert self.begun == {}
        assert all(task.cancelled() for _, task in self.asking)
        self.runner.close()


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
