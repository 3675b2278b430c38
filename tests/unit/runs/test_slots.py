"""Whose run goes next: by tier, then fairly among projects, then by arrival; and no slot is ever lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from orchestrator.models.port import ModelEvent, ModelRequest, TextDelta, TurnEnd
from orchestrator.runs.slots import TIERS, Slots
from orchestrator.store.sqlite import SqliteStore
from tests.fakes.runs import PlayedModel, RunWorld, scripted

pytestmark = pytest.mark.anyio


class Queue:
    """Runs that want a slot, in the order in which they came; each holds its own until it is released."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.began: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._releases: dict[str, asyncio.Event] = {}

    async def come(self, name: str, project: str = "p", tier: str = "standard") -> None:
        self._releases[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, project, tier))
        await settled()

    async def _run(self, name: str, project: str, tier: str) -> None:
        async with self.slots.slot(project, tier):
            self.began.append(name)
            await self._releases[name].wait()

    def release(self, name: str) -> None:
        self._releases[name].set()

    async def end(self, name: str) -> None:
        self.release(name)
        await self.tasks[name]
        await settled()

    async def run_down(self) -> list[str]:
        """Ends run after run, always the one that began first; in which order all began."""
        ended = 0
        while ended < len(self.began):
            await self.end(self.began[ended])
            ended += 1
        assert self.slots.taken == self.slots.waiting == 0
        return self.began


async def settled() -> None:
    """All tasks have done what they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tiers_are_four_and_go_in_order() -> None:
    assert TIERS == ("priority", "standard", "flex", "deferred")
    queue = Queue(Slots(1, 1))
    await queue.come("first")
    for tier in reversed(TIERS):
        await queue.come(f"{tier} 1", tier=tier)
    for tier in TIERS:
        await queue.come(f"{tier} 2", tier=tier)
    assert await queue.run_down() == [
        "first",
        *[f"{tier} {number}" for tier in TIERS for number in (1, 2)],
    ]


async def test_what_is_no_tier_counts_as_standard() -> None:
    queue = Queue(Slots(1, 1))
    await queue.come("first")
    await queue.come("flex", tier="flex")
    await queue.come("odd", tier="platinum")
    await queue.come("standard")
    await queue.come("priority", tier="priority")
    assert await queue.run_down() == ["first", "priority", "odd", "standard", "flex"]


async def test_no_more_run_than_there_are_slots() -> None:
    queue = Queue(Slots(2, 10))
    for name in "abcd":
        await queue.come(name, project=name)
    assert queue.began == ["a", "b"]
    assert (queue.slots.taken, queue.slots.waiting) == (2, 2)
    await queue.end("b")
    assert queue.began == ["a", "b", "c"]
    assert (queue.slots.taken, queue.slots.waiting) == (2, 1)


async def test_a_project_has_no_more_than_its_own_and_holds_up_nobody() -> None:
    queue = Queue(Slots(4, 2))
    for name in ("a1", "a2", "a3", "b1"):
        await queue.come(name, project=name[0])
    assert queue.began == ["a1", "a2", "b1"]
    # A tier does not lift it, and what waits for it lets later tiers pass.
    await queue.come("a4", project="a", tier="priority")
    await queue.come("b2", project="b", tier="deferred")
    assert queue.began == ["a1", "a2", "b1", "b2"]
    await queue.end("b1")
    assert queue.began == ["a1", "a2", "b1", "b2"], "a slot is free, and nobody who waits may take it"
    await queue.end("a1")
    assert queue.began[-1] == "a4"
    assert await queue.run_down() == ["a1", "a2", "b1", "b2", "a4", "a3"]


async def test_the_project_that_has_fewest_goes_first() -> None:
    queue = Queue(Slots(3, 3))
    for name in ("a1", "a2", "a3", "a4", "b1"):
        await queue.come(name, project=name[0])
    assert queue.began == ["a1", "a2", "a3"]
    await queue.end("a1")
    assert queue.began[-1] == "b1", "a has two runs, b has none"


async def test_among_equals_who_came_first_goes_first() -> None:
    queue = Queue(Slots(1, 1))
    for name in ("x", "a1", "b1", "a2", "c1", "b2"):
        await queue.come(name, project=name[0])
    assert await queue.run_down() == ["x", "a1", "b1", "a2", "c1", "b2"]


async def test_a_project_that_always_has_more_to_do_starves_no_other() -> None:
    queue = Queue(Slots(2, 2))
    for name in ("a1", "b1", "a2", "b2", "c1"):
        await queue.come(name, project=name[0])
    for number in range(3, 9):
        oldest = queue.began[number - 3]
        await queue.come(f"a{number}", project="a")
        await queue.come(f"b{number}", project="b")
        await queue.end(oldest)
    assert "c1" in queue.began[:6], queue.began


# leaving


async def test_who_gives_up_waiting_takes_no_slot_and_holds_up_nobody() -> None:
    queue = Queue(Slots(1, 1))
    for name in "abc":
        await queue.come(name)
    queue.tasks["b"].cancel()
    await settled()
    assert queue.tasks["b"].cancelled()
    assert (queue.slots.taken, queue.slots.waiting) == (1, 1)
    assert await queue.run_down() == ["a", "c"]


async def test_who_is_cancelled_while_it_runs_gives_its_slot_back() -> None:
    queue = Queue(Slots(1, 1))
    for name in "ab":
        await queue.come(name)
    queue.tasks["a"].cancel()
    await settled()
    assert queue.began == ["a", "b"]


async def test_a_run_that_fails_gives_its_slot_back() -> None:
    slots = Slots(1, 1)
    with pytest.raises(ZeroDivisionError):
        async with slots.slot("p", "standard"):
            raise ZeroDivisionError
    assert slots.taken == 0


async def test_who_gives_up_just_when_its_turn_comes_passes_it_on() -> None:
    queue = Queue(Slots(1, 1))
    for name in "abc":
        await queue.come(name)
    queue.release("a")
    while not queue.tasks["a"].done():
        await asyncio.sleep(0)
    # b has its turn and has not had its first step in it.
    assert queue.began == ["a"]
    queue.tasks["b"].cancel()
    await settled()
    assert queue.began == ["a", "c"]
    assert (queue.slots.taken, queue.slots.waiting) == (1, 0)


async def test_a_slot_that_comes_free_while_who_waits_is_giving_up_goes_to_the_next() -> None:
    queue = Queue(Slots(1, 1))
    for name in "abc":
        await queue.come(name)
    queue.release("a")  # wakes a, which gives its slot back …
    queue.tasks["b"].cancel()  # … before b has noticed that it is cancelled
    await settled()
    assert queue.tasks["a"].exception() is None
    assert queue.tasks["b"].cancelled()
    assert queue.began == ["a", "c"]
    assert (queue.slots.taken, queue.slots.waiting) == (1, 0)


async def test_when_all_are_cancelled_at_once_each_ends_as_cancelled() -> None:
    queue = Queue(Slots(2, 2))
    for name in "abcdef":
        await queue.come(name, project=name)
    for task in queue.tasks.values():
        task.cancel()
    found = await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in found), found
    assert (queue.slots.taken, queue.slots.waiting) == (0, 0)


# runs


async def test_runs_begin_by_tier_also_after_a_restart(store: SqliteStore) -> None:
    """Who waits is asked in the order of tiers, whichever server it waits at."""
    first = RunWorld(store, slots=0)
    rows = {tier: await first.row(tier, tier=tier) for tier in reversed(TIERS)}
    for row in rows.values():
        first.supervisor.start(row)
    await settled()
    await first.supervisor.aclose()
    asked: list[str] = []

    def play(request: ModelRequest) -> list[ModelEvent | Exception]:
        asked.append(str(request.history[-1]))
        return [TextDelta("fine"), TurnEnd()]

    second = RunWorld(store, model=PlayedModel(play), slots=1, generation=2)
    await second.supervisor.open()
    async with asyncio.timeout(10):
        for row in rows.values():
            await second.supervisor.wait(row.id)
    await second.supervisor.aclose()
    order = [next(tier for tier in TIERS if f"'{tier}'" in each) for each in asked]
    # The first to be taken up finds the slot free; the others have come by the time it comes free again.
    assert order == [order[0], *(tier for tier in TIERS if tier != order[0])]


async def test_a_server_that_closes_loses_no_run_that_waits(store: SqliteStore, logged: list[Any]) -> None:
    world = RunWorld(store, slots=2)
    rows = [await world.row(scripted({"text": "late", "sleep_ms": 60_000})) for _ in range(6)]
    for row in rows:
        world.supervisor.start(row)
    while world.supervisor._slots.taken < 2 or world.supervisor._slots.waiting < 4:
        await asyncio.sleep(0.005)
    await world.supervisor.aclose()
    assert {(await world.stored(row.id)).status for row in rows} == {"in_progress"}
    assert "run_lost" not in [line["event"] for line in logged]


async def test_no_slots_at_all_means_that_all_wait() -> None:
    queue = Queue(Slots(0, 1))
    await queue.come("a")
    assert (queue.began, queue.slots.waiting) == ([], 1)
    queue.tasks["a"].cancel()
    with suppress(asyncio.CancelledError):
        await queue.tasks["a"]
    assert queue.slots.waiting == 0
