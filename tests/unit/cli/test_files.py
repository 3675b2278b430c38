"""`corral files` and `corral env` against a fake server: what is asked, and what of the answers reaches a terminal."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import httpx2

from tests.fakes.wire_server import ENVIRONMENT, FakeServer, answer, refusal
from tests.unit.cli.conftest import Corral

AT = f"/v1beta/environments/{ENVIRONMENT}/files"
OLD = "2020-01-01T00:00:00.000000Z"
LATER = "2999-01-01T00:00:00.000000Z"


def entry(path: str, size: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "type": "FILE",
        "size_bytes": str(size),
        "created": OLD,
        "modified": OLD,
        **fields,
    }


def file(content: bytes) -> httpx2.Response:
    return httpx2.Response(200, headers={"accept-ranges": "bytes"}, content=content)


def folder(*members: tarfile.TarInfo) -> httpx2.Response:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return httpx2.Response(200, headers={"content-type": "application/x-tar"}, content=target.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.size = 4 if kind == tarfile.REGTYPE else 0
    for name_, value in fields.items():
        setattr(made, name_, value)
    return made


def test_a_listing_goes_through_all_pages_and_hides_what_terminals_obey(corral: Corral) -> None:
    pages = [
        answer({"files": [entry("workspace/a\x1b[2Jb\nc\u202e")], "next_page_token": "t"}),
        answer({"files": [entry("workspace/d", type="DIRECTORY", size_bytes="-")]}),
    ]
    server = FakeServer(*pages)
    outcome = corral("files", "ls", ENVIRONMENT, "/workspace", "-r", server=server)
    assert [request.url.params["page_token"] for request in server.requests] == ["", "t"]
    assert server.requests[0].url.path == f"{AT}/workspace"
    assert server.requests[0].url.params["recursive"] == "true"
    assert outcome.out.splitlines() == [
        "file           3 B  2020-01-01 00:00 workspace/ab c",
        "directory        -  2020-01-01 00:00 workspace/d",
    ]


def test_a_file_is_fetched_whole_or_not_at_all(corral: Corral) -> None:
    assert corral("files", "get", ENVIRONMENT, "workspace/a.txt", server=FakeServer(file(b"one"))).out == "a.txt\n"
    assert Path("a.txt").read_bytes() == b"one"
    again = corral("files", "get", ENVIRONMENT, "workspace/a.txt", server=FakeServer())
    assert (again.code, "--force" in again.err) == (2, True)
    corral("files", "get", ENVIRONMENT, "workspace/a.txt", "-f", server=FakeServer(file(b"two")))
    assert Path("a.txt").read_bytes() == b"two"
    missing = corral(
        "files", "get", ENVIRONMENT, "workspace/b", server=FakeServer(refusal(404, "not_found", "No file."))
    )
    assert (missing.code, sorted(map(str, Path().iterdir()))) == (2, ["a.txt"])


def test_a_folder_is_unpacked_below_where_it_belongs(corral: Corral, tmp_path: Path) -> None:
    hostile = [member("../out"), member("in/../../out2"), member("/etc/out3")]
    for each in hostile:
        outcome = corral("files", "get", ENVIRONMENT, "workspace/d", "-f", server=FakeServer(folder(each)))
        assert outcome.code == (0 if each.name.startswith("/") else 2)
    links = [member("up", tarfile.SYMTYPE, linkname=".."), member("dev", tarfile.CHRTYPE), member("a/b")]
    outcome = corral("files", "get", ENVIRONMENT, "workspace/d", "-f", server=FakeServer(folder(*links)))
    assert "up is left out" in outcome.err
    found = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file())
    assert found == ["d/a/b", "d/etc/out3"]


def test_a_file_is_sent_to_the_workspace(corral: Corral) -> None:
    Path("a b.txt").write_text("abc")
    server = FakeServer(answer({"files": [entry("workspace/a b.txt")]}))
    assert corral("files", "put", ENVIRONMENT, "a b.txt", server=server).out == "workspace/a b.txt\n"
    (request,) = server.requests
    assert (request.method, request.url.raw_path.split(b"?")[0]) == ("PUT", f"/upload{AT}/workspace/a%20b.txt".encode())
    assert (request.content, request.headers["content-length"]) == (b"abc", "3")
    assert (request.url.params["overwrite"], request.url.params["extract"]) == ("false", "false")


def test_only_what_changed_is_sent(corral: Corral, tmp_path: Path) -> None:
    for name in ("same", "longer", "newer", "deep/fresh"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text("abc")
    (tmp_path / "d/link").symlink_to("same")
    there = [
        entry("workspace/same", modified=LATER),
        entry("workspace/longer", 2, modified=LATER),
        entry("workspace/newer"),
    ]
    sent = answer({"files": []})
    server = FakeServer(answer({"files": there}), sent, sent, sent)
    outcome = corral("files", "sync", ENVIRONMENT, "d", server=server)
    assert outcome.out.splitlines() == ["d/deep/fresh", "d/longer", "d/newer"]
    assert [request.url.path.removeprefix(f"/upload{AT}/") for request in server.requests[1:]] == [
        "workspace/deep/fresh",
        "workspace/longer",
        "workspace/newer",
    ]
    server = FakeServer(refusal(404, "not_found", "No file."))
    assert len(corral("files", "sync", ENVIRONMENT, "d", "new", "--dry-run", server=server).out.splitlines()) == 4


def listing(*entries: dict[str, Any]) -> httpx2.Response:
    return answer({"files": list(entries)})


def local_files(folder: Path) -> dict[str, bytes]:
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file() and not each.is_symlink()
    }


def test_only_what_changed_is_fetched(corral: Corral, tmp_path: Path) -> None:
    there = [entry("out/deep", type="DIRECTORY"), entry("out/a"), entry("out/deep/b"), entry("out/empty", 0)]
    server = FakeServer(listing(*there), file(b"one"), file(b"two"), file(b""))
    outcome = corral("files", "sync", f"{ENVIRONMENT}:out", "d", server=server)
    assert outcome.out.splitlines() == ["d/a", "d/deep/b", "d/empty"]
    assert [request.url.path.removeprefix(f"{AT}/") for request in server.requests[1:]] == [
        "out/a",
        "out/deep/b",
        "out/empty",
    ]
    assert local_files(tmp_path / "d") == {"a": b"one", "deep/b": b"two", "empty": b""}
    assert corral("files", "sync", f"{ENVIRONMENT}:out", "d", server=FakeServer(listing(*there))).out == ""
    (tmp_path / "d/deep/b").write_text("changed here")
    there[1] = entry("out/a", modified=LATER)
    server = FakeServer(listing(*there), file(b"ONE"), file(b"two"))
    assert corral("files", "sync", f"{ENVIRONMENT}:out", "d", server=server).out == "d/a\nd/deep/b\n"
    assert local_files(tmp_path / "d") == {"a": b"ONE", "deep/b": b"two", "empty": b""}


def test_what_is_not_there_any_more_is_deleted_only_when_that_is_said(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("x")
    for name in ("old", "gone/deep/older"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text("x")
    (tmp_path / "d/way-out").symlink_to("../outside")
    there = [entry("out/a"), entry("out/kept", type="DIRECTORY")]
    (tmp_path / "d/kept").mkdir()
    at, said = f"{ENVIRONMENT}:out", ["d/a", "d/old (deleted)", "d/way-out (deleted)", "d/gone/deep/older (deleted)"]
    outcome = corral("files", "sync", at, "d", "--delete", "--dry-run", server=FakeServer(listing(*there)))
    assert outcome.out.splitlines() == said
    assert local_files(tmp_path / "d") == {"old": b"x", "gone/deep/older": b"x"}
    assert corral("files", "sync", at, "d", server=FakeServer(listing(*there), file(b"one"))).out == "d/a\n"
    assert set(local_files(tmp_path / "d")) == {"a", "old", "gone/deep/older"}
    assert corral("files", "sync", at, "d", "--delete", server=FakeServer(listing(*there))).out.splitlines() == said[1:]
    assert sorted(each.name for each in (tmp_path / "d").iterdir()) == ["a", "kept"]
    assert (tmp_path / "outside/precious").exists()


def test_a_folder_that_is_not_there_deletes_nothing(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/old").write_text("x")
    missing = FakeServer(refusal(404, "not_found", "No file."))
    assert corral("files", "sync", f"{ENVIRONMENT}:out", "d", "--delete", server=missing).code == 2
    assert (tmp_path / "d/old").exists()


def test_nothing_is_written_outside_the_folder(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to("../outside")
    (tmp_path / "d/link").symlink_to("../outside/target")
    (tmp_path / "outside/target").write_text("old")
    hostile = ["out/../x", "out/a/../../x", "/etc/x", "other/x", "out//x", "out/./x", "out/up/x", "out/nul\0"]
    there = [entry(each) for each in hostile] + [entry("out/x", encoded_path="out/..%2Fy")]
    there += [
        entry("out/l", type="SYMLINK"),
        entry("out/link"),
        entry("out/odd\x1b[2J"),
        entry("out/b", encoded_path="out/%FF"),
    ]
    server = FakeServer(listing(*there), file(b"new"), file(b"odd"), file(b"raw"))
    outcome = corral("files", "sync", f"{ENVIRONMENT}:out", "d", server=server)
    assert outcome.code == 0
    assert len(outcome.err.splitlines()) == len(hostile) + 2
    assert "\x1b" not in outcome.out + outcome.err
    assert local_files(tmp_path / "outside") == {"target": b"old"}
    assert {os.fsencode(name) for name in local_files(tmp_path / "d")} == {b"link", b"odd\x1b[2J", b"\xff"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["d", "outside"]


def test_what_a_folder_cannot_be_fetched_into_is_said(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "d/is-folder").mkdir(parents=True)
    (tmp_path / "d/is-file").write_text("x")
    too_long = entry("out/" + "/".join(["x" * 200] * 30))
    there = [too_long, entry("out/is-folder"), entry("out/is-file/x"), entry("out/gone"), entry("out/last")]
    server = FakeServer(listing(*there), refusal(404, "not_found", "No file."), file(b"one"))
    outcome = corral("files", "sync", f"{ENVIRONMENT}:out", "d", server=server)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (0, "d/last\n", 4)
    single = corral("files", "sync", f"{ENVIRONMENT}:out/a", "d", server=FakeServer(listing(entry("out/a"))))
    assert (single.code, "is no folder" in single.err) == (2, True)
    for wrong in (
        [f"{ENVIRONMENT}:out", "d", "more"],
        [ENVIRONMENT, "d", "--delete"],
        [f"{ENVIRONMENT}:out", "d/is-file"],
    ):
        assert corral("files", "sync", *wrong, server=FakeServer()).code == 2


def test_environments_are_listed_shown_forked_and_deleted(corral: Corral) -> None:
    found = {"id": ENVIRONMENT, "status": "active", "last_accessed": OLD, "file_count": "2", "size_bytes": "34000"}
    listed = corral("env", "list", server=FakeServer(answer({"environments": [found]})))
    assert listed.out.split()[:2] == [ENVIRONMENT, "active"]
    assert listed.out.split()[-3:] == ["2", "34", "kB"]
    assert "size          34 kB" in corral("env", "get", ENVIRONMENT, server=FakeServer(answer(found))).out
    server = FakeServer(answer({**found, "id": "other"}))
    assert corral("env", "fork", ENVIRONMENT, server=server).out == "other\n"
    assert json.loads(server.requests[0].content) == {"from_environment": ENVIRONMENT}
    assert corral("env", "delete", "a", server=FakeServer(answer({}))).out == "a\n"
