from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from pydantic import SecretStr

from orchestrator.config import PROVIDER_KEYS, ProviderSettings, Settings
from orchestrator.errors import ConfigError, ModelError, NotFound
from orchestrator.models import vendors
from orchestrator.models.port import ModelRequest
from orchestrator.models.providers import offers, open_registry
from orchestrator.models.registry import ModelRegistry
from orchestrator.models.remote import Endpoint, RemoteModel
from orchestrator.models.scripted import ScriptedModel
from orchestrator.models.vendors import VENDORS
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import UserInput
from tests.conformance.model_suite import collect


def test_the_default_and_a_full_name_find_the_same_provider() -> None:
    registry = ModelRegistry("scripted")
    name, provider = registry.resolve()
    assert name == "scripted"
    assert isinstance(provider, ScriptedModel)
    assert registry.resolve("scripted:any") == ("scripted:any", provider)


def test_an_unknown_provider_names_those_that_are_there() -> None:
    with pytest.raises(NotFound, match=r"Model 'gemini:x' not found; providers: scripted"):
        ModelRegistry("scripted").resolve("gemini:x")
    with pytest.raises(NotFound, match=r"Model 'scriptd' not found \(closest known name: 'scripted'\)"):
        ModelRegistry("scripted").resolve("scriptd")


def test_an_unknown_default_is_the_operators_fault() -> None:
    with pytest.raises(ConfigError, match=r"setting 'model': Model 'gpt' not found; providers: scripted"):
        ModelRegistry("gpt")


def test_a_provider_is_made_once_and_only_when_it_is_needed() -> None:
    made: list[ScriptedModel] = []

    def make() -> ScriptedModel:
        made.append(ScriptedModel())
        return made[-1]

    registry = ModelRegistry("a:1", {"a": make, "b": make})
    assert registry.providers == ["a", "b"]
    assert made == []
    registry.resolve()
    registry.resolve("a:2")
    assert len(made) == 1


def test_an_alias_leads_to_a_model_or_to_the_default() -> None:
    aliases = {"gemini-3.8-flash": "default", "fast": "b:quick"}
    registry = ModelRegistry("a:1", {"a": ScriptedModel, "b": ScriptedModel}, aliases)
    assert registry.resolve("gemini-3.8-flash")[0] == "a:1"
    assert registry.resolve("fast")[0] == "b:quick"
    assert registry.knows("fast")
    assert not registry.knows("gemini-9")
    with pytest.raises(NotFound, match=r"closest known name: 'gemini-3.8-flash'"):
        registry.resolve("gemini-3.9-flash")


def test_an_alias_that_leads_nowhere_is_the_operators_fault() -> None:
    with pytest.raises(ConfigError, match=r"setting 'model_aliases': 'x': Model 'nowhere:1' not found"):
        ModelRegistry("scripted", aliases={"x": "nowhere:1"})


def test_a_provider_that_is_not_set_up_says_what_to_set() -> None:
    registry = open_registry(Settings())
    with pytest.raises(
        NotFound, match=r"'gemini:x' is not there: set GEMINI_API_KEY, or api_key in \[providers.gemini\]"
    ):
        registry.resolve("gemini:x")
    with pytest.raises(NotFound, match="OPENAI_BASE_URL for a server of your own"):
        registry.resolve("openai:x")
    with pytest.raises(ConfigError, match=r"setting 'model': .*set ANTHROPIC_API_KEY"):
        open_registry(Settings(model="anthropic:x"))


def test_a_provider_that_is_misspelt_is_recognised() -> None:
    with pytest.raises(NotFound, match=r"closest known name: 'anthropic'"):
        open_registry(Settings()).resolve("antropic:claude-something-long")


def test_providers_that_are_set_up_are_there() -> None:
    local = ProviderSettings(kind="openai", base_url="http://127.0.0.1:8000/v1/")
    gemini = ProviderSettings(api_key=SecretStr("canary"))
    settings = Settings(model="local:qwen", providers={"local": local, "gemini": gemini})
    registry = open_registry(settings)
    assert registry.providers == ["gemini", "local", "replay", "scripted"]
    assert registry.resolve("gemini:g")[0] == "gemini:g"
    assert [offer.base_url for offer in offers(settings) if offer.name == "local"] == ["http://127.0.0.1:8000/v1"]
    assert "canary" not in repr(settings) + repr(offers(settings)) + repr(Endpoint("g", "gemini", "http://x", "canary"))


def test_every_kind_is_known_to_the_settings_and_to_pydantic_ai() -> None:
    from pydantic_ai.providers import infer_provider_class

    assert set(VENDORS) == set(PROVIDER_KEYS)
    for kind, vendor in VENDORS.items():
        if not vendor.missing:
            assert infer_provider_class({"gemini": "google"}.get(kind, kind)).__name__.endswith("Provider")
        else:
            with pytest.raises(ImportError, match=re.escape(f"pydantic-ai-slim[{vendor.extra}]")):
                infer_provider_class(kind)


def test_kinds_that_are_not_set_up_say_what_to_set_or_install() -> None:
    registry = open_registry(Settings())
    with pytest.raises(NotFound, match=r"set DEEPSEEK_API_KEY, or api_key in \[providers.deepseek\]"):
        registry.resolve("deepseek:x")
    with pytest.raises(NotFound, match=r"set base_url in \[providers.ollama\]"):
        registry.resolve("ollama:x")
    settings = Settings(providers={"own": ProviderSettings(kind="deepseek", api_key=SecretStr("k"))})
    assert open_registry(settings).resolve("own:x")[0] == "own:x"
    assert [offer.base_url for offer in offers(settings) if offer.name == "own"] == ["https://api.deepseek.com"]


def test_a_kind_whose_library_is_not_installed_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    groq = replace(VENDORS["groq"], module="no_such_library")
    monkeypatch.setattr(vendors, "VENDORS", {**VENDORS, "groq": groq})
    monkeypatch.setattr("orchestrator.models.providers.VENDORS", {**VENDORS, "groq": groq})
    settings = Settings(providers={"groq": ProviderSettings(api_key=SecretStr("k"))})
    advice = 'install "pydantic-ai-slim[groq]" beside Corral, or use kind = "openai" with base_url = "https://api.groq'
    assert next(offer.missing for offer in offers(settings) if offer.name == "groq").startswith(advice)
    with pytest.raises(NotFound, match=re.escape(advice)):
        open_registry(settings).resolve("groq:x")


@pytest.mark.anyio
async def test_a_provider_that_cannot_be_made_is_a_models_error() -> None:
    request = ModelRequest("c:x", "", (UserInput(content=[TextContent(text="Go.")]),), (), 0)
    for kind, base_url, message in (
        ("google-cloud", "http://127.0.0.1:9", "cannot be reached"),
        ("mistral", "http://127.0.0.1:9", r"cannot be used: .*pydantic-ai-slim\[mistral\]"),
    ):
        if VENDORS[kind].missing or kind == "google-cloud":
            model = RemoteModel(Endpoint("c", kind, base_url, "k"))
            with pytest.raises(ModelError, match=message):
                await collect(model, request)
            await model.aclose()


def test_no_library_of_a_provider_is_imported_before_a_model_is_asked() -> None:
    program = (
        "import sys\n"
        "from orchestrator.config import Settings\n"
        "from orchestrator.models.providers import open_registry\n"
        "given = {name: {'api_key': 'k'} for name in ('gemini', 'deepseek', 'mistral', 'bedrock')}\n"
        "settings = Settings(model='gemini:x', providers=given)\n"
        "open_registry(settings).resolve()\n"
        "names = ('pydantic_ai', 'google', 'openai', 'anthropic', 'httpx2', 'boto3', 'mistralai')\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.anyio
async def test_closing_the_registry_closes_what_was_made() -> None:
    closed: list[str] = []

    class Closing(ScriptedModel):
        async def aclose(self) -> None:
            closed.append("a")
            await super().aclose()

    registry = ModelRegistry("a:1", {"a": Closing, "b": Closing})
    registry.resolve()
    await registry.aclose()
    assert closed == ["a"]
