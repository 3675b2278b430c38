"""Files of environments over HTTP, with sandboxes that are plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.local_server import RunningServer
from tests.fakes.rows import key_row

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

PIECE_BYTES = 8 << 20


class Files:
    """The files of one environment."""

    def __init__(self, server: RunningServer, environment_id: str, root: Path) -> None:
        self.server = server
        self.http = server.client
        self.id = environment_id
        self.root = root
        self.workspace = root / "workspace"
        self.at = f"/v1beta/environments/{environment_id}/files"
        self.up = f"/upload{self.at}"

    async def entries(self, path: str = "", **params: Any) -> list[dict[str, Any]]:
        answer = await self.http.get(f"{self.at}{path}", params=params)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["files"]
        return found

    async def paths(self, path: str = "", **params: Any) -> list[str]:
        return [each["path"] for each in await self.entries(path, **params)]

    async def download(self, path: str, **params: Any) -> httpx2.Response:
        return await self.http.get(f"{self.at}{path}", params={"alt": "media", **params})

    async def start(self, path: str, size: int | None, **params: Any) -> str:
        headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
        if size is not None:
            headers["x-goog-upload-header-content-length"] = str(size)
        answer = await self.http.put(f"{self.up}{path}", params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-goog-upload-status"] == "active"
        return answer.headers["x-goog-upload-url"]

    async def send(self, url: str, command: str, offset: int = 0, content: bytes = b"") -> httpx2.Response:
        headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
        return await self.http.post(url, headers=headers, content=content)

    @property
    def names(self) -> list[bytes]:
        """What is in the working directory."""
        return sorted(os.listdir(os.fsencode(self.workspace)))  # noqa: PTH208 - names are bytes

    def left(self) -> list[str]:
        """Uploads that still wait beside their places."""
        return [each.name for each in self.root.rglob(".corral-*")]


@pytest.fixture
async def files(server: RunningServer, sandboxes: Path) -> Files:
    made = await server.create("```bash\ntrue\n```", environment="remote")
    (folder,) = [each.parent for each in sandboxes.glob("*/workspace")]
    return Files(server, made["environment_id"], folder)


def error(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def tar_of(*members: tuple[str, bytes], packed: bool = False, **fields: Any) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz" if packed else "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def members(data: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            member.name: file.read() if (file := archive.extractfile(member)) else None
            for member in archive
            if not member.issym()
        }


# listing


async def test_entries_of_root_folder_and_file(files: Files) -> None:
    (files.workspace / "src").mkdir()
    (files.workspace / "src/main.py").write_text("print(1)\n")
    (files.workspace / "a.csv").write_text("1,2")
    assert "workspace" in await files.paths()
    assert await files.paths("/workspace") == ["workspace/a.csv", "workspace/src"]
    assert await files.paths("//workspace//src/") == ["workspace/src/main.py"]
    (entry,) = await files.entries("/workspace/src/main.py")
    assert entry == {
        "name": "main.py",
        "path": "workspace/src/main.py",
        "type": "FILE",
        "size_bytes": "9",
        "mime_type": "text/x-python; charset=utf-8",
        "created": entry["created"],
        "modified": entry["modified"],
    }
    (folder,) = [each for each in await files.entries("/workspace") if each["name"] == "src"]
    assert folder["type"] == "DIRECTORY"
    assert "size_bytes" not in folder


async def test_pages_go_through_everything_once_in_the_order_of_bytes(files: Files) -> None:
    for name in ("b/x/deep", "b/y", "a", "b0", "c", "b/x-"):
        (files.workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (files.workspace / name).touch()
    whole = await files.paths("/workspace", recursive=True)
    assert whole == [f"workspace/{each}" for each in ("a", "b", "b/x", "b/x/deep", "b/x-", "b/y", "b0", "c")]
    for recursive, expected in ((True, whole), (False, [each for each in whole if each.count("/") == 1])):
        for size in (1, 2, 3, 100):
            seen: list[str] = []
            token = ""
            while True:
                params = {"recursive": recursive, "page_size": size, "page_token": token}
                answer = (await files.http.get(f"{files.at}/workspace", params=params)).json()
                assert len(answer["files"]) <= size
                seen += [each["path"] for each in answer["files"]]
                if not (token := answer.get("next_page_token", "")):
                    break
            assert seen == expected, (recursive, size)


async def test_a_page_goes_on_though_its_last_entry_is_gone(files: Files) -> None:
    for name in ("d/a", "d/b", "e"):
        (files.workspace / name).parent.mkdir(exist_ok=True)
        (files.workspace / name).touch()
    params = {"recursive": "true", "page_size": "2"}
    page = (await files.http.get(f"{files.at}/workspace", params=params)).json()
    for each in ("d/a", "d/b"):
        (files.workspace / each).unlink()
    (files.workspace / "d").rmdir()
    params["page_token"] = page["next_page_token"]
    answer = await files.http.get(f"{files.at}/workspace", params=params)
    assert [each["path"] for each in answer.json()["files"]] == ["workspace/e"]


async def test_what_is_not_there_is_named(files: Files) -> None:
    answer = await files.http.get(f"{files.at}/workspace/no/such.txt")
    assert error(answer) == (404, "not_found")
    assert "workspace/no/such.txt" in answer.json()["error"]["message"]
    assert files.id in answer.json()["error"]["message"]
    assert error(await files.http.get(f"{files.at}/etc/passwd")) == (404, "not_found")
    assert error(await files.http.get("/v1beta/environments/none/files")) == (404, "not_found")


@pytest.mark.parametrize("token", ["!", "a", "Li4", "AA"])
async def test_page_tokens_are_those_that_were_given(files: Files, token: str) -> None:
    assert error(await files.http.get(f"{files.at}/workspace", params={"page_token": token})) == (
        400,
        "invalid_request",
    )


# downloads


async def test_a_file_comes_as_it_is(files: Files) -> None:
    content = os.urandom(3_000_000)
    (files.workspace / "a b.bin").write_bytes(content)
    answer = await files.download("/workspace/a b.bin")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "3000000"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.bin"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("wanted", "status", "content", "told"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=3-", 206, b"3456789", "bytes 3-9/10"),
        ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=8-99999999999", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=5-3", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
    ],
)
async def test_parts_of_a_file(files: Files, wanted: str, status: int, content: bytes | None, told: str | None) -> None:
    (files.workspace / "digits").write_text("0123456789")
    answer = await files.http.get(f"{files.at}/workspace/digits", params={"alt": "media"}, headers={"range": wanted})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == told
    if content is not None:
        assert answer.content == content


async def test_folders_come_as_tars(files: Files) -> None:
    (files.workspace / "d/e").mkdir(parents=True)
    (files.workspace / "d/one").write_text("1")
    (files.workspace / "d/e/two").write_text("2")
    os.link(files.workspace / "d/one", files.workspace / "d/same")
    os.mkfifo(files.workspace / "d/pipe")
    (files.workspace / "d/e/up").symlink_to("../one")
    direct = await files.download("/workspace/d")
    assert direct.headers["content-type"] == "application/x-tar"
    assert members(direct.content) == {"one": b"1", "same": b"1"}
    whole = await files.download("/workspace/d", recursive=True)
    assert members(whole.content) == {"e": None, "e/two": b"2", "one": b"1", "same": b"1"}
    older = await files.http.get(f"/v1beta/files/environment-{files.id}:download", params={"alt": "media"})
    assert members(older.content)["./workspace/d/e/two"] == b"2"


async def test_what_is_no_file_is_listed_and_not_downloaded(files: Files) -> None:
    os.mkfifo(files.workspace / "pipe")
    (files.workspace / "nowhere").symlink_to("missing")
    (files.workspace / "loop").symlink_to("loop")
    kinds = {each["name"]: each["type"] for each in await files.entries("/workspace")}
    assert kinds == {"pipe": "OTHER", "nowhere": "SYMLINK", "loop": "SYMLINK"}
    assert error(await files.download("/workspace/pipe")) == (400, "invalid_request")
    assert error(await files.download("/workspace/nowhere")) == (404, "not_found")
    assert error(await files.download("/workspace/loop")) == (400, "invalid_request")


async def test_a_reader_who_leaves_ends_the_download(files: Files) -> None:
    (files.workspace / "big").write_bytes(bytes(30_000_000))
    async with files.http.stream("GET", f"{files.at}/workspace/big", params={"alt": "media"}) as answer:
        assert await anext(answer.aiter_raw(1000))
    assert await files.paths("/workspace") == ["workspace/big"]


async def test_a_download_that_breaks_inside_breaks_the_connection(files: Files) -> None:
    (files.workspace / "big").write_bytes(bytes(30_000_000))
    async with files.http.stream("GET", f"{files.at}/workspace/big", params={"alt": "media"}) as answer:
        pieces = answer.aiter_raw(1000)
        assert await anext(pieces)
        os.kill(int((files.root / "pid").read_text()), 9)
        with pytest.raises(httpx2.RemoteProtocolError):
            _ = [piece async for piece in pieces]
    assert await files.paths("/workspace") == ["workspace/big"], "its sandbox is started again"


async def test_a_file_that_becomes_shorter_breaks_the_connection_and_a_tar_goes_on(files: Files) -> None:
    (files.workspace / "big").write_bytes(b"x" * 30_000_000)
    for path, is_broken in (("big", True), ("", False)):
        (files.workspace / "big").write_bytes(b"x" * 30_000_000)
        seen = 0
        try:
            at = f"{files.at}/workspace/{path}"
            async with files.http.stream("GET", at, params={"alt": "media"}) as answer:
                async for piece in answer.aiter_raw(100_000):
                    if not seen:
                        os.truncate(files.workspace / "big", 100)
                    seen += len(piece)
            assert not is_broken
        except httpx2.RemoteProtocolError:
            assert is_broken
    assert seen > 30_000_000


# names


NAMES = [
    b"plain",
    b"with space",
    "größe\u202egnp.exe".encode(),
    b"new\nline",
    b"-rf",
    b"not utf8 \xff\xfe",
    b"%2e%2e",
    b"quote\"'<b>",
    b"a\\b",
    b"C:",
    b"\xc0\xae\xc0\xae",
    b"tail ",
    b"dots...",
    b"\xf0\x9f\x98\x80" * 60,
    b"x" * 255,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_names_are_bytes(files: Files, name: bytes) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in name)
    up = await files.http.put(f"{files.server.url}{files.up}/workspace/{encoded}", content=b"x")
    assert up.status_code == 200, up.text
    assert files.names == [name]
    (entry,) = await files.entries("/workspace")
    assert up.json()["files"][0]["path"] == entry["path"]
    path = entry.get("encoded_path") or "".join(f"%{byte:02x}" for byte in entry["path"].encode())
    down = await files.http.get(f"{files.server.url}{files.at}/{path}", params={"alt": "media"})
    assert down.content == b"x"
    assert down.headers["content-disposition"].isascii()
    tar = await files.download("/workspace")
    assert [each.encode("utf-8", "surrogateescape") for each in members(tar.content)] == [name]


@pytest.mark.parametrize(
    "path",
    [
        "workspace/%2e%2e/x",
        "workspace/..%2fx",
        "%2e%2e/etc/passwd",
        "workspace/a%00b",
        "workspace/" + "x/" * 2100 + "x",
    ],
    ids=lambda path: path[:30],
)
async def test_paths_that_name_nothing_are_refused(files: Files, path: str) -> None:
    for method, at in (("GET", files.at), ("PUT", files.up)):
        answer = await files.http.request(method, f"{files.server.url}{at}/{path}")
        assert error(answer) == (400, "invalid_request"), method


@pytest.mark.parametrize("path", ["etc/passwd", "workspace", "x", "home", "proc/1/mem", "%2fetc%2fpasswd"])
async def test_files_go_where_sources_may(files: Files, path: str) -> None:
    assert error(await files.http.put(f"{files.up}/{path}", content=b"x")) == (400, "invalid_request")


# uploads


async def test_one_request(files: Files) -> None:
    answer = await files.http.put(f"{files.up}/workspace/new/deep/a.txt", content=b"hello")
    (entry,) = answer.json()["files"]
    assert entry["path"] == "workspace/new/deep/a.txt"
    assert entry["size_bytes"] == "5"
    assert (files.workspace / "new/deep/a.txt").read_text() == "hello"
    assert error(await files.http.put(f"{files.up}/workspace/new/deep/a.txt", content=b"other")) == (409, "aborted")
    assert error(await files.http.put(f"{files.up}/workspace/new", content=b"x", params={"overwrite": "true"})) == (
        409,
        "aborted",
    )
    assert (files.workspace / "new/deep/a.txt").read_text() == "hello"
    (files.workspace / "new/deep/a.txt").chmod(0o755)
    again = await files.http.put(f"{files.up}/workspace/new/deep/a.txt", content=b"b", params={"overwrite": "true"})
    assert again.status_code == 200
    assert (files.workspace / "new/deep/a.txt").read_text() == "b"
    assert (files.workspace / "new/deep/a.txt").stat().st_mode & 0o7777 == 0o755
    assert error(await files.http.put(f"{files.up}/workspace/new/deep/a.txt/b", content=b"x"))[0] in (404, 409)
    assert files.left() == []


async def test_an_upload_without_its_prefix_is_refused(files: Files) -> None:
    assert error(await files.http.put(f"{files.at}/workspace/a", content=b"x")) == (400, "invalid_request")


async def test_resumable(files: Files) -> None:
    content = os.urandom(2 * PIECE_BYTES + 5)
    url = await files.start("/workspace/big.bin", len(content))
    assert url.startswith(f"{files.server.url}/upload/v1beta/uploads/")
    for offset in (0, PIECE_BYTES):
        answer = await files.send(url, "upload", offset, content[offset : offset + PIECE_BYTES])
        assert (answer.status_code, answer.headers["x-goog-upload-status"]) == (200, "active")
    assert not (files.workspace / "big.bin").exists()
    assert len(files.names) == 1
    assert await files.paths("/workspace") == []
    asked = await files.send(url, "query")
    assert asked.headers["x-goog-upload-size-received"] == str(2 * PIECE_BYTES)
    for _ in range(2):  # the answer was lost: it is asked for again
        last = await files.send(url, "upload, finalize", 2 * PIECE_BYTES, content[2 * PIECE_BYTES :])
        assert (last.status_code, last.headers.get("x-goog-upload-status")) == (200, "final"), last.text
        assert last.json()["files"][0]["size_bytes"] == str(len(content))
    assert (files.workspace / "big.bin").read_bytes() == content
    assert files.left() == []


async def test_a_piece_that_comes_again_is_written_again(files: Files) -> None:
    url = await files.start("/workspace/a", 6)
    await files.send(url, "upload", 0, b"abc")
    await files.send(url, "upload", 0, b"ABC")
    gap = await files.send(url, "upload", 5, b"f")
    assert error(gap) == (400, "invalid_request")
    assert gap.headers["x-goog-upload-size-received"] == "3"
    too_early = await files.send(url, "finalize")
    assert error(too_early) == (400, "invalid_request")
    for command in ("upload", "upload, finalize"):
        assert error(await files.send(url, command, 3, b"defg")) == (400, "invalid_request")
    assert (await files.send(url, "upload, finalize", 3, b"DEF")).status_code == 200
    assert (files.workspace / "a").read_text() == "ABCDEF"


async def test_an_empty_file_is_there_at_the_start(files: Files) -> None:
    url = await files.start("/workspace/empty", 0)
    assert (files.workspace / "empty").read_bytes() == b""
    assert (await files.send(url, "upload, finalize")).headers["x-goog-upload-status"] == "final"


async def test_without_a_size_the_sender_says_when_it_ends(files: Files) -> None:
    url = await files.start("/workspace/a", None)
    await files.send(url, "upload", 0, b"longer")
    await files.send(url, "upload", 0, b"abc")
    assert (await files.send(url, "finalize")).json()["files"][0]["size_bytes"] == "3"
    assert (files.workspace / "a").read_text() == "abc"


async def test_what_came_before_a_cut_counts(files: Files) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise OSError("cut")

    url = await files.start("/workspace/a", 2_000_000)
    headers = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0", "content-length": "2000000"}
    with pytest.raises(OSError, match="cut"):
        await files.http.post(url, headers=headers, content=half())
    received = 0
    async with asyncio.timeout(10):
        while not received:
            received = int((await files.send(url, "query")).headers["x-goog-upload-size-received"])
            await asyncio.sleep(0.01)
    await files.send(url, "upload, finalize", received, b"y" * (2_000_000 - received))
    assert (files.workspace / "a").read_bytes() == b"x" * received + b"y" * (2_000_000 - received)


async def test_an_upload_at_once_that_is_cut_leaves_nothing(files: Files) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        async with asyncio.timeout(10):
            while not files.names:
                await asyncio.sleep(0.01)
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        await files.http.put(f"{files.up}/workspace/a", content=half(), headers={"content-length": "2000000"})
    async with asyncio.timeout(10):
        while files.names:
            await asyncio.sleep(0.01)


async def test_cancelled_and_abandoned_uploads_are_removed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await files.start("/workspace/a", 6)
    other = await files.start("/workspace/b", 6)
    await files.send(url, "upload", 0, b"abc")
    assert len(files.left()) == 2
    assert (await files.send(url, "cancel")).headers["x-goog-upload-status"] == "cancelled"
    gone = await files.send(url, "upload", 3, b"def")
    assert error(gone) == (404, "not_found")
    assert gone.headers["x-goog-upload-status"] == "cancelled"
    monkeypatch.setattr("orchestrator.sandboxes.uploads._ABANDONED_S", -1.0)
    await files.server.services.uploads.drop_abandoned()
    assert error(await files.send(other, "query")) == (404, "not_found")
    assert files.left() == []


async def test_what_an_earlier_server_has_left_goes_with_the_next_upload(files: Files) -> None:
    left = files.workspace / ".corral-0123456789abcdef"
    left.touch()
    os.utime(left, (0, 0))
    await files.http.put(f"{files.up}/workspace/a", content=b"x")
    assert files.names == [b"a"]


async def test_the_older_protocol(files: Files) -> None:
    begun = await files.http.post(f"{files.up}/workspace/a", params={"uploadType": "resumable"})
    url = begun.headers["location"]
    first = await files.http.put(url, content=b"abc", headers={"content-range": "bytes 0-2/6"})
    assert (first.status_code, first.headers["range"]) == (308, "bytes=0-2")
    asked = await files.http.put(url, headers={"content-range": "bytes */6"})
    assert (asked.status_code, asked.headers["range"]) == (308, "bytes=0-2")
    last = await files.http.put(url, content=b"def", headers={"content-range": "bytes 3-5/6"})
    assert last.json()["files"][0]["size_bytes"] == "6"
    assert (files.workspace / "a").read_text() == "abcdef"


async def test_two_senders_of_one_name(files: Files) -> None:
    urls = [await files.start("/workspace/a", 3) for _ in range(2)]
    assert (await files.send(urls[0], "upload, finalize", 0, b"one")).status_code == 200
    late = await files.send(urls[1], "upload, finalize", 0, b"two")
    assert error(late) == (409, "aborted")
    assert late.headers["x-goog-upload-status"] == "cancelled"
    assert (files.workspace / "a").read_text() == "one"


async def test_a_sandbox_has_so_many_transfers_at_once(files: Files) -> None:
    (files.workspace / "big").write_bytes(bytes(20_000_000))
    at = f"{files.at}/workspace/big"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(32):
            begun = files.http.stream("GET", at, params={"alt": "media"})
            assert (await stack.enter_async_context(begun)).status_code == 200
        refused = await files.http.get(at)
        assert error(refused) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
    async with asyncio.timeout(10):
        while (await files.http.get(at)).status_code != 200:
            await asyncio.sleep(0.01)


async def test_the_address_of_an_upload_is_a_key_to_it_and_others_are_none(files: Files) -> None:
    url = await files.start("/workspace/a", 3)
    store = files.server.services.store
    for project, secret in (("default", b"own"), ("other", b"foreign")):
        row = await store.default_project() if project == "default" else await store.ensure_project(project)
        await store.create_key(key_row(row.id), hashlib.sha256(secret).digest())
    async with asyncio.timeout(10):
        while (await files.http.get(files.at)).status_code != 401:  # the first key is noticed within a second
            await asyncio.sleep(0.05)
    headers = {"x-goog-upload-command": "query"}
    seen = {}
    for key in ("foreign", "wrong", "own", None):
        shown = {"x-goog-api-key": key} if key else {}
        seen[key] = (await files.http.post(url, headers={**headers, **shown})).status_code
    assert seen == {"foreign": 404, "wrong": 401, "own": 200, None: 200}
    guessed = await files.http.post(f"{url[:-1]}{'0' if url[-1] != '0' else '1'}", headers=headers)
    assert error(guessed) == (404, "not_found")


# archives


@pytest.mark.parametrize("packed", [False, True])
async def test_an_archive_is_unpacked(files: Files, packed: bool) -> None:
    data = tar_of(("./a/b.txt", b"B"), ("c", b"C"), packed=packed, mode=0o6755)
    answer = await files.http.put(f"{files.up}/workspace/into", content=data, params={"extract": "true"})
    assert [each["path"] for each in answer.json()["files"]] == ["workspace/into/a/b.txt", "workspace/into/c"]
    assert (files.workspace / "into/a/b.txt").read_text() == "B"
    assert (files.workspace / "into/c").stat().st_mode & 0o7777 == 0o755
    named = await files.http.put(f"{files.up}/workspace/two/x.tar.gz", content=data, params={"extract": "true"})
    assert (files.workspace / "two/c").read_text() == "C", named.text
    again = await files.http.put(f"{files.up}/workspace/into", content=data, params={"extract": "true"})
    assert error(again) == (409, "aborted")
    assert "workspace/into/a/b.txt" in again.json()["error"]["message"]
    over = {"extract": "true", "overwrite": "true"}
    assert (await files.http.put(f"{files.up}/workspace/into", content=data, params=over)).status_code == 200
    assert files.left() == []


async def test_a_conflict_is_found_before_anything_is_written(files: Files) -> None:
    (files.workspace / "z").write_text("old")
    data = tar_of(("a", b"A"), ("new/b", b"B"), ("z", b"Z"))
    answer = await files.http.put(f"{files.up}/workspace", content=data, params={"extract": "true"})
    assert error(answer) == (409, "aborted")
    assert files.names == [b"z"]


@pytest.mark.parametrize(
    "data",
    [
        tar_of(("../out", b"x")),
        tar_of(("/etc/x", b"x")),
        tar_of(("a", b"1"), ("a", b"2")),
        tar_of(("a", b"1"), ("a/b", b"2")),
        tar_of(("link", b""), type=tarfile.SYMTYPE, linkname="/etc"),
        tar_of(("hard", b""), type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        tar_of(("device", b""), type=tarfile.CHRTYPE),
        tar_of(("bomb", bytes(300 << 20)), packed=True),
        tar_of(("a", b"x" * 5000))[:3000],
        b"no archive at all",
        b"\x1f\x8bbroken",
    ],
    ids=["above", "absolute", "twice", "file-folder", "symlink", "hardlink", "device", "bomb", "cut", "none", "gzip"],
)
async def test_archives_that_are_refused_write_nothing(files: Files, data: bytes) -> None:
    answer = await files.http.put(f"{files.up}/workspace", content=data, params={"extract": "true"})
    assert error(answer)[0] in (400, 409), answer.text
    assert files.names == []


# environments


async def test_an_environment_says_what_it_holds_and_when_it_expires(files: Files) -> None:
    (files.workspace / "a").write_text("123")
    answer = (await files.http.get(f"/v1beta/environments/{files.id}")).json()
    assert (answer["file_count"], answer["size_bytes"]) == ("1", "3")
    assert answer["expires"][:10] > answer["last_accessed"][:10]


async def test_variables_at_creation_and_of_a_fork(server: RunningServer) -> None:
    made = await server.client.post("/v1beta/environments", json={"env": {"A": "1", "B": {"value": "2"}}})
    fork = await server.client.post(
        "/v1beta/environments", json={"from_environment": made.json()["id"], "env": {"B": "3"}}
    )
    for environment, expected in ((made, "1 2"), (fork, "1 3")):
        assert "env" not in environment.json()
        ran = await server.create("```bash\necho $A $B\n```", environment=environment.json()["id"])
        assert expected in str(ran["steps"])
    refused = await server.client.post("/v1beta/environments", json={"env": {"A": {"credential": "x"}}})
    assert error(refused) == (400, "invalid_request")


async def test_a_run_may_close_the_network_of_an_environment(files: Files) -> None:
    place = {"type": "remote", "environment_id": files.id, "network": "disabled"}
    await files.server.create("```bash\ntrue\n```", environment=place)
    assert (await files.http.get(f"/v1beta/environments/{files.id}")).json()["network"] == "disabled"
