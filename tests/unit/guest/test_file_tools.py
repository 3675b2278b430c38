"""File operations, called as a hand calls them. Names are bytes here, for which pathlib has no words."""

# ruff: noqa: PTH101, PTH118, PTH119, PTH208

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.guest import file_tools

ODD_NAMES = [
    b"new\nline",
    b"caf\xe9 latin1",
    "\u202egnp.exe".encode(),
    b"-rf",
    b" leading and trailing ",
    b"quote'\"`$(id)",
    b"\xff\xfe",
    "\u00e9".encode(),
    "e\u0301".encode(),
    b"x" * 255,
    b"..hidden",
    b"tab\tescape\x1b[31m",
]


class Hand:
    """Performs operations in a folder; content goes through real descriptors."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def __call__(self, operation: str, content: bytes = b"", **arguments: Any) -> tuple[dict[str, Any], bytes]:
        source_end, feed = os.pipe()
        drain, sink_end = os.pipe()
        taken: list[bytes] = []

        def give() -> None:
            try:
                with os.fdopen(feed, "wb") as file:
                    file.write(content)
            except BrokenPipeError:
                pass

        def take() -> None:
            with os.fdopen(drain, "rb") as file:
                taken.append(file.read())

        threads = [threading.Thread(target=give), threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        try:
            answer = file_tools.perform(operation, {"cwd": str(self.cwd), **arguments}, source_end, sink_end)
        finally:
            os.close(source_end)
            os.close(sink_end)
            for thread in threads:
                thread.join()
        json.dumps(answer)
        return answer, taken[0]

    def result(self, operation: str, content: bytes = b"", **arguments: Any) -> dict[str, Any]:
        answer, _ = self(operation, content, **arguments)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def code(self, operation: str, content: bytes = b"", **arguments: Any) -> str:
        """The code of the refusal."""
        answer, _ = self(operation, content, **arguments)
        assert "error" in answer, answer
        assert answer["error"]["message"]
        return str(answer["error"]["code"])

    def entries(self, **arguments: Any) -> list[dict[str, Any]]:
        answer, data = self("list", **arguments)
        assert "result" in answer, answer
        return [json.loads(line) for line in data.split(b"\n") if line]


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    cwd = tmp_path / "some" / "where" / "workspace"
    cwd.mkdir(parents=True)
    return Hand(cwd)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".corral-*"))


def odd(name: bytes) -> str:
    return os.fsdecode(name)


# read


def test_read_gives_the_bytes_as_they_are(hand: Hand) -> None:
    content = bytes(range(1, 256)) * 5000
    (hand.cwd / "x").write_bytes(content)
    answer, data = hand("read", path="x")
    assert data == content
    assert answer["result"] == {"path": f"{hand.cwd}/x", "size_bytes": len(content), "is_binary": False}


def test_read_of_some_lines(hand: Hand) -> None:
    (hand.cwd / "x").write_bytes(b"".join(b"line %d\r\n" % number for number in range(1, 11)))
    assert hand("read", path="x", first_line=3, line_count=2)[1] == b"line 3\r\nline 4\r\n"
    assert hand("read", path="x", first_line=10)[1] == b"line 10\r\n"
    assert hand("read", path="x", first_line=11)[1] == b""
    assert hand("read", path="x", line_count=1)[1] == b"line 1\r\n"


def test_lines_are_counted_however_long_they_are(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tools, "PIECE_BYTES", 10)
    (hand.cwd / "x").write_bytes(b"a" * 35 + b"\n" + b"b" * 9 + b"\n" + b"c" * 10 + b"\n" + b"d" * 25)
    for number, line in enumerate([b"a" * 35 + b"\n", b"b" * 9 + b"\n", b"c" * 10 + b"\n", b"d" * 25], 1):
        assert hand("read", path="x", first_line=number, line_count=1)[1] == line


def test_a_line_as_long_as_the_disk_is_not_kept_in_memory(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tools, "_BINARY_LIMIT_BYTES", 1 << 50)
    (hand.cwd / "x").write_bytes(b"first\n")
    os.truncate(hand.cwd / "x", 1 << 29)
    program = (
        "import os, resource, sys; sys.path[:0] = [sys.argv[1]]; from orchestrator.guest import file_tools\n"
        "resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))\n"
        "print(file_tools.perform('read', {'cwd': sys.argv[2], 'path': 'x', 'first_line': 2}, 0,"
        " os.open('/dev/null', os.O_WRONLY)))"
    )
    repository = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([sys.executable, "-c", program, repository, hand.cwd], capture_output=True, check=False)
    assert b"'result'" in done.stdout, done.stderr.decode()


def test_read_says_what_is_binary(hand: Hand) -> None:
    (hand.cwd / "x").write_bytes(b"ELF\0\1\2")
    assert hand.result("read", path="x")["is_binary"]


def test_read_does_not_go_through_a_terabyte_of_holes(hand: Hand) -> None:
    with (hand.cwd / "x").open("wb") as file:
        file.truncate(1 << 40)
    answer, data = hand("read", path="x")
    assert answer["result"] == {"path": f"{hand.cwd}/x", "size_bytes": 1 << 40, "is_binary": True}
    assert data == b""


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing", "enoent"),
        ("folder", "not_a_file"),
        ("fifo", "not_a_file"),
        ("socket", "enxio"),
        ("/dev/zero", "not_a_file"),
        ("file/below", "enotdir"),
        ("loop", "eloop"),
        ("dangling", "enoent"),
        ("a\0b", "bad_path"),
        ("x" * 5000, "enametoolong"),
        ("", "not_a_file"),
    ],
)
def test_read_refuses_what_is_no_file_and_never_waits(hand: Hand, path: str, code: str) -> None:
    (hand.cwd / "folder").mkdir()
    (hand.cwd / "file").write_text("x")
    os.mkfifo(hand.cwd / "fifo")
    (hand.cwd / "loop").symlink_to("loop")
    (hand.cwd / "dangling").symlink_to("nowhere")
    previous = Path.cwd()
    os.chdir(hand.cwd)  # a Unix socket's path is limited
    try:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("socket")
        listening.close()
    finally:
        os.chdir(previous)
    assert hand.code("read", path=path) == code


# write


def test_write_makes_folders_on_the_way(hand: Hand) -> None:
    assert hand.result("write", b"hello", path="a/b/c.txt") == {
        "path": f"{hand.cwd}/a/b/c.txt",
        "size_bytes": 5,
        "created": True,
    }
    assert (hand.cwd / "a/b/c.txt").read_bytes() == b"hello"
    assert stat.S_IMODE((hand.cwd / "a/b/c.txt").stat().st_mode) == 0o644


def test_write_replaces_and_keeps_the_mode_without_setuid(hand: Hand) -> None:
    file = hand.cwd / "run.sh"
    file.write_text("old")
    file.chmod(0o4755)
    assert not hand.result("write", b"new", path="run.sh")["created"]
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_write_goes_through_a_link_and_keeps_it(hand: Hand) -> None:
    (hand.cwd / "real").mkdir()
    (hand.cwd / "real/file").write_text("old")
    (hand.cwd / "link").symlink_to("real/file")
    hand.result("write", b"new", path="link")
    assert (hand.cwd / "link").is_symlink()
    assert (hand.cwd / "real/file").read_text() == "new"
    (hand.cwd / "dangling").symlink_to("fresh")
    hand.result("write", b"new", path="dangling")
    assert (hand.cwd / "fresh").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("folder", "is_a_directory"),
        ("folder/", "is_a_directory"),
        (".", "is_a_directory"),
        ("file/below", "enotdir"),
        ("file/below/deep", "enotdir"),
        ("a\0b", "bad_path"),
        ("y" * 256, "enametoolong"),
    ],
)
def test_write_refuses_what_is_in_the_way(hand: Hand, path: str, code: str) -> None:
    (hand.cwd / "folder").mkdir()
    (hand.cwd / "file").write_text("kept")
    assert hand.code("write", b"content", path=path) in (code, "eexist")
    assert (hand.cwd / "file").read_text() == "kept"
    assert leftovers(hand.cwd) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_make_the_round(hand: Hand, name: bytes) -> None:
    hand.result("write", b"content", path=odd(name))
    assert os.listdir(os.fsencode(hand.cwd)) == [name]
    assert hand("read", path=odd(name))[1] == b"content"
    assert [os.fsencode(entry["name"]) for entry in hand.entries(path=".")] == [name]
    assert hand("search", path=".", pattern="cont")[1].startswith(os.fsencode(hand.cwd) + b"/" + name + b":1: ")
    assert hand.result("edit", json.dumps({"old": "con", "new": "in"}).encode(), path=odd(name))["line"] == 1
    assert hand.result("delete", path=odd(name))["type"] == "file"
    assert os.listdir(hand.cwd) == []


# edit


def edit(hand: Hand, path: str = "x", **change: Any) -> tuple[dict[str, Any], bytes]:
    return hand("edit", json.dumps(change).encode(), path=path)


def test_edit_replaces_exactly_one(hand: Hand) -> None:
    (hand.cwd / "x").write_bytes("eins\r\nzwei ä\r\ndrei\r\n".encode())
    answer, _ = edit(hand, old="zwei ä\r\n", new="2\n")
    assert answer["result"] == {"path": f"{hand.cwd}/x", "replacements": 1, "line": 2}
    assert (hand.cwd / "x").read_bytes() == b"eins\r\n2\ndrei\r\n"


def test_edit_replaces_all_when_asked(hand: Hand) -> None:
    (hand.cwd / "x").write_text("a a a")
    assert edit(hand, old="a", new="aa")[0]["error"]["code"] == "ambiguous"
    assert edit(hand, old="a", new="aa", replace_all=True)[0]["result"]["replacements"] == 3
    assert (hand.cwd / "x").read_text() == "aa aa aa"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"old": "none", "new": ""}, "no_match"),
        ({"old": "", "new": "x"}, "bad_request"),
        ({"new": "x"}, "bad_request"),
        ({"old": "\ud800", "new": "x"}, "bad_request"),
    ],
)
def test_edit_refuses_and_leaves_the_file(hand: Hand, change: dict[str, str], code: str) -> None:
    (hand.cwd / "x").write_text("content")
    assert edit(hand, **change)[0]["error"]["code"] == code
    assert (hand.cwd / "x").read_text() == "content"


def test_edit_refuses_a_file_that_is_too_large_to_hold(hand: Hand) -> None:
    (hand.cwd / "x").write_bytes(b"old\n")
    os.truncate(hand.cwd / "x", 1 << 40)
    answer, _ = edit(hand, old="old", new="new")
    assert answer["error"]["code"] == "too_large"
    assert "64 MiB" in answer["error"]["message"]


def test_edit_keeps_bytes_that_are_no_text(hand: Hand) -> None:
    (hand.cwd / "x").write_bytes(b"\xff\xfe old \x80")
    edit(hand, old="old", new="neu ä")
    assert (hand.cwd / "x").read_bytes() == b"\xff\xfe neu \xc3\xa4 \x80"


# list


def test_list_tells_type_size_and_name_in_order(hand: Hand) -> None:
    (hand.cwd / "b").mkdir()
    (hand.cwd / "a").write_text("12345")
    (hand.cwd / "c").symlink_to("/nowhere")
    os.mkfifo(hand.cwd / "d")
    assert [(entry["name"], entry["type"]) for entry in hand.entries(path=".")] == [
        ("a", "file"),
        ("b", "directory"),
        ("c", "symlink"),
        ("d", "other"),
    ]
    assert hand.entries(path=".")[0]["size_bytes"] == 5


def test_list_of_a_file_is_the_file_and_of_nothing_an_error(hand: Hand) -> None:
    (hand.cwd / "a").write_text("x")
    assert [entry["name"] for entry in hand.entries(path="a")] == ["a"]
    assert hand.code("list", path="missing") == "enoent"


def test_list_goes_down_but_not_into_what_nobody_reads_nor_through_links(hand: Hand) -> None:
    for folder in (".git", "node_modules", "src/deep"):
        (hand.cwd / folder).mkdir(parents=True)
        (hand.cwd / folder / "file").write_text("x")
    (hand.cwd / "loop").symlink_to(hand.cwd)
    names = [entry["name"].removeprefix(f"{hand.cwd}/") for entry in hand.entries(path=".", recursive=True)]
    assert names == [".git", "loop", "node_modules", "src", "src/deep", "src/deep/file"]


@pytest.mark.parametrize("count", [1999, 2000, 2001])
def test_list_has_a_limit_and_says_so(hand: Hand, count: int) -> None:
    for number in range(count):
        (hand.cwd / f"{number:05}").touch()
    answer, data = hand("list", path=".")
    assert answer["result"]["is_complete"] is (count <= 2000)
    assert answer["result"]["count"] == data.count(b"\n") == min(count, 2000)


def test_list_and_search_go_deeper_than_pythons_stack(hand: Hand) -> None:
    deep, depth = hand.cwd, 0
    while len(str(deep)) < 3900:
        deep = deep / "d"
        deep.mkdir()
        depth += 1
    assert depth > 1200
    (deep / "f").write_text("needle")
    assert len(hand.entries(path=".", recursive=True)) == depth + 1
    assert hand.result("search", path=".", pattern="needle")["matches"] == 1
    subprocess.run(["rm", "-rf", hand.cwd], check=True)  # Python's own way recurses, too


def test_what_vanishes_while_it_is_listed_is_left_out(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b/c", "d"):
        (hand.cwd / name).parent.mkdir(exist_ok=True)
        (hand.cwd / name).write_text("needle")
    lstat = os.lstat

    def vanishing(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/b"):
            shutil.rmtree(path, ignore_errors=True)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", vanishing)
    assert [entry["name"][-1] for entry in hand.entries(path=".", recursive=True)] == ["a", "d"]
    assert hand.result("search", path=".", pattern="needle")["matches"] == 2


# search


def test_search_tells_path_line_and_text(hand: Hand) -> None:
    (hand.cwd / "a.py").write_text("one\ntwo\r\nthree two\n")
    (hand.cwd / "b.bin").write_bytes(b"two\0two")
    answer, data = hand("search", path=".", pattern="tw[o]")
    assert data.decode() == f"{hand.cwd}/a.py:2: two\n{hand.cwd}/a.py:3: three two\n"
    assert answer["result"] == {"path": str(hand.cwd), "matches": 2, "files": 2, "is_complete": True}


def test_search_counts_lines_as_read_does(hand: Hand) -> None:
    (hand.cwd / "log").write_bytes(b"progress 1\rprogress 2\rprogress 3\nfound\n\x0cpage\nfound again")
    _, data = hand("search", path="log", pattern="found")
    assert [line.split(b":")[1] for line in data.splitlines()] == [b"2", b"4"]
    assert hand("read", path="log", first_line=2, line_count=1)[1] == b"found\n"


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("**/*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/**/*.py", ["src/b.py", "src/deep/c.py"]),
        ("src/*", ["src/b.py", "src/deep/c.py"]),
        ("b.py", ["src/b.py"]),
        ("*.md", []),
    ],
)
def test_search_takes_globs(hand: Hand, glob: str, found: list[str]) -> None:
    for name in ("a.py", "src/b.py", "src/deep/c.py", "d.txt"):
        (hand.cwd / name).parent.mkdir(parents=True, exist_ok=True)
        (hand.cwd / name).write_text("needle")
    _, data = hand("search", path=".", pattern="needle", glob=glob)
    assert [line.split(":")[0].removeprefix(f"{hand.cwd}/") for line in data.decode().splitlines()] == found


def test_search_has_limits(hand: Hand) -> None:
    (hand.cwd / "x").write_text("needle\n" * 200)
    assert hand.result("search", path=".", pattern="needle") == {
        "path": str(hand.cwd),
        "matches": 200,
        "files": 1,
        "is_complete": True,
    }
    (hand.cwd / "y").write_text("needle\n")
    assert not hand.result("search", path=".", pattern="needle")["is_complete"]


def test_search_cuts_long_lines_between_characters(hand: Hand) -> None:
    (hand.cwd / "x").write_text("n" + "ä" * 5000)
    _, data = hand("search", path=".", pattern="^n")
    assert len(data) < 1000
    assert data.decode().endswith("ä\n")


def test_search_does_not_wait_for_pipes(hand: Hand) -> None:
    os.mkfifo(hand.cwd / "fifo")
    assert hand.result("search", path=".", pattern="x")["matches"] == 0
    assert hand.result("search", path="fifo", pattern="x")["matches"] == 0


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?P<a>", "*", "a{5,2}"])
def test_search_refuses_a_broken_pattern(hand: Hand, pattern: str) -> None:
    assert hand.code("search", path=".", pattern=pattern) == "bad_request"


def test_search_in_nothing_is_an_error(hand: Hand) -> None:
    assert hand.code("search", path="missing", pattern="x") == "enoent"


# delete


def test_delete_takes_files_folders_and_links_but_not_their_targets(hand: Hand) -> None:
    (hand.cwd / "folder/deep").mkdir(parents=True)
    (hand.cwd / "file").write_text("kept")
    (hand.cwd / "folder/link").symlink_to(hand.cwd / "file")
    (hand.cwd / "link").symlink_to("folder")
    os.mkfifo(hand.cwd / "fifo")
    assert hand.result("delete", path="link")["type"] == "file"
    assert (hand.cwd / "folder").exists()
    assert hand.result("delete", path="folder")["type"] == "directory"
    hand.result("delete", path="fifo")
    assert sorted(os.listdir(hand.cwd)) == ["file"]
    assert (hand.cwd / "file").read_text() == "kept"


@pytest.mark.parametrize("path", [".", "", "..", "../..", "folder/.."])
def test_delete_leaves_the_working_directory_and_what_it_is_in(hand: Hand, path: str) -> None:
    (hand.cwd / "kept").write_text("x")
    assert hand.code("delete", path=path) == "refused"
    assert (hand.cwd / "kept").exists()


def test_delete_of_nothing_is_an_error(hand: Hand) -> None:
    assert hand.code("delete", path="missing") == "enoent"


# archives


def tar(*members: tuple[str, bytes | None] | tarfile.TarInfo) -> bytes:
    """Files with content, folders without, and whatever else is given as it is."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_extract_puts_files_in_place(hand: Hand) -> None:
    content = os.urandom(3_000_000)
    archive = tar(("a/b.bin", content), ("./c", b""), ("d", None), ("/e", b"absolute is below the target"))
    assert hand.result("extract", archive, target=str(hand.cwd / "in"))["files"] == 3
    assert (hand.cwd / "in/a/b.bin").read_bytes() == content
    assert (hand.cwd / "in/c").read_bytes() == b""
    assert (hand.cwd / "in/d").is_dir()
    assert (hand.cwd / "in/e").exists()


def test_extract_may_be_repeated(hand: Hand) -> None:
    archive = tar(("a", None), ("a/b", b"new"))
    hand.result("extract", archive, target=str(hand.cwd))
    (hand.cwd / "a/b").write_text("changed")
    hand.result("extract", archive, target=str(hand.cwd))
    assert (hand.cwd / "a/b").read_text() == "new"


@pytest.mark.parametrize(
    "bad",
    [
        [("../out", b"x")],
        [special("link", tarfile.SYMTYPE, "/etc/passwd")],
        [("old/below-a-file", b"x")],
        [("kept", b"x")],
        [("new", b"a file, and already a folder")],
        [("new/file", b"x"), ("new/file/below", b"a file, and now a folder")],
        [],
    ],
    ids=["up", "symlink", "below a file", "a folder in the way", "over its own folder", "below its own file", "cut"],
)
def test_extract_does_all_or_nothing(hand: Hand, bad: list[Any]) -> None:
    (hand.cwd / "old").write_text("old")
    (hand.cwd / "kept").mkdir()
    good = [("new/deep/file", b"x"), ("old", b"changed"), ("kept/new", b"x"), ("empty/folder", None)]
    archive = tar(*good, *bad) if bad else tar(*good, ("cut", b"x" * 50_000))[:20_000]
    assert "error" in hand("extract", archive, target=str(hand.cwd))[0]
    assert sorted(os.listdir(hand.cwd)) == ["kept", "old"]
    assert os.listdir(hand.cwd / "kept") == []
    assert (hand.cwd / "old").read_text() == "old"


def test_extract_takes_the_last_of_members_with_the_same_name(hand: Hand) -> None:
    hand.result("extract", tar(("a", b"first"), ("a", b"last")), target=str(hand.cwd))
    assert (hand.cwd / "a").read_bytes() == b"last"
    assert os.listdir(hand.cwd) == ["a"]


def test_extract_writes_through_a_link_of_the_agent(hand: Hand) -> None:
    (hand.cwd / "real").mkdir()
    (hand.cwd / "link").symlink_to("real")
    hand.result("extract", tar(("link/file", b"x")), target=str(hand.cwd))
    assert (hand.cwd / "real/file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_extract_and_archive_keep_odd_names(hand: Hand, name: bytes) -> None:
    hand.result("extract", tar((odd(name), b"content")), target=str(hand.cwd))
    assert os.listdir(os.fsencode(hand.cwd)) == [name]
    _, data = hand("archive", paths=[odd(name)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [os.fsencode(os.path.basename(each)) for each in archive.getnames()] == [name]


@pytest.mark.parametrize(
    "member",
    [
        ("../out", b"x"),
        ("a/../../out", b"x"),
        ("..", None),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.LNKTYPE, "../secret"),
        special("device", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("fifo", tarfile.FIFOTYPE),
    ],
    ids=["up", "down-and-up", "parent", "symlink", "hardlink", "character-device", "block-device", "fifo"],
)
def test_extract_refuses_what_is_not_a_file_below_the_target(hand: Hand, member: Any) -> None:
    inside = hand.cwd / "in"
    inside.mkdir()
    assert hand.code("extract", tar(("fine", b"x"), member), target=str(inside)) == "bad_archive"
    assert os.listdir(hand.cwd) == ["in"]
    assert set(os.listdir(inside)) <= {"fine"}


def test_extract_refuses_a_neighbour_whose_name_begins_alike(hand: Hand) -> None:
    (hand.cwd / "in").mkdir()
    assert hand.code("extract", tar(("../in-secret/x", b"x")), target=str(hand.cwd / "in")) == "bad_archive"
    assert not (hand.cwd / "in-secret").exists()


def test_extract_refuses_files_with_holes(hand: Hand) -> None:
    """A few bytes that become a terabyte."""
    info = tarfile.TarInfo("hole")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    target = io.BytesIO()
    info.size = 1
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x"))
    assert hand.code("extract", target.getvalue(), target=str(hand.cwd)) == "bad_archive"
    assert os.listdir(hand.cwd) == []


def test_extract_drops_setuid(hand: Hand) -> None:
    info = tarfile.TarInfo("tool")
    info.mode = 0o6755
    hand.result("extract", tar(info), target=str(hand.cwd))
    assert stat.S_IMODE((hand.cwd / "tool").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "archive", [b"not a tar" * 100, b"", tar(("a", b"x" * 5000))[:2000]], ids=["garbage", "empty", "cut"]
)
def test_extract_refuses_what_is_no_whole_archive(hand: Hand, archive: bytes) -> None:
    assert hand.code("extract", archive, target=str(hand.cwd)) == "bad_request"
    assert leftovers(hand.cwd) == []


def test_extract_says_what_is_in_the_way(hand: Hand) -> None:
    (hand.cwd / "file").write_text("x")
    (hand.cwd / "folder").mkdir()
    assert hand.code("extract", tar(("file/below", b"x")), target=str(hand.cwd)) in ("enotdir", "eexist")
    assert hand.code("extract", tar(("folder", b"x")), target=str(hand.cwd)) == "is_a_directory"


def test_a_refusals_message_is_short(hand: Hand) -> None:
    """It goes into one frame, and hostile archives have long names."""
    answer, _ = hand("extract", tar(("../" + "x" * 500_000, b"x")), target=str(hand.cwd))
    assert len(json.dumps(answer)) < 16_000


def test_archive_holds_files_folders_and_links_and_nothing_else(hand: Hand) -> None:
    (hand.cwd / "a/deep").mkdir(parents=True)
    (hand.cwd / "a/deep/file").write_text("content")
    (hand.cwd / "a/link").symlink_to("/etc/passwd")
    os.mkfifo(hand.cwd / "a/fifo")
    answer, data = hand("archive", paths=["a"])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = [name.removeprefix(f"{hand.cwd}/".lstrip("/")) for name in archive.getnames()]
        assert sorted(names) == ["a", "a/deep", "a/deep/file", "a/link"]
        assert archive.getmember(f"{hand.cwd}/a/link".lstrip("/")).issym()
    assert answer["result"] == {"members": 4}


def test_archive_of_nothing_is_an_error(hand: Hand) -> None:
    assert hand.code("archive", paths=["missing"]) == "enoent"


# permissions: only somebody without root can be refused


@pytest.fixture
def unprivileged(short_path: Path) -> Iterator[Any]:
    """Performs an operation as a user who owns nothing of it, if we are root; else as ourselves."""
    cwd = short_path / "workspace"
    cwd.mkdir(mode=0o755)
    package = short_path / "guest"
    shutil.copytree(Path(file_tools.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        f"import json, os, sys; sys.dont_write_bytecode = True; sys.path[:0] = [{str(short_path)!r}]\n"
        "from guest import file_tools\n"
        "operation, arguments = json.loads(sys.argv[1])\n"
        "print(json.dumps(file_tools.perform(operation, arguments, 0, os.open('/dev/null', os.O_WRONLY))))"
    )

    def perform(operation: str, content: bytes = b"", **arguments: Any) -> dict[str, Any]:
        given = json.dumps([operation, {"cwd": str(cwd), **arguments}])
        nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        command = ["/usr/bin/env", "python3", "-c", program, given]
        if nobody and not os.access(shutil.which("python3") or "", os.X_OK):
            pytest.skip("no python3 that everybody may run")
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(command, input=content, capture_output=True, check=False, env=env, **nobody)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    perform.cwd = cwd  # type: ignore[attr-defined]
    yield perform
    for folder, folders, _ in os.walk(short_path):
        for name in folders:
            os.chmod(os.path.join(folder, name), 0o755)


def test_what_the_user_may_not_do_is_refused(unprivileged: Any) -> None:
    cwd = unprivileged.cwd
    (cwd / "secret").write_text("x")
    (cwd / "secret").chmod(0)
    (cwd / "closed").mkdir()
    (cwd / "closed/file").write_text("needle")
    (cwd / "closed").chmod(0)
    (cwd / "open.txt").write_text("needle")
    cwd.chmod(0o555)
    assert unprivileged("read", path="secret")["error"]["code"] == "eacces"
    assert unprivileged("write", b"x", path="new")["error"]["code"] == "eacces"
    assert unprivileged("write", b"x", path="open.txt")["error"]["code"] == "eacces"
    assert unprivileged("delete", path="open.txt")["error"]["code"] == "eacces"
    assert unprivileged("list", path="closed")["error"]["code"] == "eacces"
    assert unprivileged("archive", paths=["secret"])["error"]["code"] == "eacces"
    assert unprivileged("list", path=".", recursive=True)["result"]["count"] == 3
    assert unprivileged("search", path=".", pattern="needle")["result"]["matches"] == 1
    cwd.chmod(0o755)
