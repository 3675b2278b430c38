"""What pydantic-ai raises, as the `ModelError` that runs and clients know. Imports `errors` and pydantic-ai's
exceptions, so it is imported only when a model is asked.

| code | tried again | what it is |
|---|---|---|
| `model_auth` | no | the key is missing, wrong or may not use the model |
| `model_bad_request` | no | the provider refuses the request as it is, or does not know the model |
| `model_context_exceeded` | no | the conversation is longer than the model's context |
| `model_quota_exceeded` | no | the account has nothing left |
| `model_refused` | no | the provider's filter, or the model, refuses to answer |
| `model_rate_limited` | yes | too many requests; after the time that the provider names |
| `model_overloaded` | yes | the provider says that it is overloaded |
| `model_unavailable` | yes | it failed, or cannot be reached |
| `model_stream_broken` | yes | the answer broke off or cannot be read |
| `model_failed` | no | anything else |
"""

from __future__ import annotations

from typing import Any

import httpx2
from pydantic_ai import exceptions as given

from orchestrator.errors import ModelError

FOREIGN = (
    given.AgentRunError,
    given.UserError,
    NotImplementedError,
    httpx2.HTTPError,
    httpx2.StreamError,
    ValueError,
    AssertionError,
)
"""What a call of a model may raise. The last two: what a provider sent is not what its own library expects."""

_MESSAGE_CHARS = 600
_KINDS: tuple[tuple[type[Exception], str, bool, str], ...] = (
    (given.ModelAuthenticationError, "model_auth", False, "refuses the key"),
    (given.ModelContextWindowExceededError, "model_context_exceeded", False, "says that the conversation is too long"),
    (given.ModelNotFoundError, "model_bad_request", False, "does not know the model, or its address is wrong"),
    (given.ModelRequestRejectedError, "model_bad_request", False, "refuses the request"),
    (given.ModelQuotaExceededError, "model_quota_exceeded", False, "says that the account's quota is used up"),
    (given.ModelRateLimitError, "model_rate_limited", True, "gets too many requests"),
    (given.ModelOverloadedError, "model_overloaded", True, "is overloaded"),
    (given.ModelUnavailableError, "model_unavailable", True, "is not available"),
    (given.ModelServerError, "model_unavailable", True, "failed"),
    (given.ModelRequestTimeout, "model_unavailable", True, "did not answer in time"),
    (given.ModelConnectionError, "model_unavailable", True, "cannot be reached"),
    (given.ContentFilterError, "model_refused", False, "refuses to answer"),
    (given.ModelHTTPError, "model_failed", False, "failed"),
    (given.ModelAPIError, "model_stream_broken", True, "answered with what cannot be read"),
    (given.UnexpectedModelBehavior, "model_stream_broken", True, "answered with what cannot be read"),
    (given.UserError, "model_bad_request", False, "cannot be asked this"),
    (NotImplementedError, "model_bad_request", False, "cannot be asked this"),
    (httpx2.HTTPError, "model_unavailable", True, "cannot be reached"),
    (httpx2.StreamError, "model_stream_broken", True, "broke off"),
)
_UNREADABLE = ("model_stream_broken", True, "answered with what cannot be read")


def translated(error: Exception, provider: str, *, secret: str, has_begun: bool) -> ModelError:
    """The error in our words, without `secret`. `has_begun`: something of the answer had come."""
    code, retryable, what = next((rest for kind, *rest in _KINDS if isinstance(error, kind)), _UNREADABLE)
    if has_begun and code == "model_unavailable":
        code, what = "model_stream_broken", "broke off"
    asked_s = getattr(error, "retry_after", None)
    return ModelError(
        _readable(f"The model provider {provider!r} {what}", _said(error), secret),
        code=str(code),
        retryable=bool(retryable),
        retry_after_s=float(asked_s) if asked_s is not None and asked_s >= 0 else None,
    )


def _said(error: Exception) -> str:
    """The provider's own words, where there are any."""
    if isinstance(error, given.ModelAPIError):
        status = f"{error.status_code}: " if isinstance(error, given.ModelHTTPError) else ""
        return status + (_message(error.body) or ("" if status else str(error)))
    return str(error)


def _message(body: Any) -> str:
    """From the bodies that the three formats have: `{"error": {"message": …}}`, `{"message": …}`, text."""
    if isinstance(body, list) and body:
        return _message(body[0])
    if isinstance(body, dict):
        for name in ("error", "message", "detail"):
            if found := _message(body.get(name)):
                return found
        return ""
    return body if isinstance(body, str) else ""


def _readable(what: str, said: str, secret: str) -> str:
    text = " ".join(said.split())
    if secret:
        text = text.replace(secret, "[key]")
    if len(text) > _MESSAGE_CHARS:
        text = text[:_MESSAGE_CHARS] + "…"
    return f"{what}: {text}" if text else f"{what}."
