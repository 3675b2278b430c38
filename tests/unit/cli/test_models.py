from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.model_servers import Answer, OpenAIServer, WrongKey
from tests.unit.cli.conftest import Corral

KEY = "canary-0123456789"


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


def test_a_model_that_answers(corral: Corral, local: None) -> None:
    outcome = corral("models", "check", "local:good")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("local:good answers: yes")
    assert "\x1b" not in outcome.out
    report = json.loads(corral("models", "check", "local:good", "--json").out)
    assert (report["ok"], report["usage"]["input_tokens"]) == (True, 100)


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
