"""File watches, from outside the guest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest.watches import _Batch
from tests.unit.guest.conftest import Client, Guest
from tests.unit.guest.streams import Talk
from tests.unit.guest.test_services import eventually


def watching(client: Client, *paths: str, recursive: bool = True) -> Talk:
    talk = Talk(client, "watch", paths=paths or ["."], recursive=recursive)
    talk.until(lambda: talk.lines)
    assert talk.lines[0]["kind"] == "watching"
    return talk


def seen(talk: Talk) -> list[tuple[str, str]]:
    return [(line["kind"], line["path"]) for line in talk.lines[1:]]


def until_seen(talk: Talk, *events: tuple[str, str]) -> None:
    talk.until(lambda: set(events) <= set(seen(talk)))


def program(workspace: Path, code: str) -> None:
    """Runs Python in the working directory, beside the guest: its client reads nothing meanwhile."""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=workspace, check=True, timeout=30)


def settle() -> None:
    """Longer than events are gathered."""
    time.sleep(0.15)


@pytest.fixture
def workspace(guest: Guest) -> Path:
    return guest.workspace


def test_what_happens_to_a_file(client: Client, workspace: Path) -> None:
    talk = watching(client)
    (workspace / "a").write_text("1")
    until_seen(talk, ("created", "a"))
    with (workspace / "a").open("a") as file:
        file.write("2")
    until_seen(talk, ("changed", "a"))
    (workspace / "a").rename(workspace / "b")
    until_seen(talk, ("moved", "b"))
    (workspace / "b").unlink()
    until_seen(talk, ("deleted", "b"))
    assert [line["kind"] for line in talk.lines[1:]] == ["created", "changed", "moved", "deleted"]
    assert talk.lines[3] == {"kind": "moved", "path": "b", "old_path": "a", "is_dir": False}


def test_folders_that_come_later_are_watched_with_what_is_in_them(client: Client, workspace: Path) -> None:
    talk = watching(client)
    (workspace / "x/y/z").mkdir(parents=True)
    (workspace / "x/y/z/file").write_text("")
    until_seen(talk, ("created", "x"), ("created", "x/y/z"), ("created", "x/y/z/file"))
    settle()
    (workspace / "x/y/z/file").write_text("more")
    until_seen(talk, ("changed", "x/y/z/file"))
    assert next(line for line in talk.lines if line.get("path") == "x/y")["is_dir"] is True


def test_a_moved_folder_keeps_what_is_below_it(client: Client, workspace: Path) -> None:
    (workspace / "old/deep").mkdir(parents=True)
    (workspace / "other").mkdir()
    talk = watching(client)
    (workspace / "old").rename(workspace / "other/new")
    until_seen(talk, ("moved", "other/new"))
    (workspace / "other/new/deep/file").write_text("")
    until_seen(talk, ("created", "other/new/deep/file"))


def test_what_leaves_is_not_watched_any_more(client: Client, workspace: Path, short_path: Path) -> None:
    (workspace / "folder/deep").mkdir(parents=True)
    talk = watching(client)
    (workspace / "folder").rename(short_path / "elsewhere")
    until_seen(talk, ("deleted", "folder"))
    (short_path / "elsewhere/deep/secret").write_text("")
    (workspace / "after").write_text("")
    until_seen(talk, ("created", "after"))
    assert not any("secret" in path for _, path in seen(talk))
    (short_path / "elsewhere").rename(workspace / "back")
    until_seen(talk, ("created", "back"), ("created", "back/deep/secret"))


def test_only_the_folder_itself_if_not_recursive(client: Client, workspace: Path) -> None:
    (workspace / "sub").mkdir()
    talk = watching(client, recursive=False)
    (workspace / "sub/hidden").write_text("")
    (workspace / "new").mkdir()
    settle()
    (workspace / "new/hidden").write_text("")
    (workspace / "shown").write_text("")
    until_seen(talk, ("created", "shown"), ("created", "new"))
    assert not any("hidden" in path for _, path in seen(talk))


def test_several_folders_and_paths_from_the_working_directory(client: Client, workspace: Path) -> None:
    (workspace / "a/b").mkdir(parents=True)
    (workspace / "c").mkdir()
    talk = watching(client, "a/b", str(workspace / "c"))
    (workspace / "a/b/1").write_text("")
    (workspace / "c/2").write_text("")
    (workspace / "3").write_text("")
    until_seen(talk, ("created", "a/b/1"), ("created", "c/2"))
    assert ("created", "3") not in seen(talk)


def test_it_ends_with_its_folder(client: Client, workspace: Path) -> None:
    (workspace / "gone").mkdir()
    talk = watching(client, "gone")
    (workspace / "gone").rmdir()
    talk.until_end()
    assert seen(talk) == [("deleted", "gone")]
    assert talk.messages == [{"result": {}}]


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (["missing"], "enoent"),
        (["file"], "enotdir"),
        (["../elsewhere"], "bad_path"),
        (["/etc"], "bad_path"),
        (["a\0b"], "bad_path"),
    ],
)
def test_what_cannot_be_watched_says_why(client: Client, workspace: Path, paths: list[str], code: str) -> None:
    (workspace / "file").write_text("")
    talk = Talk(client, "watch", paths=paths)
    talk.until_end()
    assert (talk.data, talk.messages[0]["error"]["code"]) == (b"", code)


@pytest.mark.parametrize("request_", [{}, {"paths": []}, {"paths": ["."] * 65}, {"paths": 5}])
def test_a_request_without_sense(client: Client, request_: dict[str, Any]) -> None:
    talk = Talk(client, "watch", **request_)
    talk.until_end()
    assert talk.reset is not None
    assert talk.reset["code"] == "bad_request"


def test_links_are_not_followed_and_odd_names_come_through(client: Client, workspace: Path, short_path: Path) -> None:
    (short_path / "outside").mkdir()
    (workspace / "link").symlink_to(short_path / "outside")
    (workspace / "loop").symlink_to(workspace)
    talk = watching(client)
    (short_path / "outside/hidden").write_text("")
    Path(os.fsdecode(os.fsencode(workspace) + b"/\xff\n\xf0")).write_text("")
    (workspace / "näme 😀").write_text("")
    until_seen(talk, ("created", "näme 😀"), ("created", "\udcff\n\udcf0"))
    assert not any("hidden" in path for _, path in seen(talk))


def test_a_rename_storm_is_a_few_events(client: Client, workspace: Path) -> None:
    talk = watching(client)
    (workspace / "0").write_text("")
    code = "import os, sys\nfor n in range(50000): os.rename(str(n % 7), str((n + 1) % 7))"
    program(workspace, code)
    (workspace / "end").write_text("")
    # A guest that is kept waiting loses events to the kernel's limit, and says so.
    talk.until(lambda: {("created", "end"), ("overflow", "")} & set(seen(talk)))
    assert len(talk.lines) < 500


def test_too_many_changes_are_an_overflow(client: Client, workspace: Path) -> None:
    talk = watching(client)
    code = "for n in range(30000): open(f'{n:06}', 'w').close()"
    program(workspace, code)
    talk.until(lambda: "overflow" in [kind for kind, _ in seen(talk)])
    known = len(seen(talk))
    (workspace / "end").write_text("")
    # What is lost in a second overflow is told by it, too.
    talk.until(lambda: {("created", "end"), ("overflow", "")} & set(seen(talk)[known:]))
    assert len(talk.lines) < 20_000


def test_a_slow_reader_gets_few_events_and_holds_nobody_up(client: Client, workspace: Path) -> None:
    talk = watching(client)
    taken = len(talk.data)
    code = "for n in range(300):\n    for m in range(400): open('f' * 200 + str(m), 'w').close()"
    program(workspace, code)
    deadline = time.monotonic() + 2
    client._socket.settimeout(0.5)
    while time.monotonic() < deadline:
        try:
            talk.read(takes=False)
        except TimeoutError:
            break
    assert len(talk.data) - taken <= 512 * 1024
    client._socket.settimeout(10)
    talk.take(len(talk.data))
    (workspace / "end").write_text("")
    talk.until(lambda: {("created", "end"), ("overflow", "")} & set(seen(talk)))


def test_too_many_folders_are_an_overflow(client: Client, workspace: Path) -> None:
    for number in range(4200):
        (workspace / f"d{number}").mkdir()
    talk = watching(client)
    assert talk.lines[0]["directories"] == 4096
    talk.until(lambda: ("overflow", "") in seen(talk))
    shutil.rmtree(workspace / "d1")


def test_deep_folders_are_an_overflow(client: Client, workspace: Path) -> None:
    talk = watching(client)
    program(workspace, "import os\nfor n in range(150): os.mkdir('d'); os.chdir('d')")
    talk.until(lambda: ("overflow", "") in seen(talk))


def test_there_is_a_limit_and_a_closed_watch_leaves_nothing(guest: Guest, client: Client) -> None:
    def children() -> int:
        return len(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split())

    talks = [watching(client) for _ in range(8)]
    one_more = Talk(client, "watch", paths=["."])
    one_more.until_end()
    assert one_more.reset is not None
    assert one_more.reset["code"] == "too_many"
    for talk in talks:
        talk.close()
    watching(client).close()
    eventually(lambda: children() <= 2)  # the spare hands


def test_a_killed_hand_is_told(guest: Guest, client: Client) -> None:
    before = {int(each) for each in Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()}
    talk = watching(client)
    for pid in before:
        os.kill(pid, 9)
    talk.until_end()
    assert talk.messages[0]["error"]["code"] == "failed"


@pytest.mark.parametrize(
    ("events", "sum_"),
    [
        ([("created", "a"), ("changed", "a")], [("created", "a", None)]),
        ([("created", "a"), ("deleted", "a")], []),
        ([("deleted", "a"), ("created", "a")], [("changed", "a", None)]),
        ([("changed", "a"), ("deleted", "a")], [("deleted", "a", None)]),
        ([("changed", "a"), ("changed", "a")], [("changed", "a", None)]),
        ([("created", "t"), ("t", "a")], [("created", "a", None)]),
        ([("a", "b"), ("b", "c")], [("moved", "c", "a")]),
        ([("a", "b"), ("b", "a")], []),
        ([("a", "b"), ("changed", "b")], [("moved", "b", "a")]),
        ([("a", "b"), ("deleted", "b")], [("deleted", "a", None)]),
    ],
)
def test_a_batch_says_what_it_comes_to(events: list[tuple[str, str]], sum_: list[tuple[str, str, str | None]]) -> None:
    batch = _Batch()
    for kind, path in events:
        if kind in ("created", "changed", "deleted"):
            batch.add(kind, path.encode(), False)
        else:
            batch.add("moved", path.encode(), False, kind.encode())
    assert [(each["kind"], each["path"], each.get("old_path")) for each in batch.take()] == sum_
