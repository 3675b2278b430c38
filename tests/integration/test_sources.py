"""Files of web servers, buckets, SSH servers and the own machine: cases F6, F7 and F8 of the attacks."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import paramiko
import pytest

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority
from orchestrator.errors import SourceFailed
from orchestrator.policy.network import HostList
from orchestrator.policy.secrets import header_secret
from orchestrator.sources import Fetcher, S3Profile, SshProfile
from tests.fakes.bucket_server import BucketServer
from tests.fakes.sftp_server import SftpServer
from tests.fakes.web_server import WebServer, answer, page, redirect
from tests.integration.sources import TARGET, Credentials, deliver, opened_fetcher, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fetcher(tmp_path: Path) -> AsyncGenerator[Fetcher, None]:
    async with opened_fetcher(tmp_path) as made:
        yield made


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def archive(*names: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    return gzip.compress(target.getvalue())


# all or nothing


async def test_sources_come_in_their_order(fetcher: Fetcher, web: WebServer) -> None:
    web.pages["/a.tgz"] = page(archive("a", "b"))
    inline = {"type": "inline", "content": "own", "target": f"{TARGET}/b"}
    delivered = await deliver(fetcher, {"type": "http", "source": f"{web.url}/a.tgz", "extract": True}, inline)
    assert delivered.files == {"a": b"x", "b": b"own"}


async def test_one_that_fails_is_named_and_nothing_is_delivered(fetcher: Fetcher, web: WebServer) -> None:
    web.pages["/a"] = page(b"content")
    good = {"type": "http", "source": f"{web.url}/a", "target": "workspace/a"}
    bad = {"type": "http", "source": f"{web.url}/missing?signature=canary", "target": "workspace/b"}
    message = await refused(fetcher, good, bad, told=r"source 1 \(http\) could not be fetched: .* answered 404")
    assert "canary" not in message


async def test_fetches_wait_for_each_other_and_end_with_the_server(tmp_path: Path, web: WebServer) -> None:
    is_over, is_asked = threading.Event(), threading.Event()

    def hang(_request: BaseHTTPRequestHandler) -> None:
        is_asked.set()
        is_over.wait(30)

    web.pages["/slow"] = hang
    web.pages["/a"] = page(b"content")
    async with opened_fetcher(tmp_path, at_once=1) as fetcher:
        slow = asyncio.create_task(deliver(fetcher, {"type": "http", "source": f"{web.url}/slow"}))
        assert await asyncio.to_thread(is_asked.wait, 20)
        waiting = asyncio.create_task(deliver(fetcher, {"type": "http", "source": f"{web.url}/a"}))
        await asyncio.sleep(0)
        waiting.cancel()  # one that has not begun is over at once
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not slow.done()
        await fetcher.aclose()
        with pytest.raises(SourceFailed, match="the server ends"):
            await slow
    is_over.set()


async def test_what_an_earlier_server_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "fetching" / "old").mkdir(parents=True)
    async with opened_fetcher(tmp_path):
        assert not (tmp_path / "fetching" / "old").exists()


# http


async def test_a_file_with_its_digest(fetcher: Fetcher, web: WebServer) -> None:
    web.pages["/a.csv"] = page(b"a,b\n")
    digest = hashlib.sha256(b"a,b\n").hexdigest()
    source = {"type": "http", "url": f"{web.url}/a.csv?x=1", "target": "workspace/a.csv", "sha256": digest.upper()}
    assert (await deliver(fetcher, source)).files == {"workspace/a.csv": b"a,b\n"}
    await refused(fetcher, {**source, "sha256": "0" * 64}, told=f"its SHA-256 is {digest}, not the one")


async def test_a_credential_of_the_rules_goes_to_its_own_host_alone(tmp_path: Path) -> None:
    internet = await asyncio.to_thread(Authority.open, tmp_path / "internet", SystemClock())
    ca = tmp_path / "internet.pem"
    ca.write_text(internet.pem)
    hosts = "127.0.0.1", "127.0.0.2"
    first, second = [await internet.context(host) for host in hosts]
    credentials = Credentials(crm=header_secret("crm", "Authorization", "Bearer", "canary-token"))
    rules = {"allowlist": [{"domain": "127.0.0.1", "credential": "crm"}, {"domain": "127.0.0.2"}]}
    with WebServer(tls=first) as web, WebServer(host="127.0.0.2", tls=second) as other:
        web.pages["/a"] = page(b"private")
        web.pages["/to"] = redirect(f"{other.url}/b")
        other.pages["/b"] = page(b"public")
        exceptions = HostList.parse(["127.0.0.0/8"])
        async with opened_fetcher(tmp_path, credentials, ca_file=ca, exceptions=exceptions) as fetcher:
            source = {"type": "http", "source": f"{web.url}/a", "target": "workspace/a"}
            assert (await deliver(fetcher, source, network=rules)).files == {"workspace/a": b"private"}
            await deliver(fetcher, {**source, "source": f"{web.url}/to"}, network=rules)
            credentials.known.clear()
            message = await refused(fetcher, source, told="credential 'crm' is revoked", network=rules)
            assert "canary" not in message
            public = {**source, "source": f"{other.url}/b"}
            assert (await deliver(fetcher, public, network=rules)).files == {"workspace/a": b"public"}
    assert [headers.get("authorization") for _, headers in web.requests] == ["Bearer canary-token"] * 2
    assert [headers.get("authorization") for _, headers in other.requests] == [None, None]


async def test_a_credential_is_not_fetched_with_in_the_clear(tmp_path: Path) -> None:
    credentials = Credentials(crm=header_secret("crm", "Authorization", "Bearer", "canary-token"))
    rules = {"allowlist": [{"domain": "site.test", "credential": "crm"}]}
    async with opened_fetcher(tmp_path, credentials, exceptions=HostList()) as fetcher:
        source = {"type": "http", "source": "http://site.test/a"}
        await refused(fetcher, source, told="credentials are not sent over plain http://", network=rules)


async def test_f6_redirects_inside_are_refused_and_names_are_judged(fetcher: Fetcher, web: WebServer) -> None:
    web.pages["/a"] = redirect("http://169.254.169.254/latest/meta-data/iam/")
    web.pages["/b"] = redirect("http://localhost:1/")
    await refused(fetcher, {"type": "http", "source": f"{web.url}/a"}, told="169.254.169.254 is not public")
    rules = {"allowlist": [{"domain": "127.0.0.1"}]}
    await refused(fetcher, {"type": "http", "source": f"{web.url}/b"}, told="localhost is not in", network=rules)


async def test_loopback_is_not_reached_unless_the_operator_lists_it(tmp_path: Path, web: WebServer) -> None:
    async with opened_fetcher(tmp_path, exceptions=HostList()) as fetcher:
        await refused(fetcher, {"type": "http", "source": web.url}, told="127.0.0.1 is not public")
    assert not web.requests


async def test_f6_slow_bodies_and_heads_have_a_time(tmp_path: Path, web: WebServer) -> None:
    is_over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        while not is_over.wait(0.05):
            request.wfile.write(b"x")

    def drip_head(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not is_over.wait(0.05):
            request.wfile.write(b"x")

    web.pages["/body"], web.pages["/head"] = drip, drip_head
    async with opened_fetcher(tmp_path, timeout_s=0.5) as fetcher:
        for path in ("/body", "/head"):
            started = time.monotonic()
            await refused(fetcher, {"type": "http", "source": f"{web.url}{path}"}, told=r"took longer than 0\.5 s")
            assert time.monotonic() - started < 10
    is_over.set()


async def test_f6_wrong_lengths_and_sizes_are_errors(tmp_path: Path, web: WebServer) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x")
        request.close_connection = True

    web.pages["/cut"] = cut
    web.pages["/large"] = page(b"x" * 5000)
    async with opened_fetcher(tmp_path, limit_bytes=4000) as fetcher:
        await refused(fetcher, {"type": "http", "source": f"{web.url}/cut"}, told="broke off")
        await refused(fetcher, {"type": "http", "source": f"{web.url}/large"}, told="larger than 4000 bytes")


async def test_f3_f4_archives_are_looked_through(fetcher: Fetcher, web: WebServer) -> None:
    web.pages["/slip"] = page(archive("fine", "../../etc/cron.d/x"))
    web.pages["/text"] = page(b"not an archive")
    await refused(fetcher, {"type": "http", "source": f"{web.url}/slip", "extract": True}, told="not a name below")
    await refused(fetcher, {"type": "http", "source": f"{web.url}/text", "extract": True}, told="not an archive")


async def test_a_full_disk_is_said(tmp_path: Path, web: WebServer) -> None:
    web.fallback = lambda request: answer(request, b"x" * (17 << 20))
    async with opened_fetcher(tmp_path, reserve_bytes=1 << 60) as fetcher:
        await refused(fetcher, {"type": "http", "source": web.url}, told="the disk of the server is full")


# buckets

GCS = {"type": "gcs", "source": "gs://data/raw"}
S3 = {"type": "s3", "source": "s3://data/raw"}


@pytest.fixture
def buckets() -> Iterator[BucketServer]:
    with BucketServer() as server:
        server.objects = {
            "raw/": b"",
            "raw/2026/a b.csv": b"a",
            "raw/2026/ü+.csv": b"b",
            "raw/empty/": b"",
            "raw/z": b"c",
            "rawer": b"d",
            "single.csv": b"e",
            "single.csv.old": b"f",
        }
        yield server


def of(kind: str, buckets: BucketServer, path: str = "raw") -> dict[str, Any]:
    if kind == "gcs":
        return {"type": "gcs", "source": f"gs://data/{path}"}
    return {"type": "s3", "source": f"s3://data/{path}", "endpoint": buckets.url}


@pytest.fixture(params=["gcs", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_objects_below_a_name_come_in_pages(tmp_path: Path, buckets: BucketServer, kind: str) -> None:
    wanted = {"2026/a b.csv": b"a", "2026/ü+.csv": b"b", "empty": None, "z": b"c"}
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url) as fetcher:
        for path in ("raw", "raw/"):
            assert (await deliver(fetcher, of(kind, buckets, path))).files == wanted
        assert (await deliver(fetcher, of(kind, buckets, "single.csv"))).files == {"workspace/in": b"e"}
        assert len((await deliver(fetcher, of(kind, buckets, ""))).files) == 8
        await refused(fetcher, of(kind, buckets, "missing"), told="no object of this name")


@pytest.mark.parametrize(
    "name",
    [
        "raw/../../etc/x",
        "raw//etc/passwd",
        "raw/a\nb",
        "raw/a/../b",
        "raw/./a",
        "raw/Z",
        "raw/z/below",
        "raw/" + "x" * 300,
    ],
)
async def test_f8_names_that_are_no_files(tmp_path: Path, buckets: BucketServer, kind: str, name: str) -> None:
    buckets.objects[name] = b"x"
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url) as fetcher:
        await refused(fetcher, of(kind, buckets), told=rf"source 0 \({kind}\) could not be fetched: '")


async def test_f8_folders_with_data_objects_without_end_and_lies(
    tmp_path: Path, buckets: BucketServer, kind: str
) -> None:
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url, max_members=20) as fetcher:
        buckets.sizes = {"raw/z": 5}
        await refused(fetcher, of(kind, buckets), told="changed while it was read")
        buckets.sizes = {"raw/empty/": 5}
        await refused(fetcher, of(kind, buckets), told="named as a folder, and holds data")
        buckets.is_endless = True
        await refused(fetcher, of(kind, buckets), told="no end|more than 20 files|twice")
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url, bucket_limit_bytes=2) as fetcher:
        buckets.is_endless, buckets.sizes = False, {}
        await refused(fetcher, of(kind, buckets), told="larger than 2 bytes")


async def test_f8_millions_of_objects(tmp_path: Path, buckets: BucketServer, kind: str) -> None:
    buckets.objects = {f"raw/{number:05}": b"" for number in range(50)}
    buckets.page_size = 1000
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url, max_members=20) as fetcher:
        await refused(fetcher, of(kind, buckets), told="more than 20 files and folders")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}x",
        b"[]",
        b'{"items": [{"name": "raw/a"}]}',
        b"<a>",
        b"<L><Contents><Key>raw/a</Key></Contents></L>",
        b"<L><Contents><Key>raw/a</Key><Size>x</Size></Contents></L>",
        b'<!DOCTYPE l [<!ENTITY a "aaaa">]><l>&a;</l>',
    ],
)
async def test_listings_that_are_none(tmp_path: Path, web: WebServer, body: bytes) -> None:
    web.fallback = lambda request: answer(request, body)
    async with opened_fetcher(tmp_path, gcs_endpoint=web.url) as fetcher:
        s3 = {"type": "s3", "source": "s3://data/raw", "endpoint": web.url}
        if not body.startswith(b"{"):
            await refused(fetcher, s3, told="cannot be read")
        if not body.startswith(b"<L>") or body != b"<L></L>":
            await refused(fetcher, {"type": "gcs", "source": "gs://data/raw"}, told="cannot be read")


async def test_a_token_for_a_private_bucket_is_a_header_of_the_rules(tmp_path: Path, buckets: BucketServer) -> None:
    buckets.wanted = "Bearer canary-token"
    async with opened_fetcher(tmp_path, gcs_endpoint=buckets.url) as fetcher:
        rules = {"allowlist": [{"domain": "127.0.0.1", "transform": {"Authorization": "Bearer canary-token"}}]}
        assert "z" in (await deliver(fetcher, GCS, network=rules)).files
        await refused(fetcher, GCS, told="answered 403")


async def test_keys_of_a_profile_sign_for_their_own_buckets(tmp_path: Path, buckets: BucketServer) -> None:
    buckets.wanted = "AWS4-HMAC-SHA256 Credential=key-id/"
    profile = S3Profile("key-id", "canary-secret", endpoint=buckets.url, region="eu-1", buckets=("data",))
    async with opened_fetcher(tmp_path, s3={"own": profile}) as fetcher:
        assert "z" in (await deliver(fetcher, {**S3, "profile": "own"})).files
        assert "eu-1/s3/aws4_request" in buckets.requests[0][1]["authorization"]
        await refused(fetcher, {**S3, "source": "s3://other/raw", "profile": "own"}, told="not for this bucket")
        stolen = {**S3, "profile": "own", "endpoint": "https://127.0.0.1:1"}
        await refused(fetcher, stolen, told="'endpoint' is the profile's")
        await refused(fetcher, {**S3, "profile": "other"}, told="has no profile 'other'")
        message = await refused(fetcher, of("s3", buckets), told=r"answered 403 \(AccessDenied\)")
        assert "canary" not in message


# sftp


@pytest.fixture
def served(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    (root / "in" / "deep").mkdir(parents=True)
    (root / "in" / "a.csv").write_bytes(b"a" * 3_000_000)
    (root / "in" / "deep" / "run").write_bytes(b"#!")
    (root / "in" / "deep" / "run").chmod(0o755)
    (root / "in" / "link").symlink_to("a.csv")
    return root


@pytest.fixture
def sftp(served: Path) -> Iterator[SftpServer]:
    with SftpServer(served) as server:
        yield server


def at(server: SftpServer, path: str = "/in", **fields: Any) -> dict[str, Any]:
    return {"type": "sftp", "source": f"{server.url}{path}", "host_key": server.host_key, **fields}


async def test_files_and_folders_of_an_open_server(fetcher: Fetcher, sftp: SftpServer) -> None:
    delivered = await deliver(fetcher, at(sftp))
    assert delivered.files == {"a.csv": b"a" * 3_000_000, "deep": None, "deep/run": b"#!"}
    assert delivered.links == {"link": "a.csv"}
    assert delivered.modes["deep/run"] == 0o755
    assert (await deliver(fetcher, at(sftp, "/in/deep/run"))).files == {"workspace/in": b"#!"}
    assert (await deliver(fetcher, at(sftp, "/in/link"))).files == {"workspace/in": b"a" * 3_000_000}
    await refused(fetcher, at(sftp, "/missing"), told="cannot be read: No such file")


async def test_f7_another_host_key_is_refused(fetcher: Fetcher, sftp: SftpServer, tmp_path: Path) -> None:
    other = paramiko.ECDSAKey.generate()
    wrong = at(sftp, host_key=f"{other.get_name()} {other.get_base64()}")
    await refused(fetcher, wrong, told="another host key than the one that is known")
    kind = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGbyFmFfIPFiGDzFGMqCCHdhpYFuFmQlqdRMR2TIhPPb"
    await refused(fetcher, at(sftp, host_key=kind), told="host key")
    unknown = {name: value for name, value in at(sftp).items() if name != "host_key"}
    await refused(fetcher, unknown, told="host key of 127.0.0.1 is not known")
    known = tmp_path / "known_hosts"
    known.write_text(f"# mine\nother.example {sftp.host_key}\n[127.0.0.1]:{sftp.port},x {sftp.host_key} comment\n")
    (tmp_path / "second").mkdir()
    async with opened_fetcher(tmp_path / "second", known_hosts_file=known) as second:
        assert "a.csv" in (await deliver(second, unknown)).files


async def test_logins_are_of_profiles(tmp_path: Path, served: Path) -> None:
    key_file = tmp_path / "key"
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(key_file))
    with SftpServer(served, password="canary-password") as server:
        server.accepted = key
        own: dict[str, Any] = {"host": "127.0.0.1", "user": "me", "port": server.port, "host_keys": (server.host_key,)}
        profiles = {
            "password": SshProfile(**own, password="canary-password"),
            "key": SshProfile(**own, key_file=key_file),
            "wrong": SshProfile(**own, password="canary-wrong"),
            "elsewhere": SshProfile(**{**own, "port": 22}),
        }
        wanted = {"type": "sftp", "source": f"sftp://127.0.0.1:{server.port}/in/deep"}
        async with opened_fetcher(tmp_path, ssh=profiles) as fetcher:
            for name in ("password", "key"):
                assert (await deliver(fetcher, {**wanted, "profile": name})).files == {"run": b"#!"}
            message = await refused(fetcher, {**wanted, "profile": "wrong"}, told="does not let 'me' in")
            assert "canary" not in message
            await refused(fetcher, {**wanted, "profile": "elsewhere"}, told="another server")
            await refused(fetcher, {**wanted, "host_key": server.host_key}, told="give a 'profile'")


FILE, FOLDER, LINK, PIPE = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        ([("../out", FILE)], "not a name"),
        ([("/etc/passwd", FILE)], "not a name"),
        ([("a/b", FOLDER)], "not a name"),
        ([("a\nb", FOLDER)], "control characters"),
        ([("a", FOLDER), ("A", FOLDER)], "case or form"),
        ([("a", FOLDER), ("a", FOLDER)], "more than 100 files"),
        ([("pipe", PIPE)], "neither a file"),
        ([(f"{number}", FOLDER) for number in range(101)], "more than 100 files"),
        ([("again", FOLDER)], "too long or too deep|too deep"),
    ],
    ids=["up", "absolute", "below", "newline", "case", "twice", "pipe", "many", "deep"],
)
async def test_f7_listings_of_no_honest_server(tmp_path: Path, sftp: SftpServer, listing: Any, told: str) -> None:
    sftp.listing = listing
    async with opened_fetcher(tmp_path, max_members=100) as fetcher:
        await refused(fetcher, at(sftp), told=told)


async def test_f7_links_that_lead_out_are_refused(fetcher: Fetcher, sftp: SftpServer, served: Path) -> None:
    (served / "in" / "out").symlink_to("../../../etc/passwd")
    await refused(fetcher, at(sftp), told="'out' is a link that leads out")


async def test_sftp_obeys_the_rules_and_has_limits(tmp_path: Path, sftp: SftpServer) -> None:
    rules = {"allowlist": [{"domain": "sftp.example.com"}]}
    async with opened_fetcher(tmp_path, limit_bytes=1000) as fetcher:
        await refused(fetcher, at(sftp), told="not in the allowlist", network=rules)
        await refused(fetcher, at(sftp), told="larger than 1000 bytes")


async def test_f7_a_silent_server_has_a_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = {
            "type": "sftp",
            "source": f"sftp://me@127.0.0.1:{silent.getsockname()[1]}/x",
            "host_key": "ssh-ed25519 AAAA",
        }
        async with opened_fetcher(tmp_path, timeout_s=0.5) as fetcher:
            await refused(fetcher, source, told=r"took longer than 0\.5 s")


# local


@pytest.fixture
async def local(tmp_path: Path, served: Path) -> AsyncGenerator[Fetcher, None]:
    async with opened_fetcher(tmp_path, folders={"reports": served}) as made:
        yield made


async def test_folders_that_the_operator_lists(local: Fetcher) -> None:
    whole = await deliver(local, {"type": "local", "source": "reports"})
    assert set(whole.files) == {"in", "in/a.csv", "in/deep", "in/deep/run"}
    assert whole.links == {"in/link": "a.csv"}
    part = await deliver(local, {"type": "local", "source": "reports/in/deep"}, network="disabled")
    assert part.files == {"run": b"#!"}
    assert (await deliver(local, {"type": "local", "source": "reports/in/deep/run"})).files == {TARGET: b"#!"}
    await refused(local, {"type": "local", "source": "other"}, told="no folder 'other'")
    await refused(local, {"type": "local", "source": "reports/missing"}, told="cannot be read")


async def test_nothing_is_opened_through_a_link(local: Fetcher, served: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_text("canary")
    (served / "way").symlink_to(tmp_path / "private")
    message = await refused(local, {"type": "local", "source": "reports/way/secret"}, told="cannot be read")
    assert str(tmp_path) not in message
    await refused(local, {"type": "local", "source": "reports/way"}, told="cannot be read")
    await refused(local, {"type": "local", "source": "reports"}, told="'way' is a link that leads out")


async def test_pipes_and_sockets_are_refused(local: Fetcher, served: Path) -> None:
    os.mkfifo(served / "pipe")
    await refused(local, {"type": "local", "source": "reports"}, told="neither a file nor a folder")
    await refused(local, {"type": "local", "source": "reports/pipe"}, told="not a file")
