from __future__ import annotations

import asyncio

import h11
import pytest

from orchestrator.egress import parked
from orchestrator.egress.crossing import Outside
from orchestrator.egress.parked import ParkedLines
from orchestrator.egress.transfer import Line

pytestmark = pytest.mark.anyio

SITE, OTHER = ("site.test", 443), ("other.test", 443)


class Ending(Outside):
    """Says whether it was closed, and has nothing to close."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def line(target: tuple[str, int] = SITE, *, is_used: bool = True) -> tuple[Line, Ending]:
    ending = Ending()
    return Line(ending, h11.Connection(h11.CLIENT), target, is_used), ending


async def test_the_last_one_to_a_host_and_port_is_taken_and_once() -> None:
    lines = ParkedLines()
    (older, _), (newer, _), (other, _) = line(), line(), line(OTHER)
    for each in (older, newer, other):
        lines.put(each)
    assert lines.take(("site.test", 8443)) is None
    assert [lines.take(SITE), lines.take(SITE), lines.take(SITE)] == [newer, older, None]
    assert lines.take(OTHER) is other


async def test_what_is_not_fit_for_another_request_is_closed() -> None:
    lines = ParkedLines()
    fresh, ending = line(is_used=False)
    lines.put(fresh)
    asking, other = line()
    asking.protocol.send(h11.Request(method="GET", target="/", headers=[("Host", "site.test")]))
    lines.put(asking)
    assert ending.is_closed
    assert other.is_closed
    assert lines.take(SITE) is None


async def test_they_are_bounded_and_cleared() -> None:
    lines = ParkedLines()
    made = [line() for _ in range(10)]
    for each, _ in made:
        lines.put(each)
    assert [ending.is_closed for _, ending in made] == [True] * 2 + [False] * 8
    lines.clear()
    assert all(ending.is_closed for _, ending in made)
    assert lines.take(SITE) is None


async def test_they_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "_KEPT_S", 0.0)
    lines = ParkedLines()
    each, ending = line()
    lines.put(each)
    taken, kept = line(OTHER)
    lines.put(taken)
    assert lines.take(OTHER) is taken
    async with asyncio.timeout(5):
        while not ending.is_closed:
            await asyncio.sleep(0)
    assert not kept.is_closed, "it is somebody's again"
