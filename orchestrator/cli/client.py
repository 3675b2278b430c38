"""The HTTP client of the command line: the server's address, the key, and errors as people need them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from orchestrator.errors import CorralError

if TYPE_CHECKING:
    import httpx2

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server. Else CORRAL_URL, else this machine's.")
]
KeyOption = Annotated[str | None, typer.Option("--key", metavar="KEY", help="An API key. Else CORRAL_API_KEY.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_ANSWER_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 5.0


class RequestFailed(CorralError):
    """The server did not answer, or refused. The message says which and what to do."""

    code = "request_failed"


class StreamBroken(CorralError):
    """A stream ended before its end."""

    code = "stream_broken"


class Api:
    """A server's API. Use as a context manager."""

    def __init__(self, url: str, key: str | None, transport: httpx2.BaseTransport | None = None) -> None:
        import httpx2

        self.url = url
        self.headers = {"x-goog-api-key": key} if key else {}
        self._http = httpx2.Client(
            base_url=url,
            headers=self.headers,
            timeout=httpx2.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            transport=transport,
            trust_env=self.uses_proxies(url),
        )

    @staticmethod
    def uses_proxies(url: str) -> bool:
        """Whether the proxies that the environment names count: not for a server on this machine."""
        host = urlsplit(url).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of the answer, None if it has no body. Raises `RequestFailed`."""
        import httpx2

        with self._translated():
            answer = self._http.request(method, path, **arguments)
            self._check(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise RequestFailed(f"{self.url} does not answer like a Corral server: {error}") from error
        except httpx2.HTTPError as error:
            raise RequestFailed(f"{self.url}: {error}") from error

    def lines(self, method: str, path: str, **arguments: Any) -> Iterator[str]:
        """The lines of a streamed answer as they come, without a limit of time.

        Raises:
            RequestFailed: before the first line.
            StreamBroken: the connection was lost after it.
        """
        import httpx2

        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        with self._translated(), self._http.stream(method, path, timeout=timeout, **arguments) as answer:
            if answer.is_error:
                answer.read()
            self._check(answer)
            try:
                yield from answer.iter_lines()
            except httpx2.TransportError as error:
                raise StreamBroken(f"the connection to {self.url} was lost: {error!r}") from error

    @contextmanager
    def answer(self, method: str, path: str, **arguments: Any) -> Iterator[httpx2.Response]:
        """An answer that has begun, whose bytes are taken as they come, without a limit of time.

        Raises:
            RequestFailed: it was refused. StreamBroken: the connection was lost within.
        """
        import httpx2

        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        with self._translated(), self._http.stream(method, path, timeout=timeout, **arguments) as answer:
            if answer.is_error:
                answer.read()
            self._check(answer)
            try:
                yield answer
            except httpx2.TransportError as error:
                raise StreamBroken(f"the connection to {self.url} was lost: {error!r}") from error

    def events(self, method: str, path: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """The JSON events of an SSE answer, up to the end marker. Raises as `lines` does."""
        data: list[str] = []
        for line in self.lines(method, path, **arguments):
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                text, data = "\n".join(data), []
                if text == "[DONE]":
                    return
                event = json.loads(text)
                if isinstance(event, dict):
                    yield event

    def _check(self, answer: httpx2.Response) -> None:
        if not answer.is_success:
            raise refused(self.url, answer.status_code, answer.reason_phrase, answer.content)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise RequestFailed(
                f"no server answers at {self.url}; start one with `corral serve`, or name another with --url"
            ) from error
        except httpx2.TimeoutException as error:
            raise RequestFailed(f"{self.url} did not answer within {_ANSWER_TIMEOUT_S:.0f} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RequestFailed(f"{self.url}: {error}") from error


def refused(url: str, status: int, reason: str, body: bytes) -> RequestFailed:
    """The error of an answer that is none: what the server says, or its status."""
    try:
        error = json.loads(body)["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        return RequestFailed(f"{url} answered {status} {reason}")
    hint = " (give one with --key or CORRAL_API_KEY)" if status == 401 else ""
    return RequestFailed(f"{message}{hint} [{status} {code}]")


def connect(url: str | None, key: str | None) -> Api:
    """The API of the server that options and settings name. Raises `ConfigError`."""
    from orchestrator.config import Settings

    settings = Settings.load(url=url, api_key=key)
    secret = settings.api_key.get_secret_value() if settings.api_key is not None else None
    return Api(settings.server_url, secret, transport())


def transport() -> httpx2.BaseTransport | None:
    """None for real connections; tests put a transport of their own here."""
    return None


def path(template: str, **values: str) -> str:
    """A path with ids filled in, each encoded as one segment."""
    encoded: Mapping[str, str] = {name: quote(value, safe="") for name, value in values.items()}
    return template.format(**encoded)
