"""Which providers there are, by the settings. Imports `models.registry` and `config`; of a provider's own libraries
nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.config import ProviderSettings, Settings
from orchestrator.models.port import ModelProvider
from orchestrator.models.registry import BUILT_IN, ModelRegistry
from orchestrator.models.remote import ADDRESSES, Endpoint, RemoteModel
from orchestrator.models.replayed import NAME as REPLAY
from orchestrator.models.replayed import ReplayedModel

_KEY_VARIABLES = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_ABILITIES = {
    "gemini": ("text", "thoughts", "calls", "images", "answers of a form"),
    "openai": ("text", "thoughts as far as the server shows them", "calls", "images", "answers of a form"),
    "anthropic": ("text", "thoughts", "calls", "images", "answers of a form"),
    "scripted": ("plays scripts and code blocks of the input, without a language model",),
    REPLAY: ("plays back what was recorded: replay:PATH",),
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
    """All providers that are there or could be, the embedded ones first."""
    found = [Offer(name, name, "", _ABILITIES[name]) for name in ("scripted", REPLAY)]
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
    made: dict[str, Callable[[], ModelProvider]] = {**BUILT_IN, REPLAY: partial(ReplayedModel, settings.cassettes)}
    missing: dict[str, str] = {}
    for offer in offers(settings):
        if offer.missing:
            missing[offer.name] = offer.missing
        elif offer.name not in made:
            key = _key(settings.providers.get(offer.name, ProviderSettings()))
            made[offer.name] = partial(RemoteModel, Endpoint(offer.name, offer.kind, offer.base_url, key))
    return ModelRegistry(settings.model, made, settings.model_aliases, missing)


def keys(settings: Settings) -> list[str]:
    """The keys of all providers, which must never be written anywhere."""
    return [key for given in settings.providers.values() if (key := _key(given))]


def _key(given: ProviderSettings) -> str:
    # Keys are pasted, and files end with a newline; no key has space around it.
    return given.api_key.get_secret_value().strip() if given.api_key is not None else ""


def _advice(name: str, kind: str) -> str:
    variable = _KEY_VARIABLES[kind] if name == kind else f"CORRAL_PROVIDERS__{name.upper()}__API_KEY"
    also = ", or OPENAI_BASE_URL for a server of your own" if name == "openai" else ""
    return f"set {variable}, or api_key in [providers.{name}] of corral.toml{also}"
