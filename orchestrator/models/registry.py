"""Model providers by name. Imports models and `errors` only; a provider's own module is imported at first use.

A model is named `provider:model`; a provider that has one model only goes by its bare name (`scripted`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.errors import ConfigError, InvalidRequest
from orchestrator.models.port import ModelProvider


def _scripted() -> ModelProvider:
    from orchestrator.models.scripted import ScriptedModel

    return ScriptedModel()


BUILT_IN: Mapping[str, Callable[[], ModelProvider]] = {"scripted": _scripted}
"""Provider name to the function that makes it. Not called before the provider is needed."""


class ModelRegistry:
    """Finds the provider of a model; makes each provider once.

    Raises:
        ConfigError: `default` names a provider that is not there; the operator's fault.
    """

    def __init__(self, default: str, providers: Mapping[str, Callable[[], ModelProvider]] = BUILT_IN) -> None:
        self._providers = dict(providers)
        self._made: dict[str, ModelProvider] = {}
        try:
            self._provider_of(default)
        except InvalidRequest as error:
            raise ConfigError(f"setting 'model': {error.message}") from error
        self.default = default
        """The model that is used where none is named."""

    @property
    def providers(self) -> list[str]:
        """Names of all providers, sorted."""
        return sorted(self._providers)

    def resolve(self, model: str | None = None) -> tuple[str, ModelProvider]:
        """The full model name and its provider; None means the default.

        Raises:
            InvalidRequest: no such provider here; the message lists those that are.
        """
        name = self.default if model is None else model
        provider = self._provider_of(name)
        if provider not in self._made:
            self._made[provider] = self._providers[provider]()
        return name, self._made[provider]

    def _provider_of(self, model: str) -> str:
        provider = model.partition(":")[0]
        if provider not in self._providers:
            known = ", ".join(self.providers)
            raise InvalidRequest(f"model {model!r}: there is no model provider {provider!r} here; configured: {known}")
        return provider
