"""Who is beside the engine and who is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.sandboxes.engine_host import reason_to_stay_out


@pytest.fixture
def url(short_path: Path) -> Iterator[str]:
    """Somebody who listens, in this process."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short_path / "engine.sock"))
        listening.listen()
        yield f"unix://{short_path}/engine.sock"


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "ssh://root@host", "http://engine"])
@pytest.mark.parametrize("namespace", ["mnt", "pid"])
def test_an_engine_that_is_not_reached_by_a_socket_is_elsewhere(url: str, namespace: str) -> None:
    assert reason_to_stay_out(url, namespace) == "the engine is on another machine"  # type: ignore[arg-type]


def test_only_root_acts_beside_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert reason_to_stay_out(url, "mnt") == "only root can mount disks"
    assert reason_to_stay_out(url, "pid") == "only root can reach what runs in containers"


@pytest.mark.parametrize("namespace", ["mnt", "pid"])
def test_who_shares_the_namespace_is_beside_it(url: str, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert reason_to_stay_out(url, namespace) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["mnt", "pid"])
def test_who_sees_other_mounts_or_processes_is_not(url: str, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    readlink = Path.readlink
    elsewhere = Path(f"{namespace}:[1]")
    monkeypatch.setattr(
        Path, "readlink", lambda path: elsewhere if path == Path(f"/proc/self/ns/{namespace}") else readlink(path)
    )
    assert reason_to_stay_out(url, namespace) == f"the server, or the engine, runs in a container ({namespace})"  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["mnt", "pid"])
def test_while_nobody_listens_it_is_where_it_was(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    url = f"unix://{short_path}/nobody.sock"
    assert reason_to_stay_out(url, namespace, was_beside=True) == ""  # type: ignore[arg-type]
    assert "runs in a container" in reason_to_stay_out(url, namespace, was_beside=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_marked", [True, False])
def test_what_nobody_knows_is_guessed_by_the_marks_of_containers(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, is_marked: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    exists = Path.exists
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    monkeypatch.setattr(Path, "exists", lambda path: is_marked if path in marks else exists(path))
    assert bool(reason_to_stay_out(f"unix://{short_path}/nobody.sock", "mnt")) is is_marked
