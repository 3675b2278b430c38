from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from orchestrator.telemetry import logs

KEY = "crl_" + "a" * 43


@pytest.fixture(autouse=True)
def restores_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_ours_and_library_lines_have_one_shape() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.get_logger("orchestrator.x").info("sandbox_started", sandbox_id="s1", duration_ms=12)
    logging.getLogger("uvicorn.error").warning("Started %s", "here")
    ours, library = lines(out)
    assert ours["event"] == "sandbox_started"
    assert (ours["sandbox_id"], ours["duration_ms"], ours["level"]) == ("s1", 12, "info")
    assert library["event"] == "Started here"
    assert (library["logger"], library["level"]) == ("uvicorn.error", "warning")
    assert ours["at"].endswith("Z")


@pytest.mark.parametrize("times", [1, 2])
def test_warnings_of_libraries_are_lines_of_the_log(times: int, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(times):
            logs.configure("info", "json", out)
        warnings.warn("the key is in ?key=canary", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(out)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "UserWarning: the key is in" in line["event"]
    assert "?key=canary" not in line["event"]
    assert capsys.readouterr().err == ""


def test_below_the_level_nothing_is_written() -> None:
    out = io.StringIO()
    logs.configure("warning", "json", out)
    logs.get_logger("x").info("quiet")
    logging.getLogger("y").info("quiet")
    assert out.getvalue() == ""


def test_bound_fields_are_on_every_line_of_the_context_only() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    with logs.bound(request_id="r1"):
        logs.get_logger("x").info("inside")
        logging.getLogger("y").info("library inside")
    logs.get_logger("x").info("outside")
    inside, library, outside = lines(out)
    assert inside["request_id"] == library["request_id"] == "r1"
    assert "request_id" not in outside


@pytest.mark.parametrize(
    "name", ["authorization", "api_key", "x-goog-api-key", "Cookie", "refresh_token", "client_secret", "password"]
)
def test_secret_fields_are_redacted_at_any_depth(name: str) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.get_logger("x").info("asked", **{name: "canary"}, headers=[{name: "canary"}])
    assert "canary" not in out.getvalue()
    assert lines(out)[0][name] == logs.REDACTED


@pytest.mark.parametrize("name", ["input_tokens", "key_id", "status", "monkey"])
def test_names_that_only_look_alike_are_kept(name: str) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.get_logger("x").info("counted", **{name: "17"})
    assert lines(out)[0][name] == "17"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /v1/agents?key={KEY}&x=1",
        f"Authorization: Bearer {KEY}",
        f"the key {KEY} is unknown",
        *(f"grant_type=x&{name}={KEY[4:]}&a=b" for name in ("client_secret", "refresh_token", "access_token")),
    ],
)
def test_keys_inside_text_are_redacted(text: str) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logging.getLogger("uvicorn.access").info(text)
    try:
        raise ValueError(text)
    except ValueError:
        logs.get_logger("x").exception("failed", detail=text)
    assert KEY[4:] not in out.getvalue()
    assert out.getvalue().count(logs.REDACTED) >= 3


def test_console_is_for_people_and_auto_is_json_without_a_terminal() -> None:
    out = io.StringIO()
    logs.configure("info", "console", out)
    logs.get_logger("x").info("hello", a=1)
    with pytest.raises(json.JSONDecodeError):
        lines(out)
    assert "hello" in out.getvalue()
    out = io.StringIO()
    logs.configure("info", "auto", out)
    logs.get_logger("x").info("hello")
    assert lines(out)[0]["event"] == "hello"


def test_configuring_twice_writes_lines_once() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.configure("info", "json", out)
    logs.get_logger("x").info("once")
    assert len(lines(out)) == 1
