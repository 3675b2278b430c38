"""pydantic-ai's provider and models of an endpoint. Imports pydantic-ai and the provider's library, which takes
seconds: imported and called in a thread, when the first model is asked.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic_ai._http import create_async_httpx2_client
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class

from orchestrator.errors import ModelError
from orchestrator.models.vendors import OPENAI_URL, is_chat

if TYPE_CHECKING:
    from orchestrator.models.remote import Endpoint

_NAMES = {"gemini": "google"}
"""Kinds that pydantic-ai calls otherwise."""


class Backend:
    """The open connection to one endpoint, and its models."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises `ModelError` if the endpoint's settings are not enough, or its library is not there: the operator's
        fault.
        """
        self._kind = endpoint.kind
        self._http = create_async_httpx2_client()
        try:
            self._provider = self._open(endpoint)
            self.model("any/any")  # imports what models need, too
        except (UserError, ImportError) as error:
            message = f"The model provider {endpoint.name!r} cannot be used: {error}"
            raise ModelError(message, code="model_bad_request") from None

    async def aclose(self) -> None:
        await self._http.aclose()
        async with self._provider:
            pass  # closes what the library has opened itself

    def model(self, name: str) -> Model[Any]:
        """The model of that name. Asks nobody."""
        if is_chat(self._kind):
            from orchestrator.models.chat import ChatModel, OpenRouterChatModel

            if self._kind == "openrouter":
                return OpenRouterChatModel(name, provider=self._provider)
            if self._kind not in ("cerebras", "crusoe", "ollama", "zai"):  # these have models of their own
                return ChatModel(name, provider=self._provider)
        return infer_model(f"{_NAMES.get(self._kind, self._kind)}:{name}", lambda _: self._provider)

    def _open(self, endpoint: Endpoint) -> Provider[Any]:
        kind, key, base_url = endpoint.kind, endpoint.key, endpoint.base_url
        if kind == "openai" and base_url != OPENAI_URL:
            from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

            return OpenAICompatibleProvider("openai", api_key=key, base_url=base_url, http_client=self._http)
        made = infer_provider_class(_NAMES.get(kind, kind))
        if kind != "openai" and is_chat(kind):
            from openai import AsyncOpenAI

            client: Any = AsyncOpenAI(base_url=base_url, api_key=key or "none", http_client=self._http)
            return made(openai_client=client)  # type: ignore[call-arg]  # the base class has no arguments
        given: dict[str, Any] = {"api_key": key, "base_url": base_url}
        if kind in ("gemini", "google-cloud", "openai", "anthropic"):
            given["http_client"] = self._http
        return _made(made, endpoint, given)


def _made(provider: type[Provider[Any]], endpoint: Endpoint, given: dict[str, Any]) -> Provider[Any]:
    wanted = {name: value for name, value in given.items() if value}
    if unknown := wanted.keys() - inspect.signature(provider.__init__).parameters.keys():
        what = ", ".join(sorted(unknown))
        raise ModelError(f"Providers of the kind {endpoint.kind!r} have no {what}.", code="model_bad_request")
    return provider(**wanted)
