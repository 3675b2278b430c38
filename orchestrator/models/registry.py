"""Models by name. Imports models and `errors` only; a provider's own module is imported at first use.

A model is named `provider:model`; a provider that has one model only goes by its bare name (`scripted`). Aliases are
further names, for those that public samples use.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from orchestrator.errors import ConfigError, NotFound
from orchestrator.models.port import ModelProvider


def _scripted() -> ModelProvider:
    from orchestrator.models.scripted import ScriptedModel

    return ScriptedModel()


BUILT_IN: Mapping[str, Callable[[], ModelProvider]] = {"scripted": _scripted}
"""Provider name to the function that makes it. Not called before the provider is needed."""
DEFAULT = "default"
"""What an alias leads to that means the server's default model."""


class ModelRegistry:
    """Finds the provider of a model; makes each provider once.

    Raises:
        ConfigError: `default`, or an alias, leads to a provider that is not there; the operator's fault.
    """

    def __init__(
        self,
        default: str,
        providers: Mapping[str, Callable[[], ModelProvider]] = BUILT_IN,
        aliases: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """`missing`: names of providers that could be there, and what is to be set for it."""
        self._providers = dict(providers)
        self._missing = dict(missing or {})
        self._aliases = dict(aliases or {})
        self._made: dict[str, ModelProvider] = {}
        self.default = default
        """The model that is used where none is named."""
        if not self._is_provided(default):
            raise ConfigError(f"setting 'model': {self._unknown(default)}")
        for alias, target in self._aliases.items():
            if target != DEFAULT and not self._is_provided(target):
                raise ConfigError(f"setting 'model_aliases': {alias!r}: {self._unknown(target)}")

    @property
    def providers(self) -> list[str]:
        """Names of all providers, sorted."""
        return sorted(self._providers)

    @property
    def named(self) -> set[str]:
        """Full names of the models that the settings name."""
        return {self.default, *(target for target in self._aliases.values() if target != DEFAULT)}

    def knows(self, model: str) -> bool:
        """Whether `resolve` finds it."""
        return self._is_provided(self._full_name(model))

    def resolve(self, model: str | None = None) -> tuple[str, ModelProvider]:
        """The full model name and its provider; None means the default.

        Raises:
            NotFound: no such model here; the message names the closest one and the providers that are there.
        """
        name = self.default if model is None else self._full_name(model)
        if not self._is_provided(name):
            raise NotFound(self._unknown(name))
        provider = name.partition(":")[0]
        if provider not in self._made:
            self._made[provider] = self._providers[provider]()
        return name, self._made[provider]

    async def aclose(self) -> None:
        """Lets go of the connections of all providers."""
        made, self._made = self._made, {}
        for provider in made.values():
            await provider.aclose()

    def _full_name(self, model: str) -> str:
        name = self._aliases.get(model, model)
        return self.default if name == DEFAULT else name

    def _is_provided(self, name: str) -> bool:
        return name.partition(":")[0] in self._providers

    def _unknown(self, name: str) -> str:
        if advice := self._missing.get(name.partition(":")[0]):
            return f"Model {name!r} is not there: {advice}."
        known = [*self._providers, *self._missing, *self._aliases]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        close = close or difflib.get_close_matches(name.partition(":")[0], known, n=1, cutoff=0.7)
        hint = f" (closest known name: {close[0]!r})" if close else ""
        return f"Model {name!r} not found{hint}; providers: {', '.join(self.providers)}."
