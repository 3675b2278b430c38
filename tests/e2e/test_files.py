"""Files of environments in real containers: the attack cases F1, F2, F9, F10 and F11, and a gigabyte up and down."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.caller import ENVIRONMENTS, Caller
from tests.e2e.conftest import StartServer
from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.timeout(120)

PIECE_BYTES = 1 << 20
GIGABYTE = 1 << 30
FLAT_MIB = 64
"""What a transfer may take of the server's memory, however long it is: buffers of both connections and of Python."""


@pytest.fixture(scope="module")
def place(caller: Caller) -> Iterator[str]:
    """An environment for these tests."""
    environment = caller.new_environment()
    yield environment
    caller.delete_environment(environment)


def get(caller: Caller, environment: str, path: str, **parameters: Any) -> httpx2.Response:
    """`path` as it stands in the URL."""
    return caller.http.get(f"{ENVIRONMENTS}/{environment}/files{path}", params=parameters)


def put(caller: Caller, environment: str, path: str, content: Any = b"x", **parameters: Any) -> httpx2.Response:
    return caller.http.put(f"/upload{ENVIRONMENTS}/{environment}/files{path}", params=parameters, content=content)


def run(caller: Caller, environment: str, code: str) -> str:
    made = caller.create(f"```bash\n{code}\n```", environment)
    return str(next(step["result"] for step in made["steps"] if step["type"] == "code_execution_result"))


REFUSED = [
    "/workspace/%2e%2e/%2e%2e/etc/passwd",
    "/workspace/..%2f..%2fetc/passwd",
    "/%2e%2e/etc/shadow",
    "/workspace/a%00b",
    "/workspace/" + "a" * 300,
    "/workspace/" + "d/" * 2100 + "x",
]
OTHERS = [
    "/%252e%252e/etc/passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/workspace/%c0%ae%c0%ae/x",
    "/C:%5cx",
    "/proc/1/environ",
]


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path[:40])
def test_f1_paths_that_leave_are_refused(caller: Caller, place: str, path: str) -> None:
    assert get(caller, place, path, alt="media").status_code in (400, 404)
    assert put(caller, place, path, extract="false").status_code == 400


@pytest.mark.parametrize("path", OTHERS, ids=ascii)
def test_f1_paths_name_what_they_say_inside_and_nothing_else(caller: Caller, place: str, path: str) -> None:
    assert get(caller, place, path, alt="media").status_code == 404
    assert get(caller, place, path).status_code == 404
    assert "root:" not in get(caller, place, path, alt="media").text


def test_f2_links_lead_to_places_inside_only(caller: Caller, place: str, tmp_path: Path) -> None:
    run(
        caller,
        place,
        f"ln -sfn / root; ln -sfn /etc/hostname name; ln -sfn loop loop; ln -sfn {tmp_path} host",
    )
    (tmp_path / "secret").write_text("of the host")
    inside = run(caller, place, "cat /etc/hostname").strip()
    assert get(caller, place, "/workspace/name", alt="media").text.strip() == inside
    assert get(caller, place, "/workspace/root/etc/hostname", alt="media").text.strip() == inside
    assert get(caller, place, "/workspace/host/secret", alt="media").status_code == 404
    assert get(caller, place, "/workspace/loop", alt="media").status_code == 400
    assert get(caller, place, "/workspace/root/etc/shadow", alt="media").status_code == 403
    assert put(caller, place, "/workspace/root/etc/passwd", overwrite="true").status_code == 403
    assert put(caller, place, "/workspace/root/usr/bin/x").status_code == 403
    # A walk does not follow them: it would not end.
    listed = get(caller, place, "/workspace", recursive="true").json()["files"]
    assert not [each["path"] for each in listed if each["path"].startswith("workspace/root/")]
    run(caller, place, "rm -f root name loop host")


def test_f2_a_link_that_is_swapped_all_the_time_never_shows_more_than_the_agent_may(caller: Caller, place: str) -> None:
    swapping = (
        "mkdir -p real && echo mine > real/shadow; (for i in $(seq 4000); do ln -sfn real at; ln -sfn /etc at; done) &"
    )
    run(caller, place, swapping)
    seen = set()
    for _ in range(60):
        answer = get(caller, place, "/workspace/at/shadow", alt="media")
        seen.add((answer.status_code, answer.text if answer.status_code == 200 else ""))
        written = put(caller, place, "/workspace/at/passwd", content=b"x", overwrite="true")
        assert written.status_code in (200, 403, 404, 409), written.text
    assert seen <= {(200, "mine\n"), (403, ""), (404, "")}
    assert "root:" in run(caller, place, "wait; cat /etc/passwd")


def test_f9_names_of_all_kinds_come_back_as_they_are(caller: Caller, place: str) -> None:
    names = [
        "gpj.\u202eexe".encode(),
        "zero\u200bwidth".encode(),
        "аgent.yaml".encode(),
        b"dot.",
        b"space ",
        "漢".encode() * 85,
        b"new\nline",
        b"-rf",
        b"\xff\xfe not text",
        b"$(touch pwned)`touch pwned`;touch pwned",
    ]
    for name in names:
        encoded = "".join(f"%{byte:02x}" for byte in name)
        written = put(caller, place, f"/workspace/names/{encoded}", content=name)
        assert written.status_code == 200, (name, written.text)
    listing = get(caller, place, "/workspace/names")
    assert len(listing.json()["files"]) == len(names)
    for entry in listing.json()["files"]:
        path = entry.get("encoded_path") or "".join(f"%{byte:02x}" for byte in entry["path"].encode())
        found = get(caller, place, f"/{path}", alt="media")
        assert found.content in names
        assert "\n" not in found.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(get(caller, place, "/workspace/names", alt="media").content)) as archive:
        assert {each.name.encode("utf-8", "surrogateescape") for each in archive} == set(names)
    assert "pwned" not in run(caller, place, "ls")
    run(caller, place, "rm -rf names")


def test_f10_special_files_are_listed_and_not_read(caller: Caller, place: str) -> None:
    run(
        caller,
        place,
        "mkdir -p odd && cd odd && mkfifo pipe && ln -s /dev/zero zero && ln -s /dev/urandom random && "
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"",
    )
    kinds = {each["name"]: each["type"] for each in get(caller, place, "/workspace/odd").json()["files"]}
    assert kinds == {"pipe": "OTHER", "sock": "OTHER", "zero": "SYMLINK", "random": "SYMLINK"}
    for name in kinds:
        assert get(caller, place, f"/workspace/odd/{name}", alt="media").status_code == 400, name
    with tarfile.open(fileobj=io.BytesIO(get(caller, place, "/workspace/odd", alt="media").content)) as archive:
        assert all(each.issym() for each in archive)


def test_f10_a_file_that_grows_is_read_as_it_was(caller: Caller, place: str) -> None:
    run(
        caller,
        place,
        "head -c 50000000 /dev/zero > grows; "
        "(for i in $(seq 300); do head -c 5000000 /dev/zero >> grows; sleep 0.01; done; rm grows) &",
    )
    for _ in range(3):
        answer = get(caller, place, "/workspace/grows", alt="media")
        assert len(answer.content) == int(answer.headers["content-length"])


def test_f10_a_large_folder_comes_in_pages(caller: Caller, place: str) -> None:
    run(caller, place, "mkdir many && cd many && seq 200000 | xargs touch")
    began = time.monotonic()
    page = get(caller, place, "/workspace/many").json()
    assert len(page["files"]) == 1000
    second = get(caller, place, "/workspace/many", page_token=page["next_page_token"], page_size=10_000).json()
    assert len(second["files"]) == 1000
    assert second["files"][0]["name"] > page["files"][-1]["name"]
    assert time.monotonic() - began < 10
    run(caller, place, "rm -rf many")


def test_f10_ranges_are_bounded(caller: Caller, place: str) -> None:
    put(caller, place, "/workspace/ten", content=b"0123456789", overwrite="true")
    at = f"{ENVIRONMENTS}/{place}/files/workspace/ten"
    many = "bytes=" + ",".join("0-" for _ in range(1000))
    for wanted, status in (("bytes=2-3", 206), ("bytes=10-", 416), ("bytes=0-999999999999999999", 206), (many, 200)):
        answer = caller.http.get(at, params={"alt": "media"}, headers={"range": wanted})
        assert answer.status_code == status
        assert len(answer.content) <= 100


def test_f11_a_storm_of_uploads_under_a_watch_is_told_in_a_bounded_way(caller: Caller, place: str) -> None:
    put(caller, place, "/workspace/storm/first")
    at = f"/ops/environments/{place}/watch"
    with caller.http.stream("GET", at, params={"path": "storm"}) as watching:
        lines = watching.iter_lines()
        for number in range(20):
            assert put(caller, place, "/workspace/storm/a", content=b"%d" % number, overwrite="true").status_code == 200
        assert put(caller, place, "/workspace/storm/last").status_code == 200
        told = []
        while "storm/last" not in (line := next(lines)):
            told.append(line)
    assert any("storm/a" in each for each in told)
    assert len([each for each in told if each.startswith("data:")]) <= 100


def test_a_stopped_environment_is_started_for_its_files(start_server: StartServer) -> None:
    server = start_server(
        LIFECYCLE__STOP_AFTER_S="0.5", LIFECYCLE__PAUSE_AFTER_S="0", LIFECYCLE__SWEEP_INTERVAL_S="0.2"
    )
    with server.caller() as caller:
        environment = caller.new_environment("```bash\necho kept > a.txt\n```")
        deadline = time.monotonic() + 20
        while caller.ps()["environments"][0]["status"] != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = caller.http.get(f"{ENVIRONMENTS}/{environment}").json()
        assert (found["file_count"], found["size_bytes"]) == ("1", "5")
        assert caller.ps()["environments"][0]["status"] == "stopped"
        assert get(caller, environment, "/workspace/a.txt", alt="media").text == "kept\n"


def test_a_gigabyte_up_and_down_takes_no_memory(start_server: StartServer) -> None:
    server = start_server()
    with server.caller() as caller:
        environment = caller.new_environment()
        block = os.urandom(PIECE_BYTES)
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for _ in range(GIGABYTE // PIECE_BYTES):
                digest.update(block)
                yield block

        before = _memory_mib(server, "VmRSS")
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")
        assert put(caller, environment, "/workspace/large", content=pieces()).status_code == 200
        back = hashlib.sha256()
        at = f"{ENVIRONMENTS}/{environment}/files/workspace/large"
        with caller.http.stream("GET", at, params={"alt": "media"}) as answer:
            for piece in answer.iter_raw():
                back.update(piece)
        assert back.digest() == digest.digest()
        assert _memory_mib(server, "VmHWM") - before < FLAT_MIB


def test_an_upload_that_does_not_fit_leaves_nothing(start_server: StartServer) -> None:
    server = start_server(RESOURCES__DISK_BYTES=str(64 << 20))
    with server.caller() as caller:
        environment = caller.new_environment()
        for _ in range(2):
            refused = put(caller, environment, "/workspace/large", content=bytes(100 << 20))
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "disk_full")
        assert put(caller, environment, "/workspace/small", content=bytes(10 << 20)).status_code == 200
        assert run(caller, environment, "ls -A") == "small\n"


def test_the_command_line_moves_files(server: ServerProcess, place: str, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/a.bin").write_bytes(content)
    (tmp_path / "data/b.txt").write_text("b")

    def corral(*arguments: str) -> str:
        ran = server.cli(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    sent = corral("files", "sync", place, str(tmp_path / "data"), "workspace/data")
    assert len(sent.splitlines()) == 2
    assert corral("files", "sync", place, str(tmp_path / "data"), "workspace/data") == ""
    assert "workspace/data/deep/a.bin" in corral("files", "ls", place, "workspace/data", "-r")
    assert corral("files", "cat", place, "workspace/data/b.txt") == "b"
    corral("files", "get", place, "workspace/data", str(tmp_path / "back"))
    assert (tmp_path / "back/deep/a.bin").read_bytes() == content
    local = tmp_path / "mirror"
    assert len(corral("files", "sync", f"{place}:workspace/data", str(local)).splitlines()) == 2
    assert (local / "deep/a.bin").read_bytes() == content
    assert corral("files", "sync", f"{place}:workspace/data", str(local)) == ""
    (local / "more").write_text("only here")
    assert "more (deleted)" in corral("files", "sync", f"{place}:workspace/data", str(local), "--delete")
    assert sorted(each.name for each in local.iterdir()) == ["b.txt", "deep"]
    corral("files", "put", place, str(tmp_path / "data/b.txt"), "workspace/c.txt")
    fork = corral("env", "fork", place).strip()
    assert corral("files", "cat", fork, "workspace/c.txt") == "b"
    assert fork in corral("env", "list")
    assert "file count" in corral("env", "get", fork)
    assert corral("env", "delete", fork).strip() == fork
    refused = server.cli("files", "put", place, str(tmp_path / "data/b.txt"), "workspace/c.txt")
    assert (refused.returncode, "409 aborted" in refused.stderr) == (2, True)


def _memory_mib(server: ServerProcess, field: str) -> float:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
