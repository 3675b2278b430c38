"""Reading from real servers through the judging dialer: case F6 of the attacks, and the tunnel that git uses."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from orchestrator.egress import passage
from orchestrator.egress.dialer import Dialer
from orchestrator.egress.http import HttpClient
from orchestrator.egress.tunnel import Tunnel, opened_tunnel
from orchestrator.errors import NetworkError
from orchestrator.policy.network import HostList, NetworkPolicy
from orchestrator.policy.urls import Url
from orchestrator.wire.environments import parse_environment
from tests.fakes.web_server import WebServer, answer, page, redirect

ANY = ("http", "https")
LOOPBACK = HostList.parse(["127.0.0.1"])


def policy(*rules: Any, exceptions: HostList = LOOPBACK) -> NetworkPolicy:
    spec = parse_environment({"type": "remote", "network": {"allowlist": list(rules)}})
    assert spec is not None
    return NetworkPolicy.of(spec.network, exceptions)


def client(policy: NetworkPolicy | None = None, ca: Path | None = None, **fields: Any) -> HttpClient:
    judged = policy or NetworkPolicy(None, LOOPBACK)
    return HttpClient(Dialer(judged, **fields), ssl.create_default_context(cafile=ca))


def get(client: HttpClient, url: str) -> bytes:
    with contextlib.closing(client), client.get(Url.parse(url, ANY)) as found:
        assert found.status == 200
        return found.read_all(1 << 20)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def code_of(error: pytest.ExceptionInfo[NetworkError]) -> str:
    return error.value.code


def test_a_page_is_read_and_its_connection_used_again(web: WebServer) -> None:
    sockets: list[object] = []

    @contextlib.contextmanager
    def watch(sock: socket.socket) -> Iterator[None]:
        sockets.append(sock)
        yield

    web.pages["/a"] = page(b"content")
    asking = HttpClient(Dialer(NetworkPolicy(None, LOOPBACK)), ssl.create_default_context(), watch)
    with contextlib.closing(asking):
        for _ in range(3):
            with asking.get(Url.parse(f"{web.url}/a?x=1", ANY)) as found:
                assert found.read_all(100) == b"content"
    assert len(set(map(id, sockets))) == 1
    assert web.requests[0][0] == "/a?x=1"


def test_loopback_is_refused_without_the_operators_exception(web: WebServer) -> None:
    with pytest.raises(NetworkError, match="not public") as caught:
        get(client(NetworkPolicy()), web.url)
    assert code_of(caught) == "network_refused"
    assert not web.requests


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://2130706433/",
        "//192.168.0.1/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
    ],
)
def test_f6_every_redirect_is_judged(web: WebServer, location: str) -> None:
    web.pages["/a"] = redirect(location)
    with pytest.raises(NetworkError) as caught:
        get(client(), f"{web.url}/a")
    assert code_of(caught) == "network_refused"
    assert "secret" not in caught.value.message


def test_f6_a_name_that_leads_inside_is_refused_whatever_else_it_has(web: WebServer) -> None:
    for addresses in (["169.254.169.254"], ["1.1.1.1", "10.0.0.1"], ["::ffff:10.0.0.1"]):
        with pytest.raises(NetworkError, match="not public") as caught:
            get(client(resolve=lambda _host, _port, found=addresses: found), f"http://rebound.example:{web.port}/")
        assert code_of(caught) == "network_refused"


def test_f6_a_name_is_resolved_once_and_the_judged_address_is_dialled(web: WebServer) -> None:
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    web.pages["/"] = page(b"content")
    assert get(client(resolve=resolve), f"http://rebound.example:{web.port}/") == b"content"
    assert asked == ["rebound.example"]
    assert web.requests[0][1]["host"] == f"rebound.example:{web.port}"


def test_redirects_have_a_limit(web: WebServer) -> None:
    for number in range(7):
        web.pages[f"/{number}"] = redirect(f"/{number + 1}")
    web.pages["/7"] = page(b"content")
    assert get(client(), f"{web.url}/2") == b"content"
    with pytest.raises(NetworkError, match="more than 5 redirects"):
        get(client(), f"{web.url}/1")


def test_n6_headers_go_to_the_host_whose_rule_has_them_and_nowhere_else(web: WebServer) -> None:
    web.pages["/a"] = redirect(f"http://other.example:{web.port}/b")
    web.pages["/b"] = page(b"content")
    rules = (
        {"domain": "first.example", "transform": {"Authorization": "Bearer first"}},
        {"domain": "other.example", "transform": {"X-Other": "other"}},
    )
    asking = client(policy(*rules), resolve=lambda _host, _port: ["127.0.0.1"])
    with (
        contextlib.closing(asking),
        asking.get(Url.parse(f"http://first.example:{web.port}/a", ANY), {"X-Own": "own"}) as found,
    ):
        assert found.status == 200
    (_, first), (_, second) = web.requests
    assert first["authorization"] == "Bearer first"
    assert first["x-own"] == "own"
    assert "x-other" not in first
    assert second["x-other"] == "other"
    assert "authorization" not in second
    assert "x-own" not in second


def test_hosts_outside_the_allowlist_are_refused_also_after_a_redirect(web: WebServer) -> None:
    web.pages["/a"] = redirect(f"http://other.example:{web.port}/b")
    asking = client(policy({"domain": "127.0.0.1"}), resolve=lambda _host, _port: ["127.0.0.1"])
    with pytest.raises(NetworkError, match=r"other\.example is not in the allowlist"):
        get(asking, f"{web.url}/a")


def test_tls_is_checked_and_never_left_by_a_redirect(tmp_path: Path, web: WebServer) -> None:
    web.pages["/plain"] = page(b"content")
    with WebServer(tmp_path) as server:
        server.pages["/a"] = page(b"content")
        server.pages["/down"] = redirect(f"{web.url}/plain")
        assert get(client(ca=server.ca), f"{server.url}/a") == b"content"
        with pytest.raises(NetworkError, match="certificate"):
            get(client(), f"{server.url}/a")
        with pytest.raises(NetworkError, match="redirects to where it may not") as caught:
            get(client(ca=server.ca), f"{server.url}/down")
        assert code_of(caught) == "network_refused"
    assert not web.requests


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"x" * 10)
    request.close_connection = True


def chunks_cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"ff\r\nabc")
    request.close_connection = True


def nonsense(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"\0\1\2\r\n\r\n")
    request.close_connection = True


@pytest.mark.parametrize("wrong", [cut, chunks_cut, nonsense])
def test_f6_wrong_lengths_are_errors(web: WebServer, wrong: Any) -> None:
    web.pages["/"] = wrong
    with pytest.raises(NetworkError) as caught:
        get(client(), web.url)
    assert code_of(caught) == "network_failed"


def test_f6_a_slow_answer_can_be_ended_from_outside(web: WebServer) -> None:
    is_read, is_over = threading.Event(), threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x")
        request.wfile.flush()
        is_over.wait(20)

    @contextlib.contextmanager
    def watch(sock: socket.socket) -> Iterator[None]:
        sockets.append(sock)
        yield

    def end() -> None:
        is_read.wait(20)
        socket.socket.shutdown(sockets[-1], socket.SHUT_RDWR)

    sockets: list[socket.socket] = []
    web.pages["/"] = slow
    asking = HttpClient(Dialer(NetworkPolicy(None, LOOPBACK)), ssl.create_default_context(), watch)
    ending = threading.Thread(target=end)
    ending.start()
    with contextlib.closing(asking), asking.get(Url.parse(web.url, ANY)) as found:
        assert found.read() == b"x"
        is_read.set()
        with pytest.raises(NetworkError):
            found.read()
    is_over.set()
    ending.join()


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match=f"127.0.0.1:{port} cannot be reached"):
        get(client(), f"http://127.0.0.1:{port}/")


# the tunnel


def ask(tunnel: Tunnel, lines: str) -> bytes:
    with socket.create_connection(("127.0.0.1", tunnel.port)) as connection:
        connection.sendall(lines.encode())
        answered = b""
        while piece := connection.recv(1000):
            answered += piece
        return answered


def through(tunnel: Tunnel, port: int) -> bytes:
    token = base64.b64encode(f"corral:{tunnel.password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", tunnel.port, timeout=20)
    with contextlib.closing(connection):
        connection.set_tunnel("127.0.0.1", port, {"Proxy-Authorization": f"Basic {token}"})
        connection.request("GET", "/")
        return connection.getresponse().read()


def test_the_tunnel_wants_its_password_and_knows_connect_alone(web: WebServer) -> None:
    web.pages["/"] = page(b"content")
    with opened_tunnel(Dialer(NetworkPolicy(None, LOOPBACK))) as tunnel:
        wanted = f"CONNECT 127.0.0.1:{web.port} HTTP/1.1\r\n"
        assert ask(tunnel, f"{wanted}\r\n").startswith(b"HTTP/1.1 407")
        assert ask(tunnel, f"{wanted}Proxy-Authorization: Basic Y29ycmFsOng=\r\n\r\n").startswith(b"HTTP/1.1 407")
        assert through(tunnel, web.port) == b"content"
        token = base64.b64encode(f"corral:{tunnel.password}".encode()).decode()
        plain = f"GET {web.url}/ HTTP/1.1\r\nProxy-Authorization: Basic {token}\r\n\r\n"
        assert ask(tunnel, plain).startswith(b"HTTP/1.1 405")


def test_the_tunnel_judges(web: WebServer) -> None:
    with opened_tunnel(Dialer(policy({"domain": "example.com"}))) as tunnel:
        with pytest.raises(OSError, match="403"):
            through(tunnel, web.port)
        assert tunnel.refusals == ["127.0.0.1 is not in the allowlist of 'network'"]
    assert not web.requests


def test_the_tunnel_ends_what_is_in_it(web: WebServer) -> None:
    is_over, is_asked = threading.Event(), threading.Event()

    def slow(_request: BaseHTTPRequestHandler) -> None:
        is_asked.set()
        is_over.wait(20)

    web.pages["/"] = slow
    ends: list[Exception] = []

    def ask_slowly(tunnel: Tunnel) -> None:
        try:
            through(tunnel, web.port)
        except (OSError, http.client.HTTPException) as error:
            ends.append(error)

    with opened_tunnel(Dialer(NetworkPolicy(None, LOOPBACK))) as tunnel:
        asking = threading.Thread(target=ask_slowly, args=(tunnel,))
        asking.start()
        assert is_asked.wait(20)
    asking.join(10)
    is_over.set()
    assert len(ends) == 1
    assert not isinstance(ends[0], TimeoutError)


def test_a_tunnel_may_end_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between a connection and the next."""
    is_ending = threading.Event()

    class Slow(threading.Thread):
        """Begins when the tunnel ends."""

        def start(self) -> None:
            if self.name == "tunnel" and threading.current_thread().name == "tunnel":
                assert is_ending.wait(10)
            super().start()

    broken: list[object] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    monkeypatch.setattr("orchestrator.egress.tunnel.threading.Thread", Slow)
    with opened_tunnel(Dialer(NetworkPolicy(None, LOOPBACK))) as tunnel:
        socket.create_connection(("127.0.0.1", tunnel.port)).close()
        threading.Timer(0.2, is_ending.set).start()
    assert not broken


def test_the_passage_joins_a_program_to_a_host(web: WebServer) -> None:
    web.pages["/"] = page(b"content", Connection="close")
    with opened_tunnel(Dialer(NetworkPolicy(None, LOOPBACK))) as tunnel:
        joined = subprocess.run(
            [sys.executable, "-I", passage.__file__, "127.0.0.1", str(web.port)],
            input=b"GET / HTTP/1.0\r\n\r\n",
            env={"CORRAL_TUNNEL": f"{tunnel.port}:{tunnel.password}"},
            capture_output=True,
            check=False,
        )
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout.endswith(b"content")


def test_an_answer_has_a_limit(web: WebServer) -> None:
    web.fallback = lambda request: answer(request, b"x" * 2_000_000)
    with pytest.raises(NetworkError, match="more than 1048576 bytes"):
        get(client(), web.url)
