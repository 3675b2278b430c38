"""Repositories, by real git over real HTTPS and SSH: case F5 of the attacks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from orchestrator.policy.secrets import header_secret
from orchestrator.sources import Fetcher, SshProfile
from orchestrator.sources import repository as repository_module
from orchestrator.sources.repository import has_git
from orchestrator.wire.environments import parse_environment
from tests.fakes.far_engine import SSHD, SshServer
from tests.fakes.git_server import GitServer, Repository
from tests.fakes.web_server import WebServer, answer, page, redirect
from tests.integration.sources import TARGET, Credentials, Delivered, deliver, opened_fetcher, refused

pytestmark = pytest.mark.anyio

SECRET = "canary-token"
AUTHORIZATION = "Basic " + base64.b64encode(f"x-oauth-basic:{SECRET}".encode()).decode()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "served" / "charts")
    made.commit({"README.md": "old", "docs/a.md": "a", "docs/deep/b.md": "b"})
    made.git("tag", "v1")
    made.commit({"README.md": "new"})
    (made.folder / "run.sh").write_text("#!/bin/sh\n")
    (made.folder / "run.sh").chmod(0o755)
    (made.folder / "link").symlink_to("docs/a.md")
    (made.folder / "out").symlink_to("/etc/passwd")
    made.commit()
    made.git("checkout", "--quiet", "-b", "feature/x")
    made.commit({"feature": "x"})
    made.git("checkout", "--quiet", "main")
    return made


@pytest.fixture
def server(tmp_path: Path, repository: Repository) -> Iterator[GitServer]:
    with GitServer(repository.folder.parent, tmp_path / "certificates") as made:
        yield made


@pytest.fixture
async def fetcher(tmp_path: Path, server: GitServer) -> AsyncGenerator[Fetcher, None]:
    async with opened_fetcher(tmp_path, ca_file=server.ca) as made:
        yield made


def source(server: GitServer, name: str = "charts/.git", **fields: Any) -> dict[str, Any]:
    return {"type": "repository", "source": f"{server.url}/{name}", **fields}


def without_git(delivered: Delivered) -> dict[str, bytes | None]:
    return {name: each for name, each in delivered.files.items() if name != ".git" and not name.startswith(".git/")}


async def test_a_repository_comes_with_its_files_links_modes_and_branch(fetcher: Fetcher, server: GitServer) -> None:
    delivered = await deliver(fetcher, source(server))
    assert without_git(delivered) == {
        "README.md": b"new",
        "docs": None,
        "docs/a.md": b"a",
        "docs/deep": None,
        "docs/deep/b.md": b"b",
        "run.sh": b"#!/bin/sh\n",
    }
    assert delivered.links == {"link": "docs/a.md", "out": "/etc/passwd"}
    assert delivered.modes["run.sh"] == 0o755
    assert delivered.modes["README.md"] == 0o644
    assert delivered.files[".git/HEAD"] == b"ref: refs/heads/main\n"


async def test_what_is_delivered_is_a_repository_that_git_takes(
    fetcher: Fetcher, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    delivered = await deliver(fetcher, source(server))
    place = tmp_path / "copy"
    for name, content in delivered.files.items():
        if content is None:
            (place / name).mkdir(parents=True, exist_ok=True)
        else:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
            (place / name).chmod(delivered.modes[name])
    for name, target in delivered.links.items():
        (place / name).symlink_to(target)
    copy = object.__new__(Repository)
    copy.folder = place
    assert copy.git("status", "--porcelain") == ""
    assert copy.git("rev-parse", "HEAD", "main", "origin/main").split() == [repository.git("rev-parse", "main")] * 3
    assert copy.git("remote", "get-url", "origin") == f"{server.url}/charts/.git"
    assert copy.git("log", "--oneline").count("\n") == 0


async def test_branches_tags_commits_and_folders(fetcher: Fetcher, server: GitServer, repository: Repository) -> None:
    branch = await deliver(fetcher, source(server, ref="feature/x"))
    assert branch.files["feature"] == b"x"
    assert branch.files[".git/HEAD"] == b"ref: refs/heads/feature/x\n"
    tag = await deliver(fetcher, source(server, ref="v1"))
    assert tag.files["README.md"] == b"old"
    commit = repository.git("rev-parse", "v1")
    assert tag.files[".git/HEAD"] == f"{commit}\n".encode()
    by_id = await deliver(fetcher, source(server, ref=commit))
    assert by_id.files["README.md"] == b"old"
    folder = await deliver(fetcher, source(server, path="docs"))
    assert folder.files == {"a.md": b"a", "deep": None, "deep/b.md": b"b"}


async def test_what_is_not_there_is_said(fetcher: Fetcher, server: GitServer) -> None:
    await refused(
        fetcher, source(server, ref="missing"), told=r"source 0 \(repository\).*no branch and no tag 'missing'"
    )
    await refused(fetcher, source(server, ref="a" * 40), told="git: ")
    await refused(fetcher, source(server, path="missing"), told="'path' is not a folder")
    await refused(fetcher, source(server, path="README.md"), told="'path' is not a folder")
    await refused(fetcher, source(server, "missing/.git"), told="answered 404")


async def test_f5_a_token_is_nowhere_but_in_the_request(
    fetcher: Fetcher, server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.wanted = AUTHORIZATION
    seen: list[str] = []

    def look(request: BaseHTTPRequestHandler) -> None:
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    seen.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
                except OSError:
                    continue
        serve(request)

    serve, server.fallback = server.fallback, look
    network = {"allowlist": [{"domain": "127.0.0.1", "transform": {"Authorization": AUTHORIZATION}}]}
    delivered = await deliver(fetcher, source(server), network=network)
    everything = b"".join(each for each in delivered.files.values() if each is not None)
    assert delivered.files["README.md"] == b"new"
    for secret in (SECRET, AUTHORIZATION):
        assert secret.encode() not in everything
        assert not any(secret in line for line in seen)
    assert any("git" in line and "fetch" in line for line in seen)
    message = await refused(fetcher, source(server), told="answered 401")
    assert "transform" in message
    wrong = {"allowlist": [{"domain": "127.0.0.1", "transform": {"Authorization": "Basic canary"}}]}
    assert "canary" not in await refused(fetcher, source(server), told="401", network=wrong)


async def test_a_private_repository_by_a_credential(tmp_path: Path, server: GitServer) -> None:
    server.wanted = AUTHORIZATION
    secret = header_secret("git", "Authorization", "Basic", AUTHORIZATION.partition(" ")[2])
    credentials = Credentials(git=secret)
    rules = {"allowlist": [{"domain": "127.0.0.1", "credential": "git"}]}
    async with opened_fetcher(tmp_path, credentials, ca_file=server.ca) as fetcher:
        assert (await deliver(fetcher, source(server), network=rules)).files["README.md"] == b"new"
        credentials.known["git"] = header_secret("git", "Authorization", "Basic", "canary-wrong")
        assert "canary" not in await refused(fetcher, source(server), told="401", network=rules)
        credentials.known.clear()
        await refused(fetcher, source(server), told="credential 'git' is revoked", network=rules)


async def test_redirects_are_followed_by_us_and_never_by_git(
    fetcher: Fetcher, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    server.pages["/moved/info/refs"] = redirect("/charts/.git/info/refs?service=git-upload-pack")
    delivered = await deliver(fetcher, source(server, "moved"))
    assert delivered.files["README.md"] == b"new"
    config = delivered.files[".git/config"]
    assert config is not None
    assert f"{server.url}/moved".encode() in config
    server.pages["/inside/info/refs"] = redirect("https://169.254.169.254/info/refs")
    await refused(fetcher, source(server, "inside"), told="169.254.169.254 is not public")
    # Behind the first request git is on its own.
    with WebServer(tmp_path / "other") as other:
        server.pages["/charts/.git/git-upload-pack"] = redirect(f"{other.url}/charts/.git/git-upload-pack", 307)
        await refused(fetcher, source(server), told="git: ")
        assert not other.requests


async def test_f5_gits_own_connections_are_judged(fetcher: Fetcher, server: GitServer, repository: Repository) -> None:
    (repository.folder / ".gitmodules").write_text(
        '[submodule "inner"]\n\tpath = inner\n\turl = https://169.254.169.254/x\n'
    )
    commit = repository.git("rev-parse", "v1")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    repository.git("add", ".gitmodules")
    repository.git("commit", "--quiet", "-m", "x")
    assert (await deliver(fetcher, source(server))).files["README.md"] == b"new"
    await refused(fetcher, source(server, submodules=True), told="169.254.169.254 is not public")


async def test_submodules_come_if_they_are_asked_for(
    fetcher: Fetcher, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    inner = Repository(tmp_path / "served" / "inner")
    commit = inner.commit({"inside": "content"})
    (repository.folder / ".gitmodules").write_text(
        f'[submodule "inner"]\n\tpath = inner\n\turl = {server.url}/inner/.git\n'
    )
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    repository.git("add", ".gitmodules")
    repository.git("commit", "--quiet", "-m", "x")
    assert "inner/inside" not in (await deliver(fetcher, source(server))).files
    assert (await deliver(fetcher, source(server, submodules=True))).files["inner/inside"] == b"content"


@pytest.mark.parametrize(
    "url", ["file://{0}", "{0}", "ext::sh -c touch% {0}/broken-out", "../other", "git://127.0.0.1/x"]
)
async def test_f5_submodules_by_other_ways_are_refused(
    fetcher: Fetcher, server: GitServer, repository: Repository, tmp_path: Path, url: str
) -> None:
    other = Repository(tmp_path / "served" / "other")
    commit = other.commit({"private": "content"})
    (repository.folder / ".gitmodules").write_text(
        f'[submodule "inner"]\n\tpath = inner\n\turl = {url.format(other.folder)}\n\tupdate = !touch broken-out\n'
    )
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    repository.git("add", ".gitmodules")
    repository.git("commit", "--quiet", "-m", "x")
    await refused(fetcher, source(server, submodules=True), told="git: ")
    assert not list(tmp_path.rglob("broken-out"))


async def test_f5_hooks_and_filters_of_a_repository_do_nothing(
    fetcher: Fetcher, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    hook = tmp_path / "ran"
    repository.commit(
        {
            ".gitattributes": "* filter=lfs\n*.md filter=evil\n",
            ".lfsconfig": "[lfs]\n\turl = https://169.254.169.254/\n",
            "hooks/post-checkout": f"#!/bin/sh\ntouch {hook}\n",
            ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {hook}\n',
            "big": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        }
    )
    delivered = await deliver(fetcher, source(server))
    assert str(delivered.files["big"]).startswith("b'version https://git-lfs")
    assert not hook.exists()
    assert not any(name.startswith(".git/hooks/") for name in delivered.files)


def pointer(content: bytes, size_bytes: int | None = None) -> str:
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size_bytes or len(content)}\n"


class LfsServer:
    """Answers for the objects of the repository `charts` at its git server, or wherever `href` says."""

    def __init__(self, server: GitServer, *objects: bytes) -> None:
        self.href = f"{server.url}/objects/{{oid}}"
        self.asked: list[dict[str, Any]] = []
        self._objects = {hashlib.sha256(each).hexdigest(): each for each in objects}
        server.pages["/charts/.git/info/lfs/objects/batch"] = self._locate
        for oid, content in self._objects.items():
            server.pages[f"/objects/{oid}"] = page(content)

    def _locate(self, request: BaseHTTPRequestHandler) -> None:
        asked = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.append(asked)
        listed: list[dict[str, Any]] = []
        for each in asked["objects"]:
            if each["oid"] in self._objects:
                action = {"href": self.href.format(**each), "header": {"X-Object": "key"}}
                listed.append({**each, "actions": {"download": action}})
            else:
                listed.append({**each, "error": {"code": 404, "message": "gone\u202e"}})
        answer(request, json.dumps({"transfer": "basic", "objects": listed}).encode())


async def test_files_of_lfs_come_if_they_are_asked_for(
    fetcher: Fetcher, server: GitServer, repository: Repository
) -> None:
    big = os.urandom(300_000)
    lfs = LfsServer(server, big)
    files = {".gitattributes": "*.bin filter=lfs\n", "a.bin": pointer(big), "in/b.bin": pointer(big)}
    repository.commit({**files, "c.txt": pointer(big), "own.bin": "no pointer"})
    (repository.folder / "a.bin").chmod(0o755)
    repository.commit({})
    assert (await deliver(fetcher, source(server))).files["a.bin"] == pointer(big).encode()
    assert lfs.asked == []
    delivered = await deliver(fetcher, source(server, lfs=True))
    assert delivered.files["a.bin"] == delivered.files["in/b.bin"] == big
    assert delivered.files["c.txt"] == pointer(big).encode(), "its attributes do not say that it is of LFS"
    assert delivered.files["own.bin"] == b"no pointer"
    assert (delivered.modes["a.bin"], delivered.modes["in/b.bin"]) == (0o755, 0o644)
    ((asked,),) = [each["objects"] for each in lfs.asked]
    assert asked == {"oid": hashlib.sha256(big).hexdigest(), "size": 300_000}
    (fetched,) = [headers for path, headers in server.requests if path.startswith("/objects/")]
    assert fetched["x-object"] == "key"


@pytest.mark.parametrize(
    ("text", "href", "told"),
    [
        (pointer(b"other"), None, "cannot be had: 'gone"),
        (pointer(b"content", 6), None, "longer than its announced size"),
        (pointer(b"content", 8), None, "not what its name says"),
        (pointer(b"content"), "https://169.254.169.254/{oid}", "is not public"),
        (pointer(b"content"), "http://127.0.0.1/{oid}", "must begin with https://"),
        (pointer(b"content"), "file:///etc/passwd", "must begin with https://"),
        (pointer(b"content", 10**12), None, "larger than"),
    ],
)
async def test_f5_lfs_servers_that_are_not_believed(
    fetcher: Fetcher, server: GitServer, repository: Repository, text: str, href: str | None, told: str
) -> None:
    lfs = LfsServer(server, b"content")
    lfs.href = href or lfs.href
    repository.commit({".gitattributes": "*.bin filter=lfs\n", "a.bin": text})
    await refused(fetcher, source(server, lfs=True), told=told)


@pytest.mark.parametrize("said", [b"[]", b"{", b'{"objects": [1]}', b'{"objects": [{"oid": {}}]}', b"x" * (2 << 20)])
async def test_f5_lfs_answers_that_are_none(
    fetcher: Fetcher, server: GitServer, repository: Repository, said: bytes
) -> None:
    server.pages["/charts/.git/info/lfs/objects/batch"] = page(said)
    repository.commit({".gitattributes": "*.bin filter=lfs\n", "a.bin": pointer(b"content")})
    await refused(fetcher, source(server, lfs=True), told="did not answer as an LFS server does|more than")


async def test_f5_sizes_and_members_have_limits(tmp_path: Path, server: GitServer, repository: Repository) -> None:
    zeros = "0" * 3_000_000
    repository.commit({"zeros": zeros})
    (tmp_path / "small").mkdir()
    async with opened_fetcher(tmp_path / "small", ca_file=server.ca, repository_limit_bytes=1 << 20) as fetcher:
        await refused(fetcher, source(server), told="larger than 1048576 bytes")
        assert (await deliver(fetcher, source(server, path="docs"))).files["a.md"] == b"a"
    async with opened_fetcher(tmp_path / "small", ca_file=server.ca, max_members=4) as fetcher:
        await refused(fetcher, source(server), told="more than 4 files")


async def test_f5_a_tree_of_billions_of_files_is_seen_before_it_is_written(
    tmp_path: Path, server: GitServer, repository: Repository, fetcher: Fetcher
) -> None:
    blob = repository.git("hash-object", "-w", "--stdin", content=b"x")
    tree = repository.git("mktree", content="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(9):
        tree = repository.git("mktree", content="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)).encode())
    commit = repository.git("commit-tree", tree, content=b"bomb")
    repository.git("update-ref", "refs/heads/bomb", commit)
    await refused(fetcher, source(server, ref="bomb"), told="more than 100000 files")


async def test_f5_time_has_a_limit_and_a_cancel_ends_git(
    tmp_path: Path, server: GitServer, repository: Repository
) -> None:
    is_over, is_asked = threading.Event(), threading.Event()

    def hang(_request: BaseHTTPRequestHandler) -> None:
        is_asked.set()
        is_over.wait(30)

    server.pages["/charts/.git/git-upload-pack"] = hang
    (tmp_path / "hung").mkdir()
    async with opened_fetcher(tmp_path / "hung", ca_file=server.ca, timeout_s=1.5) as fetcher:
        await refused(fetcher, source(server), told=r"it took longer than 1\.5 s")
    assert not running_git(tmp_path / "hung")
    is_asked.clear()
    async with opened_fetcher(tmp_path / "hung", ca_file=server.ca) as fetcher:
        spec = parse_environment({"type": "remote", "sources": [source(server, target=TARGET)]})
        assert spec is not None

        async def fetch() -> None:
            async with fetcher.fetched(spec):
                pass

        fetching = asyncio.create_task(fetch())
        assert await asyncio.to_thread(is_asked.wait, 20)
        assert running_git(tmp_path / "hung")
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert not running_git(tmp_path / "hung")
    is_over.set()


def running_git(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if str(folder) in str((process / "cwd").readlink()):
                    found.append((process / "cmdline").read_text())
            except OSError:
                continue
    return found


# over SSH


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    if not SSHD.exists():
        pytest.skip("repositories over SSH are NOT checked: there is no sshd (scripts/sshd.sh installs it)")
    made = SshServer(tmp_path / "ssh", "unix:///nowhere")
    made.start()
    yield made
    made.stop()


def profile_of(ssh: SshServer, **fields: Any) -> SshProfile:
    user = ssh.url.removeprefix("ssh://").partition("@")[0]
    key = (ssh.home.parent / "host_key.pub").read_text().rsplit(" ", 1)[0]
    known = {"key_file": ssh.home / ".ssh" / "id_ed25519", "host_keys": (key,)}
    return SshProfile(**{"host": "127.0.0.1", "user": user, "port": ssh.port, **known, **fields})


async def test_a_repository_over_ssh(tmp_path: Path, ssh: SshServer, repository: Repository) -> None:
    wanted = {"type": "repository", "source": f"ssh://127.0.0.1:{ssh.port}{repository.folder}", "profile": "own"}
    async with opened_fetcher(tmp_path, ssh={"own": profile_of(ssh)}) as fetcher:
        delivered = await deliver(fetcher, wanted)
        assert delivered.files["README.md"] == b"new"
        await refused(fetcher, {**wanted, "profile": "other"}, told="has no profile 'other'")
        elsewhere = f"ssh://127.0.0.1:22{repository.folder}"
        await refused(fetcher, {**wanted, "source": elsewhere}, told="is of another server than")
        rules = {"allowlist": [{"domain": "github.com"}]}
        await refused(fetcher, wanted, told="not in the allowlist", network=rules)


async def test_f5_another_host_key_is_refused(tmp_path: Path, ssh: SshServer, repository: Repository) -> None:
    other = (ssh.home / ".ssh" / "id_ed25519.pub").read_text().rsplit(" ", 1)[0]
    wanted = {"type": "repository", "source": f"ssh://127.0.0.1:{ssh.port}{repository.folder}", "profile": "own"}
    async with opened_fetcher(tmp_path, ssh={"own": profile_of(ssh, host_keys=(other,))}) as fetcher:
        await refused(fetcher, wanted, told="git: .*(Host key verification failed|access rights)")
    async with opened_fetcher(tmp_path, ssh={"own": profile_of(ssh, host_keys=())}) as fetcher:
        await refused(fetcher, wanted, told="host key of 127.0.0.1 is not known")


async def test_a_server_without_git_says_so(
    tmp_path: Path, fetcher: Fetcher, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "_PATH_OF_PROGRAMS", str(tmp_path))
    assert not await asyncio.to_thread(has_git)
    await refused(fetcher, source(server), told="git is not installed")
