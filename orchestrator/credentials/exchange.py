"""Exchanging a refresh token for an access token (RFC 6749, section 6), under the rules of the way out.

Imports `egress`, `policy`, `wire` and `errors`. What a token server says is never repeated but for its error code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from orchestrator.egress.posting import Poster
from orchestrator.errors import CorralError, NetworkError
from orchestrator.policy.credentials import token_url
from orchestrator.wire.credentials import OAuth2
from orchestrator.wire.network import is_header

_TIMEOUT_S = 20.0
_ANSWER_BYTES = 256 << 10
_TOKEN_CHARS = 65_536
_USUAL_LIFETIME_S = 3600.0
"""Of a token whose server does not say."""
_LONGEST_LIFETIME_S = 30 * 24 * 3600.0
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
_FIELDS = {
    "invalid_grant": "refresh_token",
    "invalid_client": "client_secret",
    "unauthorized_client": "client_id",
    "invalid_scope": "scopes",
}
"""Which field of the credential an error code speaks of."""


class ExchangeFailed(CorralError):
    """No token was given. `field` is what the caller may have to change."""

    code = "credential_failed"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token server gave."""

    access_token: str = field(repr=False)
    lifetime_s: float
    refresh_token: str | None = field(default=None, repr=False)
    """In place of the one that was used, which may not be good any more."""


class TokenExchange:
    """Asks token servers."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    async def exchange(self, credential: OAuth2) -> Grant:
        """A new token. Whether it may be repeated is for the token server: it may have replaced the refresh token.

        Raises:
            ExchangeFailed: the server cannot be reached, may not be, or refuses.
        """
        url = token_url(credential)
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credential.refresh_token,
            "client_id": credential.client_id,
            "client_secret": credential.client_secret,
        }
        if credential.scopes:
            form["scope"] = " ".join(credential.scopes)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        try:
            answer = await self._poster.post(
                None,
                credential.token_url,
                headers,
                urlencode(form).encode(),
                timeout_s=_TIMEOUT_S,
                limit_bytes=_ANSWER_BYTES,
            )
        except NetworkError as error:
            raise ExchangeFailed(error.message, field="token_url") from None
        said = _object(answer.body)
        if answer.status != 200:
            code = _error_code(said)
            reason = f" ({code})" if code else ""
            default = "client_secret" if answer.status == 401 else "token_url"
            raise ExchangeFailed(
                f"the token server {url.shown} answers {answer.status}{reason}", field=_FIELDS.get(code, default)
            )
        try:
            return _grant(said)
        except ValueError as error:
            raise ExchangeFailed(
                f"the token server {url.shown} does not answer as one: {error}", field="token_url"
            ) from None


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _error_code(said: Mapping[str, Any]) -> str:
    code = said.get("error")
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""


def _grant(said: Mapping[str, Any]) -> Grant:
    """Raises `ValueError`, which repeats nothing."""
    if code := _error_code(said):  # some answer 200 all the same
        raise ValueError(code)
    token = said.get("access_token")
    if not isinstance(token, str) or not 0 < len(token) <= _TOKEN_CHARS:
        raise ValueError("it has no 'access_token'")
    if not is_header("x", token) or token != token.strip():
        raise ValueError("its 'access_token' cannot be sent in a header")
    kind = said.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("its 'token_type' is not 'Bearer'")
    renewed = said.get("refresh_token")
    if renewed is not None and not (isinstance(renewed, str) and 0 < len(renewed) <= _TOKEN_CHARS):
        raise ValueError("its 'refresh_token' is none")
    return Grant(token, _lifetime_s(said.get("expires_in")), renewed)


def _lifetime_s(said: Any) -> float:
    """Some servers write the number as text."""
    try:
        lifetime_s = _USUAL_LIFETIME_S if said is None else float(said)
    except (TypeError, ValueError):
        raise ValueError("its 'expires_in' is no number") from None
    if not lifetime_s > 0:  # nor is it one that compares with nothing
        raise ValueError("its 'expires_in' is not positive")
    return min(lifetime_s, _LONGEST_LIFETIME_S)
