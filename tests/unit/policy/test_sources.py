from __future__ import annotations

import pytest
from pydantic import ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.policy import sources as module
from orchestrator.policy.sources import check_inline
from orchestrator.wire.environments import InlineSource


def sources(*targets: str) -> list[InlineSource]:
    return [InlineSource.model_validate({"type": "inline", "target": each, "content": "x"}) for each in targets]


@pytest.mark.parametrize(
    "target",
    ["/workspace/a", "workspace/a/b/c", "/.agents/AGENTS.md", "/home/agent/.bashrc", "/tmp/x", "//workspace//a"],
)
def test_allowed_targets(target: str) -> None:
    check_inline(sources(target))


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "/workspace",
        "/workspace/",
        "/workspacex/a",
        "/home/other/a",
        "/home/agent",
        "/opt/corral/guest/main.py",
        "/run/corral/guest.sock",
        "/root/.profile",
    ],
)
def test_other_targets_are_refused_by_the_field(target: str) -> None:
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[1\]\.target"):
        check_inline(sources("/workspace/fine", target))


@pytest.mark.parametrize("target", ["/workspace/../etc/passwd", "/workspace/a/../../etc/x", "workspace/../../x"])
def test_no_way_up(target: str) -> None:
    with pytest.raises((InvalidRequest, ValidationError)):
        check_inline(sources(target))


@pytest.mark.parametrize(
    "targets",
    [
        ("/workspace/a", "/workspace/a"),
        ("/workspace/a", "workspace//a/."),
        ("/workspace/a", "/workspace/a/b"),
        ("/workspace/a/b", "/workspace/a"),
        ("/workspace/a/b/c", "/workspace/x", "/workspace/a"),
    ],
)
def test_sources_that_cannot_both_be_are_refused_in_any_order(targets: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        check_inline(sources(*targets))


def test_neighbours_are_fine() -> None:
    check_inline(sources("/workspace/a/b", "/workspace/a/c", "/workspace/ab", "/workspace/a.b"))


def test_one_file_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INLINE_LIMIT_BYTES", 3)
    source = InlineSource.model_validate({"type": "inline", "target": "workspace/a", "content": "ää"})
    with pytest.raises(InvalidRequest, match=r"environment\.sources\[0\]\.content"):
        check_inline([source])
