"""Trust in the server's authority inside real containers: programs that were told nothing accept what it signed, and
only they do, only there.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.egress.certificates import Authority
from tests.e2e.caller import Caller, Json
from tests.e2e.server import ServerProcess
from tests.fakes.web_server import WebServer, page

HOST = "127.0.0.2"
"""Loopback, but not what programs inside take for their own."""
FOLDER = "/run/corral-trust"


@pytest.fixture(scope="module")
def process(engine: Settings, tmp_path_factory: pytest.TempPathFactory, internet: Authority) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("trust")
    ca = folder / "internet.pem"
    ca.write_text(internet.pem)
    # Packages may come from a mirror that is not public, whatever it is called.
    open_to = '["0.0.0.0/0"]'
    settings = {"NETWORK_EXCEPTIONS": open_to, "SOURCES__CA_FILE": str(ca), "POOL__SIZE": "0"}
    made = ServerProcess(engine, folder, **settings)
    made.start()
    yield made
    made.close()
    made.remove_templates()


@pytest.fixture(scope="module")
def asked(process: ServerProcess) -> Iterator[Caller]:
    with process.caller() as caller:
        yield caller


@pytest.fixture(scope="module")
def web(internet: Authority) -> Iterator[WebServer]:
    with WebServer(host=HOST, tls=asyncio.run(internet.context(HOST))) as server:
        server.pages["/a"] = page(b"content", Content_Type="text/html")
        yield server


READ_RULE = {"domain": HOST, "methods": ["GET"]}
READ = {"type": "remote", "network": {"allowlist": [READ_RULE]}}
"""Rules for which TLS has to be opened."""


@pytest.fixture(scope="module")
def place(asked: Caller) -> str:
    return asked.new_environment(network=READ["network"])


def run(caller: Caller, code: str, environment: Any, language: str = "bash", **fields: Any) -> str:
    made = caller.create(f"```{language}\n{code}\n```", environment, **fields)
    assert made["status"] == "completed", made
    return str(next(step["result"] for step in made["steps"] if step["type"] == "code_execution_result"))


def template(caller: Caller, name: str, *commands: str, **base: Any) -> str:
    """An agent whose template was set up by these commands, under rules for which TLS has to be opened."""
    fields = {"id": name, "base_environment": {**READ, **base, "setup": list(commands)}}
    answer = caller.http.post("/v1beta/agents", json=fields)
    assert answer.status_code == 200, answer.text
    return name


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("curl -sS {url}", "bash"),
        ("bash -lc 'curl -sS {url}'", "bash"),
        ("wget -qO- {url}", "bash"),
        ("import requests; print(requests.get('{url}').text)", "python"),
        ("import urllib.request; print(urllib.request.urlopen('{url}').read().decode())", "python"),
        ("node -e \"fetch('{url}').then(r => r.text()).then(console.log)\"", "bash"),
        ("node -e \"require('https').get('{url}', r => r.pipe(process.stdout))\"", "bash"),
    ],
)
def test_programs_trust_it(asked: Caller, place: str, web: WebServer, code: str, language: str) -> None:
    assert run(asked, code.format(url=f"{web.url}/a"), place, language).strip() == "content"


def test_httpx_trusts_it(asked: Caller, place: str, web: WebServer) -> None:
    packed = _packed("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "typing_extensions")
    put = asked.http.put(f"/upload/v1beta/environments/{place}/files/workspace/packages.tar", content=packed)
    assert put.status_code < 300, put.text
    code = (
        "mkdir -p /tmp/packages && tar -xf /workspace/packages.tar -C /tmp/packages && "
        f"PYTHONPATH=/tmp/packages python3 -c \"import httpx; print(httpx.get('{web.url}/a').text)\""
    )
    assert run(asked, code, place).strip() == "content"


def _packed(*names: str) -> bytes:
    """Packages of the tests' own Python, those without a compiled part."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in names:
            for file in metadata.files(name) or []:
                if "__pycache__" not in file.parts and not str(file).startswith(".."):
                    archive.add(Path(str(file.locate())), str(file))
    return target.getvalue()


def test_git_pip_and_npm_trust_it(asked: Caller, place: str, web: WebServer) -> None:
    web.requests.clear()
    run(asked, f"git ls-remote {web.url}/repo.git", place)
    run(asked, f"pip download --no-cache-dir --retries 0 -i {web.url}/simple nothing-of-it", place)
    run(asked, f"npm view --registry {web.url}/npm --fetch-retries 0 nothing-of-it", place)
    paths = {path.partition("?")[0] for path, _ in web.requests}
    assert paths == {"/repo.git/info/refs", "/simple/nothing-of-it/", "/npm/nothing-of-it"}


def test_apt_and_others_trust_it_in_a_setup(asked: Caller, web: WebServer) -> None:
    web.requests.clear()
    commands = (
        f"echo 'deb [trusted=yes] {web.url}/debian ./' > /etc/apt/sources.list.d/own.list",
        "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources",
        "apt-get -o Acquire::Retries=0 update || true",
        f"for each in 'curl -sS' 'wget -qO-'; do $each {web.url}/a >> /workspace/said; done",
    )
    name = template(asked, "trusts-in-setup", *commands)
    assert run(asked, "cat /workspace/said", "remote", agent=name) == "contentcontent"
    assert any(path.startswith("/debian/") for path, _ in web.requests), web.requests


@pytest.mark.timeout(420)
def test_chromium_that_a_setup_installed_trusts_it(asked: Caller, web: WebServer) -> None:
    """Debian's own package, which also makes a user, by apt over the way out."""
    # Caches and certificates of hosts are not kept: the template is large enough.
    install = (
        "apt-get update -q && apt-get install -qy --no-install-recommends chromium && "
        "rm -rf /var/lib/apt/lists/* && useradd --system helper && id helper"
    )
    name = template(asked, "browses", install, network={"allowlist": [{"domain": "*"}]})
    # Of itself it takes the proxy of the variables, but not to loopback.
    proxy = "--proxy-server=$https_proxy --proxy-bypass-list='<-loopback>'"
    browse = f"chromium --headless --no-sandbox --disable-gpu {proxy} --dump-dom {web.url}/a 2>&1 | grep -v dbus"
    assert "<body>content</body>" in run(asked, browse, READ, agent=name)
    unread = {"type": "remote", "network": {"allowlist": [{"domain": HOST}]}}
    assert "ERR_CERT_AUTHORITY_INVALID" in run(asked, browse, unread, agent=name)


def test_only_where_it_is_needed(asked: Caller, web: WebServer) -> None:
    unread = asked.new_environment(network={"allowlist": [{"domain": HOST}]})
    assert run(asked, f"env | grep -cE 'SSL|CERT|CA_'; ls {FOLDER}", unread).startswith("0\n")
    assert "certificate" in run(asked, f"curl -sS {web.url}/a 2>&1", unread)


def test_those_of_the_image_are_trusted_beside_it(asked: Caller, place: str) -> None:
    counted = run(asked, "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt $SSL_CERT_FILE", place)
    image, bundle = (int(line.rpartition(":")[2]) for line in counted.split())
    assert bundle == image + 1


def test_n14_agents_cannot_change_whom_others_trust(asked: Caller, place: str, web: WebServer) -> None:
    before = run(asked, f"cat {FOLDER}/* | sha256sum", place)
    for attempt in (
        f"echo x >> {FOLDER}/bundle.pem",
        f"rm -f {FOLDER}/bundle.pem",
        f"mv {FOLDER} /run/other",
        f"ln -sf /tmp/mine {FOLDER}/bundle.pem",
        f"touch {FOLDER}/bundle.pem.new",
        f"chmod 777 {FOLDER}",
        "mkdir /run/mine",
    ):
        said = run(asked, f"{attempt} 2>&1; echo $?", place)
        assert "denied" in said or "not permitted" in said, said
        assert not said.endswith("\n0\n"), said
    assert run(asked, f"cat {FOLDER}/* | sha256sum", place) == before


def test_n14_what_a_setup_does_to_it_stays_in_its_sandbox(asked: Caller, place: str, web: WebServer) -> None:
    """Root of a setup may do what it likes: to itself. Forks are told anew."""
    spoil = f"chmod -R 777 {FOLDER}; rm -rf {FOLDER}; ln -s /workspace {FOLDER}; rm /etc/ssl/certs/ca-certificates.crt"
    name = template(asked, "spoils", spoil, "mkfifo /etc/ssl/certs/ca-certificates.crt")
    made: Json = {**READ, "env": {}}
    assert run(asked, f"curl -sS {web.url}/a", made, agent=name).strip() == "content"
    assert run(asked, f"curl -sS {web.url}/a", place).strip() == "content"


def test_it_holds_after_a_kill_of_the_server_and_a_stop_of_the_sandbox(
    asked: Caller, process: ServerProcess, place: str, web: WebServer
) -> None:
    process.kill()
    process.start()
    assert run(asked, f"curl -sS {web.url}/a", place).strip() == "content"
    process.container(place).stop(timeout=1)
    assert run(asked, f"curl -sS {web.url}/a", place).strip() == "content"
