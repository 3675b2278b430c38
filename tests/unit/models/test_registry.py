from __future__ import annotations

import pytest

from orchestrator.errors import ConfigError, InvalidRequest
from orchestrator.models.registry import ModelRegistry
from orchestrator.models.scripted import ScriptedModel


def test_the_default_and_a_full_name_find_the_same_provider() -> None:
    registry = ModelRegistry("scripted")
    name, provider = registry.resolve()
    assert name == "scripted"
    assert isinstance(provider, ScriptedModel)
    assert registry.resolve("scripted:any") == ("scripted:any", provider)


def test_an_unknown_provider_names_those_that_are_there() -> None:
    with pytest.raises(InvalidRequest, match=r"'gemini:x': .* provider 'gemini' here; configured: scripted"):
        ModelRegistry("scripted").resolve("gemini:x")


def test_an_unknown_default_is_the_operators_fault() -> None:
    with pytest.raises(ConfigError, match=r"setting 'model': .* configured: scripted"):
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
