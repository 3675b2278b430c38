"""`corral files` and `corral env` against a fake server: what is asked, and what of the answers reaches a terminal."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx2

from tests.fakes.wire_server import ENVIRONMENT, FakeServer, answer, refusal
from tests.unit.cli.conftest import Corral

AT = f"/v1beta/environments/{ENVIRONMENT}/files"
OLD = "2020-01-01T00:00:00.000000Z"
LATER = "2999-01-01T00:00:00.000000Z"
SOON = "2100-01-01T00:00:00.000000Z"


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


def test_only_what_changed_there_is_fetched(corral: Corral, tmp_path: Path) -> None:
    here = tmp_path / "d"
    here.mkdir()
    for name, content in (("same", "abc"), ("longer", "ab"), ("newer", "abc"), ("own", "abc")):
        (here / name).write_text(content)
    there = [entry("workspace/same"), entry("workspace/longer"), entry("workspace/newer", modified=SOON)]
    there += [entry("workspace/deep", type="DIRECTORY"), entry("workspace/deep/fresh")]
    listed = answer({"files": there})
    planned = corral("files", "sync", ENVIRONMENT, "d", "--down", "--dry-run", server=FakeServer(listed))
    server = FakeServer(listed, file(b"new"), file(b"new"), file(b"new"))
    outcome = corral("files", "sync", ENVIRONMENT, "d", "--down", server=server)
    assert outcome.out.splitlines() == planned.out.splitlines() == ["d/longer", "d/newer", "d/deep/fresh"]
    assert [request.url.path.removeprefix(f"{AT}/workspace/") for request in server.requests[1:]] == [
        "longer",
        "newer",
        "deep/fresh",
    ]
    found = {str(each.relative_to(here)): each.read_text() for each in here.rglob("*") if each.is_file()}
    assert found == {"same": "abc", "longer": "new", "newer": "new", "own": "abc", "deep/fresh": "new"}
    again = corral("files", "sync", ENVIRONMENT, "d", "--down", server=FakeServer(listed))
    assert again.out == "", "what was fetched has the time that it has there"


def test_nothing_is_fetched_to_outside_the_folder(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d/up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/file").symlink_to(tmp_path / "target")
    names = ["workspace/../out", "/etc/passwd", "workspace/up/in", "workspace/file", "workspace/a//b", "workspace/./c"]
    odd = [*(entry(name) for name in names), entry("workspace/odd\ufffd", encoded_path="workspace/odd%FF")]
    server = FakeServer(answer({"files": odd}))
    outcome = corral("files", "sync", ENVIRONMENT, "d", "--down", server=server)
    assert outcome.err.count("is left out") == len(odd)
    assert len(server.requests) == 1
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if not each.is_dir()] == ["d/file"]


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
