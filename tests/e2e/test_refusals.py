"""Requests that cannot be served: the right status and code, a message that names what is wrong, and nothing stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.caller import AGENT, ENVIRONMENTS, INTERACTIONS, Caller
from tests.e2e.programs import bash

GOOD: dict[str, Any] = {"agent": AGENT, "input": "x"}
NOBODY = "0" * 32


def _environment(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "environment": {"type": "remote", **fields}}


def _source(**fields: Any) -> dict[str, Any]:
    return _environment(sources=[{"type": "inline", "target": "workspace/a", "content": "x", **fields}])


BAD_BODIES: dict[str, tuple[dict[str, Any], int, str, list[str]]] = {
    "misspelt field": ({**GOOD, "inptu": "y"}, 400, "invalid_request", ["'inptu'", "'input'"]),
    "camel case": ({**GOOD, "systemInstruction": "y"}, 400, "invalid_request", ["'system_instruction'"]),
    "misspelt nested field": (_environment(sorces=[]), 400, "invalid_request", ["'environment'", "'sources'"]),
    "misspelt field in a list": (
        _source(contents="y"),
        400,
        "invalid_request",
        ["'contents'", "'environment.sources[0]'", "'content'"],
    ),
    "flag of the wrong type": ({**GOOD, "stream": "yes"}, 400, "invalid_request", ["'stream'"]),
    "input of the wrong type": ({**GOOD, "input": 5}, 400, "invalid_request", ["'input'"]),
    "content of the wrong type": (_source(content=5), 400, "invalid_request", ["'environment.sources[0].content'"]),
    "both model and agent": ({**GOOD, "model": "general"}, 400, "invalid_request", ["'model'", "'agent'"]),
    "neither model nor agent": ({"input": "x"}, 400, "invalid_request", ["'model'", "'agent'"]),
    "no input": ({"agent": AGENT}, 400, "invalid_request", ["'input'"]),
    "empty input": ({**GOOD, "input": ""}, 400, "invalid_request", ["'input'"]),
    "contents and steps mixed": (
        {**GOOD, "input": [{"type": "text", "text": "x"}, {"type": "user_input", "content": []}]},
        400,
        "invalid_request",
        ["'input"],
    ),
    "unknown agent": (
        {**GOOD, "agent": "antigravity-preview-09-2025"},
        404,
        "not_found",
        ["'agent'", "'antigravity-preview-09-2025'", "'antigravity-preview-09-2026'"],
    ),
    "unknown model": ({"model": "scriptd", "input": "x"}, 404, "not_found", ["'model'", "'scriptd'", "'scripted'"]),
    "unknown environment": ({**GOOD, "environment": NOBODY}, 404, "not_found", ["'environment'", NOBODY]),
    "unknown environment in an object": (
        _environment(environment_id=NOBODY),
        404,
        "not_found",
        ["'environment", NOBODY],
    ),
    "unknown previous interaction": (
        {**GOOD, "previous_interaction_id": "v1_nobody"},
        404,
        "not_found",
        ["'previous_interaction_id'", "'v1_nobody'"],
    ),
    "credential in a rule": (
        _environment(network={"allowlist": [{"domain": "*", "credential": "c"}]}),
        400,
        "invalid_request",
        ["'environment.network.allowlist[0].credential'", "not found"],
    ),
    "what is for models": ({**GOOD, "generation_config": {"seed": 1}}, 400, "invalid_request", ["'generation_config'"]),
    "background and not stored": ({**GOOD, "store": False, "background": True}, 400, "invalid_request", ["'store'"]),
    "client function with a name of the server's": (
        {**GOOD, "tools": [{"type": "function", "name": "read_file"}]},
        400,
        "invalid_request",
        ["'tools[0].name'", "'read_file'"],
    ),
    "answer to nobody": (
        {**GOOD, "input": [{"type": "function_result", "call_id": "c", "result": "x"}]},
        400,
        "invalid_request",
        ["'previous_interaction_id'"],
    ),
    "unknown tool": ({**GOOD, "tools": [{"type": "code_exec"}]}, 400, "invalid_request", ["'tools[0].type'"]),
    "media for an answer": (
        {**GOOD, "response_format": {"type": "image"}},
        400,
        "not_supported",
        ["'response_format[0].type'"],
    ),
    "no schema": (
        {**GOOD, "response_format": {"type": "text", "schema": {"type": "objct"}}},
        400,
        "invalid_request",
        ["'response_format[0].schema'", "objct"],
    ),
    "source that names no repository": (
        _environment(sources=[{"type": "repository", "source": "https://example.com", "target": "workspace/r"}]),
        400,
        "invalid_request",
        ["'environment.sources[0].source'", "names no repository"],
    ),
    "unknown source type": (_source(type="inlin"), 400, "invalid_request", ["'environment.sources[0].type'", "inline"]),
    "target with ..": (
        _source(target="workspace/../etc/passwd"),
        400,
        "invalid_request",
        ["'environment.sources[0].target'"],
    ),
    "target elsewhere": (
        _source(target="etc/passwd"),
        400,
        "invalid_request",
        ["'environment.sources[0].target'", "/workspace"],
    ),
    "target with NUL": (_source(target="workspace/a\0b"), 400, "invalid_request", ["'environment.sources[0].target'"]),
    "damaged base64": (
        _source(encoding="base64", content="!!"),
        400,
        "invalid_request",
        ["'environment.sources[0].content'"],
    ),
    "name of a variable": (_environment(env={"1A": "x"}), 400, "invalid_request", ["environment.env", "1A"]),
    "long variable": (_environment(env={"A": "x" * 65_537}), 400, "invalid_request", ["'environment.env.A'", "65536"]),
    "many long variables": (
        _environment(env={f"V{number}": "x" * 60_000 for number in range(3)}),
        400,
        "invalid_request",
        ["'environment.env'", "131072", "together"],
    ),
    "variable that is long on its way": (
        _environment(env={"A": "\x01" * 22_000}),
        400,
        "invalid_request",
        ["'environment.env'", "131072", "as JSON"],
    ),
    "large source": (
        _source(content="x" * ((16 << 20) + 1)),
        400,
        "invalid_request",
        ["'environment.sources[0].content'"],
    ),
    "secret variable": (
        _environment(env={"A": {"credential": "c"}}),
        400,
        "invalid_request",
        ["'environment.env.A.credential'", "not found"],
    ),
    "label": ({**GOOD, "labels": {"A": "x"}}, 400, "invalid_request", ["'labels.A'"]),
    "negative budget": (
        {**GOOD, "agent_config": {"type": "antigravity", "max_total_tokens": -1}},
        400,
        "invalid_request",
        ["'agent_config.max_total_tokens'"],
    ),
    "unknown model of the agent": (
        {**GOOD, "agent_config": {"type": "antigravity", "model": "nobody:nothing"}},
        404,
        "not_found",
        ["agent_config.model", "nobody"],
    ),
}

BAD_BYTES = {
    "malformed": b'{"agent": ',
    "empty": b"",
    "a list": b"[]",
    "not a number": b'{"agent": "general", "input": NaN}',
    "a name twice": b'{"agent": "general", "agent": "general", "input": "x"}',
    "nested too deep": b'{"agent": "general", "input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "not UTF-8": b'{"agent": "general", "input": "\xff"}',
    "UTF-16": '{"agent": "general", "input": "x"}'.encode("utf-16"),
    "half a character": b'{"agent": "general", "input": "\\ud800"}',
    "a huge number": b'{"agent": "general", "input": ' + b"9" * 10_000 + b"}",
}

BAD_PARAMETERS = [
    ("GET", f"{INTERACTIONS}/{{id}}?stream=maybe", "'stream'"),
    ("GET", f"{INTERACTIONS}/{{id}}?include_input=maybe", "'include_input'"),
    ("GET", f"{INTERACTIONS}/{{id}}?stream=true&last_event_id=nonsense", "'last_event_id'"),
    ("GET", f"{INTERACTIONS}/{{id}}?stream=true&last_event_id=evt_99999", "'last_event_id'"),
    ("GET", f"{INTERACTIONS}/{{id}}?stream=true&last_event_id=evt_0", "'last_event_id'"),
    ("GET", f"{INTERACTIONS}/{{id}}?stream=true&last_event_id=evt_{'9' * 30}", "'last_event_id'"),
    ("GET", f"{ENVIRONMENTS}?page_size=many", "'page_size'"),
    ("GET", f"{ENVIRONMENTS}?page_size=0", "'page_size'"),
    ("GET", f"{ENVIRONMENTS}?page_token=nonsense", "'page_token'"),
    ("GET", "/ops/logs/{id}?follow=perhaps", "'follow'"),
]


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_body(caller: Caller, name: str) -> None:
    body, status, code, named = BAD_BODIES[name]
    with _nothing_changes(caller):
        answer = caller.http.post(INTERACTIONS, json=body)
    _check(answer, status, code, named)


@pytest.mark.parametrize("name", BAD_BYTES)
def test_body_that_is_no_json_object(caller: Caller, name: str) -> None:
    with _nothing_changes(caller):
        answer = caller.http.post(INTERACTIONS, content=BAD_BYTES[name], headers={"content-type": "application/json"})
    _check(answer, 400, "invalid_request", [])


def test_malformed_json_says_where(caller: Caller) -> None:
    answer = caller.http.post(INTERACTIONS, content=b'{"agent": "general",\n "input" "x"}')
    _check(answer, 400, "invalid_request", ["line 2", "column 10"])


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_default_limit(caller: Caller, chunked: bool) -> None:
    piece = b"x" * (1 << 20)
    pieces = [b'{"agent": "general", "input": "', *[piece] * 33, b'"}']
    with _nothing_changes(caller):
        answer = caller.http.post(INTERACTIONS, content=iter(pieces) if chunked else b"".join(pieces))
    _check(answer, 413, "request_too_large", [str(32 << 20)])


@pytest.mark.parametrize(("method", "path", "named"), BAD_PARAMETERS)
def test_bad_parameter(caller: Caller, environment: str, method: str, path: str, named: str) -> None:
    interaction_id = caller.create("x", environment)["id"]
    answer = caller.http.request(method, path.format(id=interaction_id))
    _check(answer, 400, "invalid_request", [named])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{INTERACTIONS}/v1_nobody"),
        ("GET", f"{INTERACTIONS}/v1_nobody?stream=true"),
        ("DELETE", f"{INTERACTIONS}/v1_nobody"),
        ("POST", f"{INTERACTIONS}/v1_nobody/cancel"),
        ("POST", f"{INTERACTIONS}/v1_nobody:cancel"),
        ("GET", f"{ENVIRONMENTS}/{NOBODY}"),
        ("DELETE", f"{ENVIRONMENTS}/{NOBODY}"),
        ("GET", f"/ops/logs/{NOBODY}"),
        ("GET", f"/ops/logs/{NOBODY}?follow=true"),
        ("GET", "/v1/nothing"),
        ("GET", "/v2/interactions"),
    ],
)
def test_unknown_id_or_path(caller: Caller, method: str, path: str) -> None:
    with _nothing_changes(caller):
        answer = caller.http.request(method, path)
    _check(answer, 404, "not_found", [])


def test_method_that_is_not_there(caller: Caller) -> None:
    _check(caller.http.put(INTERACTIONS), 405, "method_not_allowed", [])
    _check(caller.http.delete(INTERACTIONS), 405, "method_not_allowed", [])


def test_faults_before_a_stream_begins_are_plain_answers(caller: Caller) -> None:
    with _nothing_changes(caller):
        answer = caller.http.post(INTERACTIONS, json={**GOOD, "stream": True, "environment": NOBODY})
    _check(answer, 404, "not_found", [NOBODY])


def test_a_script_that_cannot_be_read_fails_the_run_with_its_line(caller: Caller) -> None:
    made = caller.create("```script\nturns:\n  - txt: x\n```")
    assert made["status"] == "failed"
    (error,) = made["errors"]
    assert error["code"] == "model_bad_request"
    assert "txt" in error["message"]
    assert "text" in error["message"]


def test_cut_off_request_leaves_nothing(caller: Caller) -> None:
    def half() -> Iterator[bytes]:
        yield b'{"agent": "general", '
        raise ConnectionAbortedError

    with _nothing_changes(caller), pytest.raises(ConnectionAbortedError):
        caller.http.post(INTERACTIONS, content=half())


def test_good_request_beside_all_these_is_served(caller: Caller, environment: str) -> None:
    assert caller.create(bash("true"), environment)["status"] == "completed"


@contextmanager
def _nothing_changes(caller: Caller) -> Iterator[None]:
    before = caller.standing(), caller.environments()
    yield
    assert (caller.standing(), caller.environments()) == before


def _check(answer: Any, status: int, code: str, named: list[str]) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = json.loads(answer.content)
    assert body.keys() == {"error"}
    assert body["error"]["code"] == code, answer.text
    for each in named:
        assert each in body["error"]["message"], answer.text
