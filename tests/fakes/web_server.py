"""A web server on loopback that answers as a test says: over HTTP or TLS, slowly, wrongly, with redirects."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.fakes.far_engine import make_certificates

Page = Callable[[BaseHTTPRequestHandler], None]


class WebServer:
    """`pages` maps paths (without query) to what answers. A context manager."""

    def __init__(
        self, certificates: Path | None = None, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None
    ) -> None:
        """With a folder it speaks TLS and `ca` is who signed its certificate; or with certificates that `tls` has.
        `host` is an address of loopback.
        """
        self.pages: dict[str, Page] = {}
        self.fallback: Page = lambda request: answer(request, b"not here", status=404)
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path with query, and headers with names in lower case."""
        self.bodies: list[bytes] = []
        """What `taking` has taken."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                server.pages.get(self.path.partition("?")[0], server.fallback)(self)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Quiet((host, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.ca: Path | None = None
        scheme = "http"
        if certificates is not None:
            self.ca = make_certificates(certificates).ca
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
            tls = context
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        self.url = f"{scheme}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def taking(self, content: bytes) -> Page:
        """A page that keeps what it is sent in `bodies`."""

        def take(request: BaseHTTPRequestHandler) -> None:
            if length := int(request.headers.get("Content-Length", "0")):
                self.bodies.append(request.rfile.read(length))
            answer(request, content)

        return take

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave are part of the tests


def answer(request: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """A whole answer; headers with `_` for `-`."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def page(body: bytes, **headers: str) -> Page:
    """Answers that."""
    return lambda request: answer(request, body, status=200, **headers)


def redirect(location: str, status: int = 302) -> Page:
    """Leads there."""
    return lambda request: answer(request, b"", status=status, Location=location)
