"""Which providers there are, by the settings. Imports `models.registry` and `config`; of a provider's own libraries
nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.config import ProviderSettings, Settings
from orchestrator.models.port import ModelProvider
from orchestrator.models.prices import Prices
from orchestrator.models.registry import BUILT_IN, ModelRegistry
from orchestrator.models.remote import ADDRESSES, Endpoint, RemoteModel

_KEY_VARIABLES = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_ABILITIES = {
    "gemini": ("text", "thoughts", "calls", "images", "answers of a form"),
    "openai": ("text", "thoughts as far as the server shows them", "calls", "images", "answers of a form"),
    "anthropic": ("text", "thoughts", "calls", "images", "answers of a form"),
    "scripted": ("plays scripts and code blocks of the input, without a language model",),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider as `corral models list` shows it."""

    name: str
    kind: str
    base_url: str
    can: tuple[str, ...]
    missing: str = ""
    """What is to be set before it can be used; empty if nothing."""


def offers(settings: Settings) -> list[Offer]:
    """All providers that are there or could be, the embedded one first."""
    found = [Offer("scripted", "scripted", "", _ABILITIES["scripted"])]
    for name in sorted({*settings.providers, *ADDRESSES}):
        given = settings.providers.get(name, ProviderSettings())
        kind = given.kind or name
        base_url = (given.base_url or ADDRESSES[kind]).rstrip("/")
        has_own_address = kind == "openai" and given.base_url is not None
        missing = "" if _key(given) or has_own_address else _advice(name, kind)
        found.append(Offer(name, kind, base_url, _ABILITIES[kind], missing))
    return found


def open_registry(settings: Settings) -> ModelRegistry:
    """The models that the settings give.

    Raises:
        ConfigError: the default model, or an alias, leads to a provider that is not there.
    """
    made: dict[str, Callable[[], ModelProvider]] = dict(BUILT_IN)
    missing: dict[str, str] = {}
    prices = Prices(settings.model_prices)
    for offer in offers(settings):
        if offer.missing:
            missing[offer.name] = offer.missing
        elif offer.kind != "scripted":
            given = settings.providers.get(offer.name, ProviderSettings())
            endpoint = Endpoint(offer.name, offer.kind, offer.base_url, _key(given), given.context_limit_tokens)
            made[offer.name] = partial(RemoteModel, endpoint, prices)
    return ModelRegistry(settings.model, made, settings.model_aliases, missing)


def _key(given: ProviderSettings) -> str:
    # Keys are pasted, and files end with a newline; no key has space around it.
    return given.api_key.get_secret_value().strip() if given.api_key is not None else ""


def _advice(name: str, kind: str) -> str:
    variable = _KEY_VARIABLES[kind] if name == kind else f"CORRAL_PROVIDERS__{name.upper()}__API_KEY"
    also = ", or OPENAI_BASE_URL for a server of your own" if name == "openai" else ""
    return f"set {variable}, or api_key in [providers.{name}] of corral.toml{also}"
