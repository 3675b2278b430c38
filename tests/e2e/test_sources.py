"""Sources fetched from servers on loopback into real containers, through the REST API."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caller import ENVIRONMENTS, Caller, Json
from tests.e2e.conftest import StartServer
from tests.e2e.server import ServerProcess
from tests.fakes.git_server import GitServer, Repository
from tests.fakes.sftp_server import SftpServer
from tests.fakes.web_server import WebServer, page, redirect

SECRET = "canary-transform"
LOOK = "```bash\ncd /workspace; find -L in -type f -not -path '*/.git/*' | sort; cat in/a.txt\n```"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    if shutil.which("git") is None:
        pytest.skip("sources of type repository are NOT tested: there is no git")
    folder = tmp_path_factory.mktemp("git")
    repository = Repository(folder / "served" / "charts")
    repository.commit({"a.txt": "from git", "docs/b.txt": "b"})
    (repository.folder / "link").symlink_to("docs/b.txt")
    repository.commit()
    with GitServer(folder / "served", folder / "certificates") as server:
        yield server


@pytest.fixture(scope="module")
def asked(engine: Any, repositories: GitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A client of a server whose operator lets sources come from 127.0.0.1, and from no other private address."""
    settings = {
        "POOL__SIZE": "0",
        "NETWORK_EXCEPTIONS": '["127.0.0.1"]',
        "SOURCES__CA_FILE": str(repositories.ca),
    }
    process = ServerProcess(engine, tmp_path_factory.mktemp("sources"), **settings)
    process.start()
    with process.caller() as caller:
        yield caller
    process.close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def archive(**files: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{name}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return target.getvalue()


def seen(made: Json) -> str:
    assert made["status"] == "completed", made
    return str(next(step["result"] for step in made["steps"] if step["type"] == "code_execution_result"))


def remote(*sources: Json, **fields: Any) -> Json:
    return {"type": "remote", "sources": [{"target": "workspace/in", **source} for source in sources], **fields}


def http(url: str, **fields: Any) -> Json:
    return {"type": "http", "source": url, **fields}


def test_an_archive_is_unpacked_and_its_server_gets_what_its_rule_says(asked: Caller, web: WebServer) -> None:
    web.pages["/data.tar.gz"] = page(archive(a="from the web", b="2"))
    rules = {"allowlist": [{"domain": "127.0.0.1", "transform": {"X-Token": SECRET}}]}
    made = asked.create(LOOK, remote(http(f"{web.url}/data.tar.gz", extract=True), network=rules))
    assert seen(made) == "in/a.txt\nin/b.txt\nfrom the web"
    assert [headers["x-token"] for _, headers in web.requests] == [SECRET]
    found = asked.http.get(f"{ENVIRONMENTS}/{made['environment_id']}")
    assert found.json()["sandbox_network"] == "allowlist"
    assert SECRET not in found.text


def test_a_repository_is_a_clone_that_git_inside_understands(asked: Caller, repositories: GitServer) -> None:
    spec = remote({"type": "repository", "source": f"{repositories.url}/charts/.git"})
    made = asked.create(
        LOOK + "\n```bash\ncd in && git status --short && git log --format=%s && readlink link\n```", spec
    )
    results = [str(step["result"]) for step in made["steps"] if step["type"] == "code_execution_result"]
    assert results == ["in/a.txt\nin/docs/b.txt\nin/link\nfrom git", "x\ndocs/b.txt\n"]


def test_a_folder_comes_over_sftp(asked: Caller, tmp_path: Path) -> None:
    served = tmp_path / "served" / "in"
    served.mkdir(parents=True)
    (served / "a.txt").write_text("from sftp")
    with SftpServer(tmp_path / "served") as server:
        spec = remote({"type": "sftp", "source": f"{server.url}/in", "host_key": server.host_key})
        assert seen(asked.create(LOOK, spec)) == "in/a.txt\nfrom sftp"


def test_all_arrive_or_none_and_the_reason_names_which(asked: Caller, web: WebServer) -> None:
    web.pages["/a"] = page(b"there")
    spec = remote(
        {"type": "inline", "target": "workspace/own.txt", "content": "x"},
        http(f"{web.url}/a", target="workspace/a"),
        http(f"{web.url}/missing?key=canary-query", target="workspace/b"),
    )
    made = asked.create("```bash\nls /workspace\n```", spec)
    assert made["status"] == "failed", made
    told = str(made["errors"])
    assert "source_failed" in told
    assert "source 2 (http) could not be fetched" in told
    assert "404" in told
    assert "canary" not in told
    assert not [step for step in made["steps"] if step["type"] == "code_execution_result"]
    web.pages["/missing"] = page(b"late")
    again = asked.create("```bash\ncat /workspace/a /workspace/b\n```", made["environment_id"])
    assert seen(again) == "therelate", "what failed may be had later, whole"


@pytest.mark.parametrize("way", ["named", "redirected", "metadata"])
def test_private_addresses_are_refused(asked: Caller, web: WebServer, way: str) -> None:
    inner = f"http://127.0.0.2:{web.port}/inner"
    url = {"named": inner, "redirected": f"{web.url}/out", "metadata": "http://169.254.169.254/latest/meta-data"}[way]
    web.pages["/out"] = redirect(inner)
    web.pages["/inner"] = page(b"private")
    made = asked.create("```bash\ncat /workspace/in\n```", remote(http(url)))
    assert made["status"] == "failed", made
    assert "is not public" in str(made["errors"])
    assert "/inner" not in [path for path, _ in web.requests]


def test_a_server_that_ends_while_it_fetches_begins_again_at_its_next_start(
    start_server: StartServer, web: WebServer
) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        goes_on.wait(30)
        request.close_connection = True

    web.pages["/a"] = hang
    server = start_server(NETWORK_EXCEPTIONS='["127.0.0.1"]')
    with server.caller() as caller:
        run = caller.start("```bash\ncat /workspace/in\n```", remote(http(f"{web.url}/a")))
        assert asked.wait(20)
    assert server.stop() == 0
    goes_on.set()
    web.pages["/a"] = page(b"whole")
    server.start()
    with server.caller() as caller:
        assert seen(caller.wait(run)) == "whole"
    assert not list((server.data_dir / "fetching").iterdir())
