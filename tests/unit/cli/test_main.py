from __future__ import annotations

import json
import subprocess
import sys

import httpx2
import pytest

import orchestrator
from tests.fakes.wire_server import ENVIRONMENT, FakeServer, answer, refusal
from tests.unit.cli.conftest import Corral

HEAVY = (
    "asyncio",
    "fastapi",
    "uvicorn",
    "docker",
    "httpx2",
    "pydantic",
    "yaml",
    "orchestrator.app",
    "orchestrator.store",
)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    program = "import sys\nfrom orchestrator.cli.main import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
    program += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for command in ("serve", "run", "ps", "logs", "rm", "env", "files", "keys", "doctor", "version"):
        assert f" {command} " in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_version(corral: Corral) -> None:
    assert corral("version").out == f"{orchestrator.__version__}\n"
    assert corral("--version").out == f"{orchestrator.__version__}\n"
    assert json.loads(corral("version", "--json").out) == {"version": orchestrator.__version__}


def test_without_a_server_it_says_how_to_start_one(corral: Corral) -> None:
    outcome = corral("ps", server=FakeServer(httpx2.ConnectError("refused")))
    assert outcome.code == 2
    advice = "start one with `corral serve`, or name another with --url"
    assert outcome.err == f"corral: no server answers at http://127.0.0.1:8080; {advice}\n"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (refusal(404, "not_found", "No environment 'x'."), "No environment 'x'. [404 not_found]"),
        (refusal(401, "unauthenticated", "No key."), "No key. (give one with --key or CORRAL_API_KEY) [401"),
        (httpx2.Response(502, content=b"<html>"), "http://127.0.0.1:8080 answered 502 Bad Gateway"),
        (refusal(400, "x", "evil\x1b]0;title\x07!"), "evil! [400 x]"),
    ],
)
def test_a_refusal_is_one_line(corral: Corral, response: httpx2.Response, message: str) -> None:
    outcome = corral("rm", "x", server=FakeServer(response))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err


def test_bad_settings_are_one_line(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_PROT", "1")
    outcome = corral("ps")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "corral: unknown variable CORRAL_PROT, closest known name: CORRAL_PORT\n"


def test_url_and_key_are_sent(corral: Corral) -> None:
    server = FakeServer(answer({}))
    corral("rm", "a/b", "--url", "http://elsewhere:9/base", "--key", "k", server=server)
    request = server.requests[0]
    assert request.method == "DELETE"
    assert str(request.url) == "http://elsewhere:9/base/v1beta/environments/a%2Fb"
    assert request.headers["x-goog-api-key"] == "k"


def test_rm_takes_several(corral: Corral) -> None:
    server = FakeServer(answer({}), answer({}))
    assert corral("rm", ENVIRONMENT, "other", server=server).out == f"{ENVIRONMENT}\nother\n"
    assert len(server.requests) == 2


def test_ps_shows_every_list_and_harms_no_terminal(corral: Corral) -> None:
    answered = {
        "environments": [
            {"id": ENVIRONMENT, "status": "active", "created": "2026-11-20T09:00:00Z", "sandbox_id": None},
            {"id": "b", "status": "\x1b[31mred\n", "created": "x", "runs": ["v1_a", "v1_b"], "spec": {"a": 1}},
        ],
        "interactions": [],
    }
    out = corral("ps", server=FakeServer(answer(answered))).out
    assert ENVIRONMENT in out
    assert "STATUS" in out
    assert " ago" in out
    assert "v1_a, v1_b" in out
    assert "SPEC" not in out
    assert "\x1b" not in out
    assert json.loads(corral("ps", "--json", server=FakeServer(answer(answered))).out) == answered


def test_ps_of_nothing_says_so(corral: Corral) -> None:
    out = corral("ps", server=FakeServer(answer({"environments": []}))).out
    assert out == "nothing here: no environments, no interactions\n"
