from __future__ import annotations

import pytest

from orchestrator.errors import ConfigError, NotFound
from orchestrator.models.registry import ModelRegistry
from orchestrator.models.scripted import ScriptedModel


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
