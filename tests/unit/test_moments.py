from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import moments
from tests.crash.lane import placed


@pytest.fixture
def seen() -> Iterator[list[str]]:
    names: list[str] = []
    moments.watch(names.append)
    yield names
    moments.watch(None)


def test_a_watcher_sees_what_is_passed(seen: list[str]) -> None:
    moments.passed("run.claimed")
    moments.passed("run.ended")
    assert seen == ["run.claimed", "run.ended"]


def test_without_a_watcher_a_moment_is_nothing(seen: list[str]) -> None:
    moments.watch(None)
    moments.passed("run.claimed")
    assert seen == []


def test_each_name_is_one_moment_and_is_passed_somewhere() -> None:
    assert len(set(moments.ALL)) == len(moments.ALL)
    assert set(placed()) == set(moments.ALL)
