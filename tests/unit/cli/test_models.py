from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from orchestrator.models import providers, vendors
from tests.fakes.model_servers import Answer, OpenAIServer, WrongKey
from tests.unit.cli.conftest import Corral

KEY = "canary-0123456789"
OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


@pytest.fixture(autouse=True)
def restores_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A provider in a thread: the command has an event loop of its own."""
    server = OpenAIServer({"good": Answer(text=("y", "es\x1b[2J")), "wrong": WrongKey(KEY)})
    is_up, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with server.running():
            is_up.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert is_up.wait(10)
    yield server
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def local(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_PROVIDERS__LOCAL__KIND", "openai")
    monkeypatch.setenv("CORRAL_PROVIDERS__LOCAL__BASE_URL", server.url)
    monkeypatch.setenv("CORRAL_PROVIDERS__LOCAL__API_KEY", KEY)


def test_the_list_names_further_kinds_and_libraries_that_are_to_be_installed(
    corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    mistral = replace(vendors.VENDORS["mistral"], module="no_such_library")
    monkeypatch.setattr(providers, "VENDORS", {**vendors.VENDORS, "mistral": mistral})
    shown = " ".join(corral("models", "list").out.split())
    assert "Further kinds of providers, by the setting `providers`: alibaba," in shown
    report = json.loads(corral("models", "list", "--json").out)
    found = {offer["name"]: offer["missing"] for offer in report["providers"]}
    assert found["mistral"].startswith('install "pydantic-ai-slim[mistral]"')
    outcome = corral("models", "check", "mistral:any")
    assert outcome.code != 0
    assert "pydantic-ai-slim[mistral]" in outcome.err
    assert KEY not in outcome.out + outcome.err


def test_the_list_says_what_is_there_and_what_is_missing(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shown = corral("models", "list").out
    assert "scripted" in shown
    assert "https://generativelanguage.googleapis.com" in shown
    assert "not there: set ANTHROPIC_API_KEY" in " ".join(shown.split())
    report = json.loads(corral("models", "list", "--json").out)
    assert report["default"] == "scripted"
    missing = {each["name"]: bool(each["missing"]) for each in report["providers"]}
    assert missing == {"scripted": False, "replay": False, "anthropic": True, "gemini": False, "openai": True}
    assert KEY not in shown + json.dumps(report)


def test_the_documentation_shows_what_is_printed(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1")
    shown = corral("models", "list").out + corral("models", "check", "anthropic:claude-sonnet-5").err
    documented = OPERATIONS.read_text(encoding="utf-8")
    assert [line for line in shown.splitlines() if line.rstrip() not in documented] == []


def test_a_model_that_answers(corral: Corral, local: None) -> None:
    outcome = corral("models", "check", "local:good")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("local:good answers: yes")
    assert "\x1b" not in outcome.out
    report = json.loads(corral("models", "check", "local:good", "--json").out)
    assert (report["ok"], report["usage"]["input_tokens"]) == (True, 100)
    assert report["usage"]["cost_usd"] is None


def test_what_a_call_cost_is_shown_where_it_is_known(
    corral: Corral, local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_MODEL_PRICES", '{"good": {"input_mtok": 2, "output_mtok": 10}}')
    assert corral("models", "check", "local:good").out.endswith(" 142 tokens, $0.00062)\n")
    report = json.loads(corral("models", "check", "local:good", "--json").out)
    assert report["usage"]["cost_usd"] == 0.00062


def test_a_model_that_fails_says_why_without_the_key(corral: Corral, local: None) -> None:
    outcome = corral("models", "check", "local:wrong")
    assert outcome.code == 1
    assert "Incorrect key [key] provided. [model_auth]" in outcome.err
    report = json.loads(corral("models", "check", "local:wrong", "--json").out)
    assert (report["ok"], report["error"]["code"]) == (False, "model_auth")


def test_a_model_that_is_not_there_says_what_to_set(corral: Corral) -> None:
    outcome = corral("models", "check", "gemini:any")
    assert outcome.code == 2
    assert "set GEMINI_API_KEY" in outcome.err


def test_the_embedded_model_answers(corral: Corral) -> None:
    assert corral("models", "check", "scripted").code == 0
