"""An OAuth 2.0 token server on loopback, over TLS: it exchanges refresh tokens as RFC 6749 says, and rotates them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from tests.fakes.web_server import Page, WebServer, answer

CLIENT_ID = "corral-test"
CLIENT_SECRET = "canary-client-secret"


class TokenServer:
    """Knows one client. A context manager.

    A refresh token is good once if `rotates`, else always; access tokens are `canary-access-1`, `-2` and so on.
    """

    def __init__(self, certificates: Path, *, rotates: bool = True, expires_in: Any = 3600) -> None:
        self._web = WebServer(certificates)
        self._web.pages["/token"] = self._exchange
        self._lock = threading.Lock()
        self.rotates = rotates
        self.expires_in = expires_in
        self.good = {"canary-refresh-0"}
        self.forms: list[dict[str, str]] = []
        """What was sent to it."""
        self.fault: Page | None = None
        """What answers in its place."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_asked = threading.Event()

    @property
    def url(self) -> str:
        return f"{self._web.url}/token"

    @property
    def ca(self) -> Path:
        assert self._web.ca is not None
        return self._web.ca

    @property
    def config(self) -> dict[str, Any]:
        """The body of a create call that it will exchange."""
        return {
            "type": "oauth2",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "refresh_token": "canary-refresh-0",
            "token_url": self.url,
        }

    def __enter__(self) -> Self:
        self._web.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.may_answer.set()
        self._web.__exit__(*raised)

    def _exchange(self, request: BaseHTTPRequestHandler) -> None:
        sent = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        form = {name: values[0] for name, values in sent.items()}
        self.was_asked.set()
        assert self.may_answer.wait(10)
        with self._lock:
            self.forms.append(form)
            if self.fault is not None:
                self.fault(request)
                return
            status, body = self._answer(request, form)
        answer(request, json.dumps(body).encode(), status=status, Content_Type="application/json")

    def _answer(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if request.headers["Content-Type"] != "application/x-www-form-urlencoded":
            return 400, {"error": "invalid_request"}
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") != "refresh_token":
            return 400, {"error": "unsupported_grant_type"}
        if form.get("refresh_token") not in self.good:
            return 400, {"error": "invalid_grant", "error_description": f"{form.get('refresh_token')} is not good"}
        if "wrong" in form.get("scope", ""):
            return 400, {"error": "invalid_scope"}
        number = len(self.forms)
        body: dict[str, Any] = {"access_token": f"canary-access-{number}", "token_type": "bearer"}
        if self.expires_in is not None:
            body["expires_in"] = self.expires_in
        if self.rotates:
            body["refresh_token"] = f"canary-refresh-{number}"
            self.good = {body["refresh_token"]}
        return 200, body


def saying(body: Any, status: int = 200) -> Page:
    """Answers that in place of a token server."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: answer(request, content, status=status)
