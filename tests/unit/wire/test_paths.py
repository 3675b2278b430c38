from __future__ import annotations

import pytest

from orchestrator.wire.paths import path_of, quote


@pytest.mark.parametrize(
    ("at", "parts", "path"),
    [
        ("", [], ""),
        ("", ["input", 1, "content"], "input[1].content"),
        ("environment", ["sources", 0], "environment.sources[0]"),
        ("", ["env", "MY KEY", "value"], 'env["MY KEY"].value'),
        ("", ["a\nb"], '["a\\nb"]'),
        ("", ["\ud800"], '["\\ud800"]'),
    ],
)
def test_path_reads_like_the_callers_json(at: str, parts: list[str | int], path: str) -> None:
    assert path_of(at, parts) == path


def test_long_names_are_cut() -> None:
    assert len(path_of("", ["a" * 10_000])) < 100
    assert len(quote("\x00" * 10_000)) < 600
    assert quote("x" * 10_000).endswith("…'")
