"""Leaving a sandbox where nobody may (cases N1 to N3, N11 and N12): metadata services, routes past the proxy, names,
the server's own machine; and so many connections that others get none.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator

import pytest

from tests.attack.attacker import Attacker, Neighbour, p95, program_sources, resident_bytes
from tests.attack.conversations import (
    by_socks,
    control,
    direct,
    is_refused,
    tunnel,
)
from tests.attack.report import Case
from tests.attack.test_escapes import UNREACHABLE, judge
from tests.attack.world import BRIDGE, CLOSED, CLOSED_V6, OWN, OWN_V6, SITE, World, answered
from tests.e2e.caller import Caller
from tests.e2e.server import ServerProcess

_SPELLINGS = (
    "169.254.169.254",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[::a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::a9fe:a9fe]",
    "[fe80::a9fe:a9fe%25out]",
    "2852039166",
    "0xa9fea9fe",
    "0xA9FEA9FE",
    "025177524776",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "169.0xfea9fe",
    "0000169.254.169.254",
    "169.254.169.254%00",
    "169.254.169.254%20",
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④".encode().decode("latin-1"),
    "169。254。169。254".encode().decode("latin-1"),
    "169.254.169.254:80@site.test",
    "site.test@169.254.169.254",
    "metadata.test",
    "metadata.test.",
    "METADATA.google.internal",
    "metadata-v6.test",
    "metadata-mapped.test",
    "metadata-nat64.test",
    "both.test",
    *CLOSED[1:],
)
_SOCKS = (
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "fd00:ec2::254",
    "64:ff9b::a9fe:a9fe",
    "::169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "metadata.test",
    "metadata-v6.test",
    "both.test",
    "169.254.169.254\0.site.test",
)
_NOWHERE = (*UNREACHABLE, "EADDRINUSE", "ENODEV", "EINVAL", "ENOTTY", "EPIPE")
"""What programs get that look for another way; gVisor has neither first data nor these controls."""

pytestmark = pytest.mark.usefixtures("beside")


@pytest.fixture
def anywhere(far_caller: Caller) -> Iterator[Attacker]:
    """A sandbox that may reach everybody."""
    made = Attacker(far_caller, far_caller.new_environment(sources=program_sources()))
    yield made
    made.leave()


@pytest.mark.case("N1")
def test_metadata(case: Case, world: World, anywhere: Attacker) -> None:
    control(case, world, anywhere)
    said = anywhere.talk(
        *(direct(f"GET http://{each}/", each, "/latest/meta-data/") for each in _SPELLINGS),
        *(tunnel(f"CONNECT {each}:80", f"{each}:80", inner="GET /latest/ HTTP/1.0\r\n\r\n") for each in _SPELLINGS),
        *(by_socks(f"SOCKS to {each!r}", each, 80, "GET /latest/ HTTP/1.0\r\n\r\n") for each in _SOCKS),
    )
    for tried, got in said.items():
        case.tried(tried, got, ok=is_refused(got))
    world.outside.pages["/leads-there"] = lambda _: answered(
        "", "Location: http://169.254.169.254/", status="302 Found"
    )
    got = anywhere.bash("curl -sSL -m 10 http://site.test/leads-there; curl -sSLp -m 10 http://site.test/leads-there")
    case.tried("a redirect to it, followed", got, ok=got.count("is not public") >= 2)
    flips = itertools.cycle(([SITE], [SITE], ["169.254.169.254"], ["169.254.169.254"]))  # asked for A and for AAAA
    world.names.names["flipping.test"] = lambda: next(flips)
    got = anywhere.bash(
        "for i in $(seq 12); do curl -s -m 5 -o /dev/null -w '%{http_code} ' http://flipping.test/; done"
    )
    case.tried(
        "a name that leads to it every other time, twelve times",
        got,
        ok=set(got.partition("\n")[0].split()) == {"200", "403"},
    )
    reached = world.outside.at((*CLOSED, *CLOSED_V6))
    case.tried("who came to any of these addresses", reached or "nobody", ok=not reached)


@pytest.mark.case("N2")
def test_other_routes(case: Case, world: World, anywhere: Attacker) -> None:
    judge(case, anywhere.run("routes", "N2"), also=_NOWHERE)
    seen = [f"{each.address}:{each.port}" for each in (*world.outside.visits, *world.host.visits)]
    case.tried("who came to anybody", seen or "nobody", ok=not seen)


@pytest.mark.case("N3")
def test_names(case: Case, world: World, anywhere: Attacker) -> None:
    judge(case, anywhere.run("routes", "N3"), also=(*UNREACHABLE, "ENETDOWN"))
    case.tried("what the server's name server was asked by all this", world.names.asked, ok=not world.names.asked)
    said = anywhere.talk(
        *(tunnel(f"CONNECT to port {port}", f"site.test:{port}", inner="") for port in (53, 853)),
        *(direct(f"HTTP to port {port}", f"site.test:{port}", "/") for port in (53, 853)),
        *(by_socks(f"SOCKS to port {port}", "site.test", port, "") for port in (53, 853)),
    )
    for tried, got in said.items():
        case.tried(tried, got, ok=is_refused(got))
    case.tried("who came to name servers", seen := world.outside.at([SITE]), ok=not seen)
    (got,) = anywhere.talk(direct("names over HTTPS", "site.test", "/dns-query?dns=AAABAAABAAAAAAAAA3d3dw")).values()
    case.differs("names over HTTP(S), where everybody may be reached", f"{got[:15]}: as any other request")


@pytest.mark.case("N3")
def test_tunnelling_by_names(case: Case, world: World, far_caller: Caller) -> None:
    listed = {"allowlist": [{"domain": "site.test"}, {"domain": "*.wild.test"}]}
    attacker = Attacker(far_caller, far_caller.new_environment(sources=program_sources(), network=listed))
    labels = [f"{index:03d}{'deadbeef' * 7}" for index in range(100)]
    said = attacker.talk(*(direct(f"{each} not listed", f"{each}.tunnel.test", "/") for each in labels))
    case.tried(
        "100 names that no rule is for", f"asked for: {world.names.asked}", ok=all(map(is_refused, said.values()))
    )
    case.tried("what the name server was asked by these", world.names.asked, ok=not world.names.asked)
    before = time.monotonic()
    more = [f"{index:03d}{'feedbeef' * 7}" for index in range(300)]
    attacker.talk(*(direct(each, f"{each}.wild.test", "/") for each in more))
    took_s = time.monotonic() - before
    kinds = sorted({kind for _, kind in world.names.asked})
    names = {name for name, _ in world.names.asked}
    case.tried("kinds of records that are asked for", kinds, ok=set(kinds) <= {"A", "AAAA"})
    told = f"{len(names)} of them reached the name server in {took_s:.0f} s"
    case.tried("300 names below an allowed wildcard at once", told, ok=len(names) <= 102 + took_s)
    case.differs("names below an allowed wildcard", "a rule for *.NAME trusts whoever answers for NAME, slowly")
    attacker.leave()


@pytest.mark.case("N11")
def test_the_server_and_its_machine(
    case: Case, world: World, far_server: ServerProcess, far_caller: Caller, anywhere: Attacker
) -> None:
    other = far_caller.new_environment()
    far_caller.create("```bash\npython3 -m http.server 8000 >/dev/null 2>&1 &\n```", other)
    ports = (far_server.port, 80, 2375, 3000, 3128, 5432, 8000)
    hosts = (
        "127.0.0.1",
        "127.1",
        "127.0.0.2",
        "localhost",
        "loop.test",
        "0.0.0.0",
        "0",
        "zero.test",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        OWN,
        f"[{OWN_V6}]",
        "self.test",
        "self-v6.test",
        BRIDGE,
        "bridge.test",
        "172.17.0.2",
        "172.17.0.3",
        "11.0.0.255",
        "255.255.255.255",
        "host.docker.internal",
        "inside.test",
    )
    said = anywhere.talk(
        *(direct(f"GET http://{host}:{port}/", f"{host}:{port}", "/healthz") for host in hosts for port in ports),
        *(tunnel(f"CONNECT {host}:{far_server.port}", f"{host}:{far_server.port}", inner="") for host in hosts),
        *(by_socks(f"SOCKS to {host} 2375", host.strip("[]"), 2375, "GET / HTTP/1.0\r\n\r\n") for host in hosts),
    )
    for tried, got in said.items():
        case.tried(tried, got, ok=is_refused(got))
    seen = [f"{each.address}:{each.port}" for each in world.host.visits]
    case.tried("who came to anything on the server's machine", seen or "nobody", ok=not seen)
    listening = anywhere.bash("cat /proc/net/tcp /proc/net/tcp6 | awk '$4==\"0A\" {print $2}' | sort -u")
    case.tried("ports that listen in the sandbox", listening, ok=set(listening.split()) == {"0100007F:0C38"})
    far_caller.delete_environment(other)


@pytest.mark.case("N12")
def test_crowds(case: Case, world: World, far_server: ServerProcess, far_caller: Caller, anywhere: Attacker) -> None:
    neighbour = Neighbour(far_caller, far_caller.new_environment())
    asking = "curl -s -m 20 -o /dev/null -w '%{http_code} %{time_total}\\n' http://site.test/"
    memory_bytes = resident_bytes(far_server.pid)
    for tried, arguments in (("slow requests", "slow 150 12"), ("10,000 connections", "many 10000 12")):
        running = far_caller.start(f"```bash\n{anywhere.command('crowds', arguments)}\n```", anywhere.environment_id)
        beside = Attacker(far_caller, neighbour.environment_id)
        with neighbour.watching(far_server.pid) as times:
            shown = beside.bash(f"for i in $(seq 40); do {asking}; sleep 0.1; done")
        ended = far_caller.wait(running, timeout_s=60)
        (got,) = re.findall(r'"got": "(.*)"', str(ended["steps"][-2].get("result", ended))) or [str(ended)[-300:]]
        is_bounded = tried != "slow requests" or got == "{'still open': 100, '503': 50}"
        case.tried(f"{tried}: what the attacker gets", got, ok=ended["status"] == "completed" and is_bounded)
        codes = [line.split()[0] for line in shown.splitlines()]
        slowest_s = max(float(line.split()[1]) for line in shown.splitlines())
        case.tried(
            f"{tried}: another sandbox's 40 requests meanwhile",
            f"{codes.count('200')} answered, the slowest after {slowest_s:.2f} s",
            ok=codes.count("200") == 40 and slowest_s < 3,
        )
        case.tried(
            f"{tried}: another sandbox's calls, p95",
            f"{p95(times.calls) * 1000:.0f} ms, quiet {neighbour.quiet_p95 * 1000:.0f} ms; {len(times.calls)} calls",
            ok=not times.faults and len(times.calls) > 5,
        )
        case.tried(f"{tried}: health, p95", f"{p95(times.health) * 1000:.0f} ms", ok=p95(times.health) < 0.5)
        grown = max(times.memory_bytes) - memory_bytes
        case.tried(f"{tried}: the server's memory grows by", f"{grown >> 20} MiB", ok=grown < 150 << 20)
    got = anywhere.bash(asking)
    case.tried("the attacker's own next request", got, ok=got.startswith("200"))
    far_caller.delete_environment(neighbour.environment_id)
