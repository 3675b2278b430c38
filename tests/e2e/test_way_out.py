"""The way out of real containers: programs find it without being told, and reach whom the rules name."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caller import ENVIRONMENTS, Caller, Json
from tests.e2e.server import ServerProcess
from tests.fakes.git_server import GitServer, Repository
from tests.fakes.web_server import WebServer, page

HOST = "127.0.0.2"
"""Loopback, but not what programs inside take for their own."""
REFUSED = ["169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "10.0.0.1", "[fd00:ec2::254]"]


@pytest.fixture(scope="module")
def process(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its operator lets loopback be reached."""
    settings = {"POOL__SIZE": "0", "NETWORK_EXCEPTIONS": '["127.0.0.0/8"]', "EGRESS__CONNECTIONS": "120"}
    made = ServerProcess(engine, tmp_path_factory.mktemp("way-out"), **settings)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def asked(process: ServerProcess) -> Iterator[Caller]:
    with process.caller() as caller:
        yield caller


@pytest.fixture(scope="module")
def environment(asked: Caller) -> str:
    """Without rules: everybody."""
    return asked.new_environment()


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer(host=HOST) as server:
        server.pages["/a"] = page(b"content")
        yield server


def run(caller: Caller, code: str, environment: Any, language: str = "bash") -> str:
    """What a command wrote and what the model is told with it."""
    made = caller.create(f"```{language}\n{code}\n```", environment)
    assert made["status"] == "completed", made
    return str(next(step["result"] for step in made["steps"] if step["type"] == "code_execution_result"))


def rules(*domains: Any, **fields: Any) -> Json:
    listed = [each if isinstance(each, dict) else {"domain": each} for each in domains]
    return {"type": "remote", "network": {"allowlist": listed}, **fields}


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("curl -sS {url}", "bash"),
        ("curl -sSp {url}", "bash"),
        ("curl -sS --socks5-hostname ${{http_proxy#http://}} {url}", "bash"),
        ("wget -qO- {url}", "bash"),
        ("bash -lc 'curl -sS {url}'", "bash"),
        ("import requests; print(requests.get('{url}').text)", "python"),
        ("import urllib.request; print(urllib.request.urlopen('{url}').read().decode())", "python"),
        ("node -e \"fetch('{url}').then(r => r.text()).then(console.log)\"", "bash"),
        ("node -e \"require('http').get('{url}', r => r.pipe(process.stdout))\"", "bash"),
        ("echo \"import http from 'node:http'; http.get('{url}', r => r.pipe(process.stdout))\" > /tmp/a.mjs; "
         "node /tmp/a.mjs", "bash"),
    ],
)  # fmt: skip
def test_programs_get_out(asked: Caller, environment: str, web: WebServer, code: str, language: str) -> None:
    assert run(asked, code.format(url=f"{web.url}/a"), environment, language).strip() == "content"


@pytest.mark.parametrize(
    "code",
    [
        "curl -sSk {url}",
        "node -e \"fetch('{url}').then(r => r.text()).then(console.log)\"",
        "node -e \"require('https').get('{url}', r => r.pipe(process.stdout))\"",
        "python3 -W ignore -c \"import requests; print(requests.get('{url}', verify=False).text)\"",
    ],
)
def test_programs_get_out_by_tls(asked: Caller, environment: str, tmp_path: Path, code: str) -> None:
    with WebServer(tmp_path, host=HOST) as server:
        server.pages["/a"] = page(b"content")
        asking = code.format(url=f"{server.url}/a")
        said = run(asked, f"export NODE_TLS_REJECT_UNAUTHORIZED=0; {asking} 2>/tmp/e || cat /tmp/e", environment)
    assert said.strip() == "content"


def test_pip_and_npm_install(asked: Caller, environment: str, web: WebServer) -> None:
    web.pages["/simple/tiny/"] = page(b'<a href="/tiny-1.0-py3-none-any.whl">tiny</a>', Content_Type="text/html")
    web.pages["/tiny-1.0-py3-none-any.whl"] = page(_wheel())
    said = run(asked, f"pip install -q --index-url {web.url}/simple --trusted-host {HOST} tiny", environment)
    assert run(asked, "python3 -c 'import tiny; print(tiny.WORD)'", environment).strip() == "wheel", said
    package = _npm_package()
    version = {"name": "tiny", "version": "1.0.0"}
    dist = {"tarball": f"{web.url}/tiny-1.0.0.tgz", "shasum": hashlib.sha1(package).hexdigest()}
    listed = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**version, "dist": dist}}}
    web.pages["/tiny"] = page(json.dumps(listed).encode(), Content_Type="application/json")
    web.pages["/tiny-1.0.0.tgz"] = page(package)
    said = run(
        asked, f"npm install --registry {web.url}/ tiny 2>&1; node -e \"console.log(require('tiny'))\"", environment
    )
    assert said.strip().endswith("from npm"), said


def _wheel() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("tiny.py", "WORD = 'wheel'\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return target.getvalue()


def _npm_package() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in (
            ("package.json", '{"name": "tiny", "version": "1.0.0"}'),
            ("index.js", "module.exports='from npm'"),
        ):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return target.getvalue()


def test_git_clones_over_https(asked: Caller, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git over https is NOT tested: there is no git")
    repository = Repository(tmp_path / "served" / "charts")
    repository.commit({"a.txt": "from git"})
    with GitServer(tmp_path / "served", tmp_path / "certificates") as server:
        # Its certificate is for 127.0.0.1, which programs inside take for their own unless they are told otherwise.
        environment = asked.new_environment(env={"no_proxy": "", "NO_PROXY": ""})
        said = run(
            asked, f"git -c http.sslVerify=false clone -q {server.url}/charts/.git c && cat c/a.txt", environment
        )
    assert said.strip() == "from git"


def test_rules_hold_and_the_model_is_told_whom_to_ask_for(
    asked: Caller, process: ServerProcess, web: WebServer
) -> None:
    environment = asked.new_environment(network=rules("api.example")["network"])
    found = asked.http.get(f"{ENVIRONMENTS}/{environment}").json()
    assert found["sandbox_network"] == "allowlist"
    said = run(asked, "curl -sS https://other.example/x?token=canary", environment)
    assert "response 403" in said
    assert "network: denied other.example:443: other.example is not in the allowlist" in said
    assert 'ask for {"domain": "other.example"}' in said
    assert "403" in run(asked, f"python3 -c \"import requests; print(requests.get('{web.url}/a'))\"", environment)
    # Other rules for an environment that runs.
    said = run(asked, f"curl -sS {web.url}/a", {**rules(HOST), "environment_id": environment})
    assert said.strip() == "content"
    logged = process.cli("logs", environment, "--kind", "network", "--json").stdout.splitlines()
    entries = [json.loads(line) for line in logged if line.strip()]
    assert [entry["kind"] for entry in entries] == ["network.denied", "network.denied", "network.connection"]
    assert "canary" not in str(entries)
    assert "other.example:443" in process.cli("logs", environment, "--kind", "network.denied").stdout


def test_disabled_lets_nobody_out(asked: Caller, web: WebServer) -> None:
    environment = asked.new_environment(network="disabled")
    assert asked.http.get(f"{ENVIRONMENTS}/{environment}").json()["sandbox_network"] == "none"
    assert "'network' lets nothing out" in run(asked, f"curl -sS {web.url}/a", environment)


def test_n1_n2_there_is_no_other_way(asked: Caller, environment: str, web: WebServer) -> None:
    for host in REFUSED:
        assert "corral: " in run(asked, f"curl -sS -g http://{host}/", environment), host
    for direct in (
        "curl -sS -m 5 --noproxy '*' http://192.0.2.2/",
        "curl -sS -m 5 --noproxy '*' http://1.1.1.1/",
        "curl -sS -m 5 -g --noproxy '*' 'http://[2606:4700:4700::1111]/'",
    ):
        assert "curl: (7)" in run(asked, direct, environment), direct
    udp = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('1.1.1.1', 53))"
    assert "unreachable" in run(asked, f'python3 -c "{udp}"', environment)
    assert "Could not resolve" in run(asked, "curl -sS -m 5 --noproxy '*' http://example.com/ 2>&1", environment)


def test_n11_the_server_itself_is_not_reached(asked: Caller, process: ServerProcess, environment: str) -> None:
    for host in (HOST, "127.0.0.3"):
        assert "is this server itself" in run(asked, f"curl -sS http://{host}:{process.port}/healthz", environment)


def test_a_hundred_at_once(asked: Caller, environment: str, web: WebServer) -> None:
    each = f"curl -sS '{web.url}/a?@' -o /dev/null -w '%{{http_code}}\\n'"
    assert run(asked, f"seq 100 | xargs -P 100 -I @ {each} | sort | uniq -c", environment).split() == ["100", "200"]


def test_setup_of_a_base_environment_has_the_way_out_of_its_rules(asked: Caller, web: WebServer) -> None:
    name = f"way-out-{time.time_ns()}"
    base = rules(HOST, setup=[f"curl -sSf {web.url}/a -o /workspace/got"])
    made = asked.http.post(
        "/v1beta/agents", json={"id": name, "base_agent": "antigravity-preview-09-2026", "base_environment": base}
    )
    assert made.status_code == 200, made.text
    ran = asked.http.post(
        "/v1beta/interactions",
        json={"agent": name, "input": "```bash\ncat /workspace/got\n```", "environment": "remote"},
    )
    assert "content" in ran.text, ran.text
    assert asked.http.delete(f"/v1beta/agents/{name}").status_code == 200


def test_without_a_way_out_programs_are_told_of_none(engine: Any, tmp_path: Path) -> None:
    process = ServerProcess(engine, tmp_path, POOL__SIZE="0", SANDBOX_NETWORK="none")
    process.start()
    try:
        with process.caller() as caller:
            environment = caller.new_environment()
            assert run(caller, "env | grep -ic proxy; curl -sS -m 5 http://127.0.0.1:3128/", environment).startswith(
                "0\n"
            )
            assert caller.http.get(f"{ENVIRONMENTS}/{environment}").json()["sandbox_network"] == "none"
    finally:
        process.close()
