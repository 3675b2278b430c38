"""The beginnings of files, whatever stands where a file should."""

from __future__ import annotations

import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest import excerpts, file_tools


class Reader:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *paths: str, limit_bytes: int = 10, file_limit: int = 50) -> list[dict[str, Any]]:
        """What is found, paths relative to the root; at the end whether that is all."""
        arguments = {
            "wanted": [{"path": f"{self.root}/{path}", "limit_bytes": limit_bytes} for path in paths],
            "within": [str(self.root)],
            "file_limit": file_limit,
        }
        sink = io.BytesIO()
        result = excerpts.excerpts(arguments, sink)
        found = [json.loads(line) for line in sink.getvalue().splitlines()]
        for entry in found:
            entry["path"] = os.path.relpath(entry["path"], self.root)
        return [*found, result]


ALL = {"is_complete": True}


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    root = tmp_path / "root"
    root.mkdir()
    return Reader(root)


def test_beginnings_with_the_size_of_the_whole(read: Reader) -> None:
    (read.root / "a").write_bytes(b"0123456789abc")
    (read.root / "b").write_bytes(b"\xff\xc3")
    assert read("a", "gone", "b", "a/below") == [
        {"path": "a", "size_bytes": 13, "text": "0123456789"},
        {"path": "b", "size_bytes": 2, "text": "\ufffd\ufffd"},
        ALL,
    ]


def test_a_star_is_each_folder_in_the_order_of_names(read: Reader) -> None:
    for name in ("b", "a", "a b", "é"):
        (read.root / "skills" / name).mkdir(parents=True)
        (read.root / "skills" / name / "SKILL.md").write_text(name)
    (read.root / "skills" / "empty").mkdir()
    (read.root / "skills" / "file").touch()
    assert [each.get("text") for each in read("skills/*/SKILL.md", "nothing/*/SKILL.md")] == [
        "a",
        "a b",
        "b",
        "é",
        None,
    ]


def test_endless_and_waiting_files_are_not_waited_for(read: Reader, short_path: Path) -> None:
    os.mkfifo(read.root / "pipe")
    (read.root / "folder").mkdir()
    (read.root / "zero").symlink_to("/dev/zero")
    (read.root / "loop").symlink_to("loop")
    (read.root / "dangling").symlink_to("nothing")
    with (read.root / "large").open("wb") as file:
        file.truncate(1 << 40)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short_path / "socket"))
        (short_path / "socket").rename(read.root / "socket")
        found = {
            each["path"]: each for each in read("pipe", "folder", "zero", "loop", "dangling", "large", "socket")[:-1]
        }
    assert {path: each.get("problem") for path, each in found.items()} == {
        "pipe": "not a regular file",
        "folder": "not a regular file",
        "zero": "a link that leads elsewhere",
        "loop": "Too many levels of symbolic links",
        "dangling": "No such file or directory",
        "large": None,
        "socket": "No such device or address",
    }
    assert (found["large"]["size_bytes"], found["large"]["text"]) == (1 << 40, "\0" * 10)


def test_links_are_followed_as_far_as_they_stay_within(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "SKILL.md").write_text("secret")
    (read.root / "CLAUDE.md").write_text("ours")
    (read.root / "AGENTS.md").symlink_to("CLAUDE.md")
    (read.root / "out").symlink_to("../secret")
    (read.root / "beside").symlink_to(tmp_path / "rooted")
    (read.root / "skills").mkdir()
    (read.root / "skills" / "far").symlink_to(tmp_path / "rooted")
    (read.root / "folder").symlink_to(tmp_path)
    found = read("AGENTS.md", "out", "beside/SKILL.md", "skills/*/SKILL.md", "folder/*/SKILL.md")
    assert found[0] == {"path": "AGENTS.md", "size_bytes": 4, "text": "ours"}
    assert {each["problem"] for each in found[1:-1]} == {"a link that leads elsewhere"}
    assert len(found) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_problem(read: Reader) -> None:
    (read.root / "a").touch(mode=0)
    assert read("a") == [{"path": "a", "problem": "Permission denied"}, ALL]


def test_folders_and_lines_have_a_limit(read: Reader) -> None:
    for number in range(1001):
        (read.root / "many" / f"{number:04}").mkdir(parents=True)
    (read.root / "many" / "0000" / "SKILL.md").touch()
    assert read("many/*/SKILL.md")[0]["problem"] == "it has more than 1000 entries"
    (read.root / "many" / "1000").rmdir()
    for number in range(3):
        (read.root / "many" / f"{number:04}" / "SKILL.md").touch()
    found = read("many/*/SKILL.md", file_limit=2)
    assert [each.get("path") for each in found] == ["many/0000/SKILL.md", "many/0001/SKILL.md", None]
    assert found[-1] == {"is_complete": False}
    assert read("many/*/SKILL.md", file_limit=3)[-1] == ALL


def test_names_that_are_no_text_can_be_told(read: Reader) -> None:
    folder = os.fsencode(read.root) + b"/skills/\xff\n"
    Path(os.fsdecode(folder)).mkdir(parents=True)
    os.mkfifo(folder + b"/SKILL.md")
    assert read("skills/*/SKILL.md")[0] == {"path": "skills/\ufffd\n/SKILL.md", "problem": "not a regular file"}


def test_a_hand_knows_the_operation(read: Reader) -> None:
    (read.root / "a").write_text("a")
    wanted = [{"path": f"{read.root}/a", "limit_bytes": 5}]
    arguments = {"cwd": "/", "wanted": wanted, "within": [str(read.root)], "file_limit": 1}
    with Path(os.devnull).open("rb") as source, (read.root / "out").open("wb") as sink:
        answer = file_tools.perform("excerpts", arguments, source.fileno(), sink.fileno())
    assert answer == {"result": ALL}
    assert json.loads((read.root / "out").read_text())["text"] == "a"
