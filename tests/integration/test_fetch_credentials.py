"""Credentials in what the server itself asks for environments: whoever repeats one, is another host, or is slow."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.egress.dialer import Dialer
from orchestrator.egress.http import HttpClient, tls_context
from orchestrator.egress.injection import armed
from orchestrator.egress.posting import Poster
from orchestrator.errors import NetworkError
from orchestrator.policy.network import HostList, NetworkPolicy, Refusal
from orchestrator.policy.secrets import CredentialSecret, header_secret
from orchestrator.policy.urls import Url
from tests.fakes.git_server import GitServer, Repository
from tests.fakes.web_server import WebServer, answer, page, redirect
from tests.integration.sources import PROJECT, Credentials, opened_fetcher, refused
from tests.integration.test_posting import rules

pytestmark = pytest.mark.anyio

TOKEN = "canary-token"
HEADER = f"Bearer {TOKEN}"
SECRET = header_secret("git", "Authorization", "Bearer", TOKEN)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 7\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "served" / "charts")
    made.commit({"README.md": "new"})
    return made


@pytest.fixture
def server(tmp_path: Path, repository: Repository) -> Iterator[GitServer]:
    with GitServer(repository.folder.parent, tmp_path / "certificates") as made:
        yield made


def source(server: GitServer, **fields: Any) -> dict[str, Any]:
    return {"type": "repository", "source": f"{server.url}/charts/.git", **fields}


def named(*domains: str, **fields: Any) -> dict[str, Any]:
    return {"allowlist": [{"domain": domain, "credential": "git", **fields} for domain in domains]}


async def test_lfs_asks_with_the_credential_and_what_its_server_repeats_of_it_is_not_told(
    tmp_path: Path, server: GitServer, repository: Repository
) -> None:
    server.wanted = HEADER
    said = {"oid": "a" * 64, "error": {"code": 404, "message": f"no object for {HEADER}"}}
    batch = "/charts/.git/info/lfs/objects/batch"
    server.pages[batch] = page(json.dumps({"objects": [said]}).encode())
    repository.commit({".gitattributes": "*.bin filter=lfs\n", "a.bin": POINTER})
    async with opened_fetcher(tmp_path, Credentials(git=SECRET), ca_file=server.ca) as fetcher:
        message = await refused(fetcher, source(server, lfs=True), told="no object for", network=named("127.0.0.1"))
    assert [headers["authorization"] for path, headers in server.requests if path == batch] == [HEADER]
    assert TOKEN not in message


async def test_an_address_that_repeats_the_credential_is_not_told(tmp_path: Path, server: GitServer) -> None:
    server.pages["/a"] = redirect(f"{server.url}/{TOKEN}")
    server.pages[f"/{TOKEN}"] = lambda request: answer(request, b"", status=404)
    wanted = {"type": "http", "source": f"{server.url}/a"}
    async with opened_fetcher(tmp_path, Credentials(git=SECRET), ca_file=server.ca) as fetcher:
        message = await refused(fetcher, wanted, told="answered 404", network=named("127.0.0.1"))
    assert TOKEN not in message


async def test_a_submodule_of_a_host_whose_credential_cannot_be_had_is_refused(
    tmp_path: Path, server: GitServer, repository: Repository
) -> None:
    commit = Repository(tmp_path / "served" / "inner").commit({"inside": "content"})
    where = server.url.replace("127.0.0.1", "localhost")
    repository.commit({".gitmodules": f'[submodule "inner"]\n\tpath = inner\n\turl = {where}/inner/.git\n'})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    repository.git("commit", "--quiet", "--message=inner")
    network = {"allowlist": [{"domain": "127.0.0.1"}, {"domain": "localhost", "credential": "git"}]}
    exceptions = HostList.parse(["127.0.0.1", "localhost"])
    async with opened_fetcher(tmp_path, Credentials(), ca_file=server.ca, exceptions=exceptions) as fetcher:
        wanted = source(server, submodules=True)
        await refused(fetcher, wanted, told="credential 'git' is revoked", network=network)


async def test_only_requests_that_get_a_credential_are_kept_out_of_the_clear() -> None:
    network = rules(
        {"domain": "site.test", "paths": ["/open"]}, {"domain": "site.test", "paths": ["/private"], "credential": "git"}
    )
    policy = await armed(NetworkPolicy.of(network, HostList()), PROJECT, Credentials(git=SECRET).find)
    dialer = Dialer(policy, resolve=lambda _host, _port: ["127.0.0.1"])
    with contextlib.closing(HttpClient(dialer, tls_context(None))) as client:
        for path, told in (("private", "credentials are not sent over plain http"), ("open", "is not public")):
            with (
                pytest.raises(NetworkError, match=told),
                client.get(Url.parse(f"http://site.test/{path}", ("http",))),
            ):
                pass


async def test_what_a_hook_answers_does_not_repeat_the_credential() -> None:
    said = json.dumps({"decision": "deny", "reason": f"not with {HEADER}"}).encode()
    with WebServer() as web:
        web.pages["/"] = web.taking(said)
        poster = Poster(HostList.parse(["127.0.0.1"]), find=Credentials(git=SECRET).find)
        try:
            posted = await poster.post(
                rules(*named("127.0.0.1")["allowlist"]), f"{web.url}/", {}, b"{}",
                timeout_s=10, limit_bytes=1000, project_id=PROJECT,
            )  # fmt: skip
        finally:
            await poster.aclose()
    assert TOKEN.encode() not in posted.body
    assert json.loads(posted.body)["decision"] == "deny"


async def test_a_hook_waits_for_its_credential_no_longer_than_for_its_answer() -> None:
    async def never(_project_id: str, _ids: Collection[str]) -> Mapping[str, CredentialSecret | Refusal]:
        return await asyncio.get_running_loop().create_future()

    poster = Poster(HostList.parse(["127.0.0.1"]), find=never)
    network = rules(*named("127.0.0.1")["allowlist"])
    try:
        async with asyncio.timeout(5):
            with pytest.raises(NetworkError, match=r"within 0\.1 s"):
                await poster.post(
                    network, "https://127.0.0.1:1/", {}, b"", timeout_s=0.1, limit_bytes=9, project_id=PROJECT
                )
    finally:
        await poster.aclose()
