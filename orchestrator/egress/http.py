"""Asking HTTP servers through a `Dialer`. Blocking; imports `dialer` and `policy`.

Every redirect is judged as if it had been asked for, and gets the headers of its own host's rule: none goes elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.egress.addresses import refused
from orchestrator.egress.dialer import Dialer
from orchestrator.errors import NetworkError
from orchestrator.policy.network import Refusal, address_of, without
from orchestrator.policy.urls import Url, UrlProblem

REDIRECT_LIMIT = 5
_SILENCE_TIMEOUT_S = 30.0
"""So long a server may say nothing."""
_PIECE_BYTES = 256 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_AGENT = "corral"

Watch = Callable[[socket.socket], AbstractContextManager[None]]
"""Told of every connection for as long as it is used, so that it can be ended from outside."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers. `read` gives some bytes of the body, none at its end; raises `NetworkError`."""

    url: Url
    """Where it came from after redirects."""
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    _response: http.client.HTTPResponse

    def read(self) -> bytes:
        with _faults(self.url):
            piece = self._response.read1(_PIECE_BYTES)
            if not piece:
                if self._response.length:
                    raise NetworkError(f"{self.url.shown} broke off {self._response.length} bytes before its end")
                self._response.close()
            return piece

    def read_all(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `NetworkError` if it is longer."""
        body = bytearray()
        while piece := self.read():
            body += piece
            if len(body) > limit_bytes:
                raise NetworkError(f"{self.url.shown} answered more than {limit_bytes} bytes")
        return bytes(body)


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection. Its socket twice: the library lets go of its own while an answer is still being read."""

    connection: http.client.HTTPConnection
    sock: socket.socket

    def close(self) -> None:
        self.connection.close()
        self.sock.close()


class HttpClient:
    """Asks servers. One thread at a time; close it."""

    def __init__(self, dialer: Dialer, tls: ssl.SSLContext, watch: Watch | None = None) -> None:
        self._dialer = dialer
        self._tls = tls
        self._watch: Watch = watch or (lambda _connection: contextlib.nullcontext())
        self._idle: dict[str, _Line] = {}

    def close(self) -> None:
        for line in self._idle.values():
            line.close()
        self._idle.clear()

    @contextlib.contextmanager
    def get(
        self, url: Url, headers: Mapping[str, str] | None = None, *, redirects: int = REDIRECT_LIMIT
    ) -> Generator[Answer, None, None]:
        """The answer, whatever its status; redirects are followed, `headers` go to the first server only.

        Raises:
            NetworkError: `network_refused` if policy does not allow it, be it after a redirect.
        """
        own = headers or {}
        for _ in range(redirects + 1):
            with self._ask(url, own) as answer:
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None or redirects == 0:
                    yield answer
                    return
            try:
                following = url.joined(location)
            except UrlProblem as error:
                raise NetworkError(
                    f"{url.shown} redirects to where it may not: {error}", code="network_refused"
                ) from None
            if following.origin != url.origin:
                own = {}
            url = following
        raise NetworkError(f"more than {redirects} redirects, at last to {url.shown}")

    @contextlib.contextmanager
    def post(self, url: Url, headers: Mapping[str, str], body: bytes) -> Generator[Answer, None, None]:
        """The answer, whatever its status; sent once, and no redirect is followed. What the host's rule sets replaces
        what is in `headers`.

        Raises:
            NetworkError: as `get`. Whether the server got it is unknown unless the code is `network_refused`.
        """
        granted = self._granted("POST", url)
        with _faults(url):
            line = self._connect(url)
            sent = {**without(headers, granted), **granted, "Content-Length": str(len(body))}
            response = self._first_exchange(line, url, sent, body)
        with contextlib.closing(line), contextlib.closing(response), self._watch(line.sock):
            yield _answer(url, response)

    def _granted(self, method: str, url: Url) -> Mapping[str, str]:
        """What the host's rules add to such a request. Raises `NetworkError`: they do not let it through."""
        allowed = self._dialer.judge(url.host, url.port)
        given = allowed.judge_request(method, url.path)
        if isinstance(given, Refusal):
            raise refused(given)
        if url.scheme == "http" and any(rule.is_secret and rule.admits(method, url.path) for rule in allowed.rules):
            self._check_clear(url)
        return given

    def _check_clear(self, url: Url) -> None:
        """A credential goes over a connection that anybody may read only where the operator knows the way."""
        address, exceptions = address_of(url.host), self._dialer.policy.exceptions
        known = exceptions.names(url.host, url.port)
        if not known and (address is None or not exceptions.holds(url.host, address, url.port)):
            reason = f"credentials are not sent over plain http:// to {url.host}; use https://"
            raise NetworkError(reason, code="network_refused")

    @contextlib.contextmanager
    def _ask(self, url: Url, own: Mapping[str, str]) -> Generator[Answer, None, None]:
        line, response = self._request(url, {**without(self._granted("GET", url), own), **own})
        try:
            with self._watch(line.sock):
                yield _answer(url, response)
        finally:
            # Only one whose answer was read to its end can be asked again.
            if response.isclosed() and line.connection.sock is not None:
                self._idle[url.origin] = line
            else:
                response.close()
                line.close()

    def _request(self, url: Url, headers: Mapping[str, str]) -> tuple[_Line, http.client.HTTPResponse]:
        if (idle := self._idle.pop(url.origin, None)) is not None:
            try:
                return idle, self._exchange(idle, url, headers)
            except (OSError, http.client.HTTPException):
                idle.close()  # it has been closed meanwhile, which shows only now
        with _faults(url):
            line = self._connect(url)
            return line, self._first_exchange(line, url, headers)

    def _first_exchange(
        self, line: _Line, url: Url, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Over a connection that was just made, and is closed if that fails."""
        try:
            return self._exchange(line, url, headers, body)
        except BaseException:
            line.close()
            raise

    def _connect(self, url: Url) -> _Line:
        sock = self._dialer.dial(url.host, url.port, is_read=True)
        try:
            sock.settimeout(_SILENCE_TIMEOUT_S)
            if url.scheme == "https":
                sock = self._tls.wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False)
                with self._watch(sock):
                    sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPConnection(url.host, url.port)
        connection.sock = sock
        return _Line(connection, sock)

    def _exchange(
        self, line: _Line, url: Url, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        connection = line.connection
        with self._watch(line.sock):
            method = "GET" if body is None else "POST"
            connection.putrequest(method, url.target, skip_host=True, skip_accept_encoding=True)
            usual = {"Host": url.authority, "User-Agent": _AGENT, "Accept": "*/*"}
            for name, value in {**usual, **headers}.items():
                connection.putheader(name, value.encode("latin-1"))
            connection.putheader("Accept-Encoding", "identity")
            connection.endheaders(body)
            return connection.getresponse()


def _answer(url: Url, response: http.client.HTTPResponse) -> Answer:
    return Answer(url, response.status, {name.lower(): value for name, value in response.headers.items()}, response)


@functools.lru_cache(maxsize=4)
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """For clients: who trusts whom this machine trusts, and beside them the authorities of `ca_file`."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def cut(connection: socket.socket) -> None:
    """Ends a connection from another thread than the one that uses it, which learns of it. Never fails."""
    with contextlib.suppress(OSError):
        # Not the method of TLS sockets, which would take their state away while another thread reads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


@contextlib.contextmanager
def _faults(url: Url) -> Generator[None, None, None]:
    try:
        yield
    except NetworkError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise NetworkError(f"{url.origin}: its certificate is not good: {error.verify_message}") from error
    except TimeoutError as error:
        raise NetworkError(f"{url.origin} does not answer in time") from error
    except http.client.IncompleteRead as error:
        raise NetworkError(f"{url.shown} broke off before its end") from error
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(f"{url.origin} does not answer as a web server does: {type(error).__name__}") from error
