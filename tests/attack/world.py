"""A world of its own for one server: two network namespaces, the server's machine and everything else there is.

Outside are sites, a cloud's metadata services and a private network, with the addresses that they have in real life, so
that a server with default settings can be attacked; all of it is taken away at the end. Whoever talks to the server
does so `beside` it. Needs root and the command `ip`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Self

from tests.fakes.name_server import Addresses, NameServer

_NEW_NETWORK = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

OWN = "11.0.0.2"
OWN_V6 = "2a0f:ffff::2"
"""Addresses of the server's machine, public ones."""
BRIDGE = "172.17.0.1"
SITE, OTHER, SHARED, WILD = "11.0.0.10", "11.0.0.11", "11.0.0.12", "11.0.0.13"
SITE_V6 = "2a0f:ffff::10"
METADATA = "169.254.169.254"
CLOSED = (
    METADATA,
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "10.1.2.3",
    "192.168.1.1",
    "172.16.5.5",
)
CLOSED_V6 = ("fd00:ec2::254", "fd20:ce::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1")
_OUTSIDE_PORTS = (22, 53, 80, 443, 853, 2375, 5432, 8080, 8443)
NAMES: dict[str, Addresses] = {
    "site.test": [SITE],
    "six.test": [SITE_V6],
    "other.test": [OTHER],
    "one.shared.test": [SHARED],
    "two.shared.test": [SHARED],
    "read.shared.test": [SHARED],
    "*.wild.test": [WILD],
    "wild.test": [WILD],
    "metadata.test": [METADATA],
    "metadata.google.internal": [METADATA],
    "metadata-v6.test": ["fd00:ec2::254"],
    "metadata-mapped.test": ["::ffff:169.254.169.254"],
    "metadata-nat64.test": ["64:ff9b::a9fe:a9fe"],
    "both.test": [SITE, METADATA],
    "self.test": [OWN],
    "self-v6.test": [OWN_V6],
    "loop.test": ["127.0.0.1"],
    "zero.test": ["0.0.0.0"],
    "inside.test": ["10.1.2.3"],
    "bridge.test": [BRIDGE],
}


class WorldError(Exception):
    """This machine cannot have one. The message says why."""


@dataclass(slots=True)
class Request:
    """That a server outside read."""

    head: str
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(" ", 1)[0]

    @property
    def target(self) -> str:
        return self.head.split("\r\n", 1)[0].split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case."""
        lines = [line.partition(":") for line in self.head.split("\r\n")[1:] if line]
        return [(name.lower(), value.strip()) for name, _, value in lines]

    def header(self, name: str) -> str:
        """All its values, with `|` between; empty: it is not there."""
        return "|".join(value for each, value in self.headers if each == name)


@dataclass(slots=True)
class Visit:
    """A connection that somebody made."""

    address: str
    """At which."""
    port: int
    tls_name: str | None = None
    """That was asked for in TLS; None: none, or no TLS."""
    data: bytearray = field(default_factory=bytearray)
    """All that came, within TLS if that was spoken."""
    requests: list[Request] = field(default_factory=list)


Answering = Callable[[Request], bytes]


def answered(body: str = "content", *lines: str, status: str = "200 OK") -> bytes:
    """A whole answer with these header lines."""
    head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body.encode())}"))
    return f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode("latin-1")


class Station:
    """Servers at ports of one namespace: they keep who came and what was sent, and answer as `pages` says.

    At 443 and 8443 they speak TLS with whoever does, and plain HTTP with others. A context manager.
    """

    def __init__(self, sockets: Iterable[socket.socket], certificate: Callable[[str], ssl.SSLContext]) -> None:
        """`sockets` listen; `certificate` gives what a name is served with."""
        self.visits: list[Visit] = []
        self.pages: dict[str, Answering] = {}
        """By path."""
        self.misnamed: dict[str, str] = {}
        """Hosts that show another one's certificate."""
        self._certificate = certificate
        self._sockets = list(sockets)

    def __enter__(self) -> Self:
        for each in self._sockets:
            threading.Thread(target=self._accept, args=(each,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def forget(self) -> None:
        """Visits, pages and whose certificates were shown."""
        self.visits.clear()
        self.pages.clear()
        self.misnamed.clear()

    def requests(self, *addresses: str) -> list[Request]:
        """All that came, to one of these addresses if any are named."""
        return [each for visit in list(self.visits) if visit.address in (addresses or (visit.address,))
                for each in visit.requests]  # fmt: skip

    def at(self, addresses: Iterable[str]) -> list[str]:
        """Who of these was visited, each with its port."""
        wanted = set(addresses)
        return [f"{visit.address}:{visit.port}" for visit in list(self.visits) if visit.address in wanted]

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._visited, args=(connection,), daemon=True).start()

    def _visited(self, connection: socket.socket) -> None:
        address, port = connection.getsockname()[:2]
        visit = Visit(_plain(address), port)
        self.visits.append(visit)
        try:
            connection.settimeout(60)
            if port in (443, 8443) and connection.recv(1, socket.MSG_PEEK) == b"\x16":
                connection = self._with_tls(connection, visit)
            self._serve(connection, visit)
        except (OSError, ValueError):
            pass  # who attacks does not say goodbye
        finally:
            connection.close()

    def _serve(self, connection: socket.socket, visit: Visit) -> None:
        while (request := self._request(connection, visit)) is not None:
            visit.requests.append(request)
            page = self.pages.get(request.target.partition("?")[0], lambda _: answered())
            reply = page(request)
            connection.sendall(reply)
            if reply.startswith(b"HTTP/1.1 101"):
                while piece := connection.recv(65536):
                    visit.data += piece
                    connection.sendall(piece)
                return

    def _with_tls(self, connection: socket.socket, visit: Visit) -> ssl.SSLSocket:
        def named(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            visit.tls_name = name
            if name is not None:
                tls.context = self._certificate(self.misnamed.get(name, name))

        context = self._certificate("site.test")
        context.sni_callback = named
        return context.wrap_socket(connection, server_side=True)

    def _request(self, connection: socket.socket, visit: Visit) -> Request | None:
        """The next, read as a careless server would: what says `chunked` is chunked, else the length counts."""
        data = b""

        def more() -> bytes:
            piece = connection.recv(65536)
            visit.data += piece
            return piece

        while b"\r\n\r\n" not in data:
            if not (piece := more()):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length:[ \t]*(\d+)", head)
        if re.search(rb"(?i)\r\ntransfer-encoding:[^\r]*chunked", head):
            while not body.endswith(b"0\r\n\r\n"):
                if not (piece := more()):
                    return None
                body += piece
        elif length:
            while len(body) < int(length[1]):
                if not (piece := more()):
                    return None
                body += piece
        return Request(head.decode("latin-1"), body)


class World:
    """Use as a context manager. Raises `WorldError` at its begin if this machine cannot have one."""

    def __init__(self, certificate: Callable[[str], ssl.SSLContext]) -> None:
        """`certificate` gives what servers outside show who asks for a name."""
        self._certificate = certificate
        self._server, self._outside = f"corral-server-{os.getpid()}", f"corral-world-{os.getpid()}"
        self._stack = contextlib.ExitStack()
        self.names: NameServer
        self.outside: Station
        """All servers there are but those of the server's machine."""
        self.host: Station
        """What listens on the server's machine, at all its addresses: an engine's port, a database, a web server."""

    def __enter__(self) -> World:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise WorldError("network namespaces need root and the command ip")
        with contextlib.ExitStack() as stack:
            for name in (self._server, self._outside):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
            self._connect()
            with self.beside():
                asked = [_datagrams(address) for address in _name_servers()]
                host = [_listening(port) for port in (80, 2375, 3000, 5432, 8000)]
            with entered(self._outside):
                outside = [_listening(port) for port in _OUTSIDE_PORTS]
            self.names = stack.enter_context(NameServer(asked, dict(NAMES)))
            self.host = stack.enter_context(Station(host, self._certificate))
            self.outside = stack.enter_context(Station(outside, self._certificate))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def beside(self) -> Generator[None]:
        """What this thread connects, starts and listens at meanwhile is on the server's machine."""
        with entered(self._server):
            yield

    def forget(self) -> None:
        """Who visited whom, and who asked for what; pages and names are again those of the beginning."""
        self.outside.forget()
        self.host.forget()
        self.names.asked.clear()
        self.names.names = dict(NAMES)

    def _connect(self) -> None:
        _ip("link", "add", "out", "netns", self._server, "type", "veth", "peer", "in", "netns", self._outside)
        for name, link, addresses in (
            (self._server, "out", (f"{OWN}/24", f"{OWN_V6}/64")),
            (
                self._outside,
                "in",
                ("11.0.0.1/24", "2a0f:ffff::1/64", SITE, OTHER, SHARED, WILD, SITE_V6, *CLOSED, *CLOSED_V6),
            ),
            (self._server, "lo", (BRIDGE, *(each for each in _name_servers() if not each.startswith("127.")))),
        ):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", link, "up")
            for each in addresses:
                _ip("-n", name, "addr", "add", each, "dev", link, *(("nodad",) if ":" in each else ()))
        _ip("-n", self._server, "route", "add", "default", "via", "11.0.0.1")
        _ip("-n", self._server, "-6", "route", "add", "default", "via", "2a0f:ffff::1")


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, is in a network namespace meanwhile."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(inside)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)
        os.close(inside)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WorldError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _name_servers() -> list[str]:
    """Those that this machine's resolver asks: within the namespace they are ours."""
    text = Path("/etc/resolv.conf").read_text(encoding="utf-8")
    return re.findall(r"(?m)^nameserver[ \t]+([0-9.]+|[0-9a-f:]+)\s*$", text) or ["127.0.0.1"]


def _datagrams(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 53))
    return made


def _listening(port: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)


def _plain(address: str) -> str:
    mapped = IPv6Address(address).ipv4_mapped if ":" in address else None
    return str(mapped or address)
