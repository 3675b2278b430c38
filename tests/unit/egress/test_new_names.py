from __future__ import annotations

from orchestrator.egress.new_names import NewNames


def test_so_many_at_once_and_more_as_time_goes() -> None:
    names = NewNames(3, 0.5)
    assert [names.admits(f"a{number}.test", 100.0) for number in range(5)] == [True] * 3 + [False] * 2
    assert names.admits("a0.test", 100.0), "it was asked for before"
    assert not names.admits("b.test", 101.0)
    assert names.admits("b.test", 103.0)
    assert not names.admits("c.test", 103.0)
    assert [names.admits(f"d{number}.test", 10_000.0) for number in range(4)] == [True] * 3 + [False]


def test_only_so_many_are_remembered() -> None:
    names = NewNames(1025, 0)
    assert all(names.admits(f"a{number}.test", 0) for number in range(1025))
    assert names.admits("a1024.test", 0)
    assert not names.admits("a0.test", 0), "it counts as new again"
