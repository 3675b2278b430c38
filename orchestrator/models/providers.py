"""Which providers there are, by the settings. Imports `models.registry` and `config`; of a provider's own libraries
nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.config import OWN_SERVERS, PROVIDER_KEYS, ProviderSettings, Settings
from orchestrator.models.port import ModelProvider
from orchestrator.models.prices import Prices
from orchestrator.models.registry import BUILT_IN, ModelRegistry
from orchestrator.models.remote import Endpoint, RemoteModel
from orchestrator.models.replayed import NAME as REPLAY
from orchestrator.models.replayed import ReplayedModel
from orchestrator.models.vendors import VENDORS, is_chat

_ALWAYS_SHOWN = ("gemini", "openai", "anthropic")
_ABILITIES = {
    "gemini": (
        "text",
        "thoughts",
        "calls",
        "images, sound, video and documents",
        "answers with images",
        "answers of a form",
    ),
    "openai": (
        "text",
        "thoughts as far as the server shows them",
        "calls",
        "images, sound and PDFs",
        "answers of a form",
    ),
    "anthropic": ("text", "thoughts", "calls", "images and PDFs", "answers of a form"),
    "scripted": ("plays scripts and code blocks of the input, without a language model",),
    REPLAY: ("plays back what was recorded: replay:PATH",),
}
_OTHERS_CAN = ("text", "calls", "more as its models do")


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider as `corral models list` shows it."""

    name: str
    kind: str
    base_url: str
    can: tuple[str, ...]
    missing: str = ""
    """What is to be set or installed before it can be used; empty if nothing."""


def offers(settings: Settings) -> list[Offer]:
    """The providers that are set up, and those that most people look for; the embedded ones first."""
    found = [Offer(name, name, "", _ABILITIES[name]) for name in ("scripted", REPLAY)]
    return found + [_offer(settings, name) for name in sorted({*settings.providers, *_ALWAYS_SHOWN})]


def further_kinds(settings: Settings) -> list[str]:
    """Kinds of providers that can be set up beside those of `offers`."""
    return sorted(VENDORS.keys() - settings.providers.keys() - set(_ALWAYS_SHOWN))


def _offer(settings: Settings, name: str) -> Offer:
    given = settings.providers.get(name, ProviderSettings())
    kind = given.kind or name
    vendor = VENDORS[kind]
    base_url = (given.base_url or vendor.base_url).rstrip("/")
    needs_key = not is_chat(kind) or given.base_url is None
    missing = vendor.missing or ("" if _key(given) or not needs_key else _advice(name, kind))
    return Offer(name, kind, base_url, _ABILITIES.get(vendor.format, _OTHERS_CAN), missing)


def open_registry(settings: Settings) -> ModelRegistry:
    """The models that the settings give.

    Raises:
        ConfigError: the default model, or an alias, leads to a provider that is not there.
    """
    made: dict[str, Callable[[], ModelProvider]] = {**BUILT_IN, REPLAY: partial(ReplayedModel, settings.cassettes)}
    missing = {name: _offer(settings, name).missing for name in further_kinds(settings)}
    prices = Prices(settings.model_prices)
    for offer in offers(settings):
        if offer.missing:
            missing[offer.name] = offer.missing
        elif offer.name not in made:
            given = settings.providers.get(offer.name, ProviderSettings())
            endpoint = Endpoint(offer.name, offer.kind, offer.base_url, _key(given), given.context_limit_tokens)
            made[offer.name] = partial(RemoteModel, endpoint, prices)
    return ModelRegistry(settings.model, made, settings.model_aliases, missing)


def keys(settings: Settings) -> list[str]:
    """The keys of all providers, which must never be written anywhere."""
    return [key for given in settings.providers.values() if (key := _key(given))]


def _key(given: ProviderSettings) -> str:
    # Keys are pasted, and files end with a newline; no key has space around it.
    return given.api_key.get_secret_value().strip() if given.api_key is not None else ""


def _advice(name: str, kind: str) -> str:
    if name in OWN_SERVERS and name != "openai":
        return f"set base_url in [providers.{name}] of corral.toml"
    usual = PROVIDER_KEYS[kind] if name == kind else (f"CORRAL_PROVIDERS__{name.upper()}__API_KEY",)
    also = ", or OPENAI_BASE_URL for a server of your own" if name == "openai" else ""
    return f"set {', '.join((*usual[:1], f'or api_key in [providers.{name}] of corral.toml'))}{also}"
