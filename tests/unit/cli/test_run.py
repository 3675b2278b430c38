from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.cli import run
from tests.fakes.wire_server import (
    ENVIRONMENT,
    INTERACTION,
    FakeServer,
    answer,
    completed,
    created,
    refusal,
    sse,
    step,
)
from tests.unit.cli.conftest import Corral

STEPS: list[dict[str, Any]] = [
    *step(0, {"type": "thought"}, {"type": "thought_summary", "content": {"type": "text", "text": "First look."}}),
    *step(
        1,
        {"type": "code_execution_call", "id": "c1"},
        {"type": "code_execution_call", "arguments": {"language": "bash", "code": "ls /workspace\n"}},
    ),
    *step(
        2,
        {"type": "code_execution_result", "call_id": "c1"},
        {"type": "code_execution_result", "result": "a.csv\n\x1b]0;owned\x07b.csv\n", "is_error": False},
    ),
    *step(
        3,
        {"type": "function_call", "id": "f1", "name": "read_file", "arguments": {}},
        {"type": "arguments_delta", "arguments": '{"path": '},
        {"type": "arguments_delta", "arguments": '"a.csv"}'},
    ),
    *step(
        4,
        {"type": "function_result", "call_id": "f1"},
        {
            "type": "function_result",
            "result": [
                {"type": "text", "text": "1,2"},
                {"type": "image", "mime_type": "image/png", "data": "A" * 45_336},
            ],
        },
    ),
    *step(5, {"type": "model_output"}, {"type": "text", "text": "Two "}, {"type": "text", "text": "files."}),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RESUME_PAUSE_S", 0)


def test_steps_are_shown_in_order_and_harmless(corral: Corral) -> None:
    server = FakeServer(sse(created(), *STEPS, completed()))
    outcome = corral("run", "Look", server=server)
    assert outcome.code == 0
    assert server.body() == {"agent": "general", "input": "Look", "environment": "remote", "stream": True}
    assert outcome.out.split("\n")[:9] == [
        "First look.",
        "● bash",
        "ls /workspace",
        "  a.csv",
        "  b.csv",
        '● read_file(path="a.csv")',
        "  1,2",
        "  [image/png 34 kB]",
        "Two files.",
    ]
    assert "completed · 6 steps · " in outcome.out
    assert "4,396 tokens\n" in outcome.out
    assert INTERACTION in outcome.out
    assert ENVIRONMENT in outcome.out
    assert "\x1b" not in outcome.out


def test_what_a_run_cost_is_shown_where_it_is_known(corral: Corral) -> None:
    end = completed(usage={"total_tokens": 4396, "cost_usd": 0.0123})
    outcome = corral("run", "Look", server=FakeServer(sse(created(), *STEPS, end)))
    assert " · 4,396 tokens · $0.012\n" in outcome.out


@pytest.mark.parametrize(
    ("status", "code"),
    [("completed", 0), ("failed", 1), ("requires_action", 3), ("incomplete", 4), ("cancelled", 130)],
)
def test_the_exit_code_says_the_status(corral: Corral, status: str, code: int) -> None:
    assert corral("run", "x", server=FakeServer(sse(created(), completed(status)))).code == code


def test_json_prints_one_event_per_line_and_nothing_else(corral: Corral) -> None:
    events = [created(), *STEPS, completed()]
    outcome = corral("run", "x", "--json", server=FakeServer(sse(*events)))
    assert [json.loads(line) for line in outcome.out.splitlines()] == events
    assert "\x1b" not in outcome.out


def test_an_error_event_is_shown(corral: Corral) -> None:
    error = {"event_type": "error", "event_id": "e2", "error": {"code": "model_auth", "message": "No\x1b[31m key."}}
    outcome = corral("run", "x", server=FakeServer(sse(created(), error, completed("failed"))))
    assert outcome.code == 1
    assert "error: No key. [model_auth]" in outcome.out


def test_an_early_end_says_why(corral: Corral) -> None:
    end = completed("incomplete")
    end["interaction"]["errors"] = [{"code": "max_turns", "message": "Asked\x1b[31m often."}]
    outcome = corral("run", "x", server=FakeServer(sse(created(), end)))
    assert outcome.code == 4
    assert "Asked often. [max_turns]" in outcome.out


def test_files_become_inline_sources(corral: Corral, folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"\x00\xff")
    (folder / "b:c").write_text("colon")
    server = FakeServer(sse(created(), completed()))
    corral("run", "x", "--file", "a.bin", "--file", "a.bin:data/b.bin", "--file", "b:c", server=server)
    environment = server.body()["environment"]
    assert environment["type"] == "remote"
    assert [source["target"] for source in environment["sources"]] == ["workspace/a.bin", "data/b.bin", "workspace/b:c"]
    assert environment["sources"][0]["encoding"] == "base64"
    assert base64.b64decode(environment["sources"][0]["content"]) == b"\x00\xff"


@pytest.mark.parametrize(("env", "expected"), [("none", None), ("remote", "remote"), (ENVIRONMENT, ENVIRONMENT)])
def test_environments(corral: Corral, env: str, expected: str | None) -> None:
    server = FakeServer(sse(created(), completed()))
    corral("run", "x", "--env", env, server=server)
    assert server.body().get("environment") == expected


def test_another_model(corral: Corral) -> None:
    server = FakeServer(sse(created(), completed()))
    corral("run", "x", "--model", "replay:a.jsonl", server=server)
    assert server.body()["agent_config"] == {"type": "antigravity", "model": "replay:a.jsonl"}


def test_files_into_an_environment_that_is_there(corral: Corral, folder: Path) -> None:
    (folder / "a").write_text("x")
    server = FakeServer(sse(created(), completed()))
    corral("run", "x", "--env", ENVIRONMENT, "--file", "a", server=server)
    assert server.body()["environment"]["environment_id"] == ENVIRONMENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--file", "gone.txt"), "cannot read gone.txt"), (("--env", "none", "--file", "a"), "files need an environment")],
)
def test_wrong_use_asks_nothing_of_the_server(
    corral: Corral, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "a").write_text("x")
    server = FakeServer()
    outcome = corral("run", "x", *arguments, server=server)
    assert outcome.code == 2
    assert message in outcome.err
    assert server.requests == []


def test_a_dash_reads_standard_input(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    server = FakeServer(sse(created(), completed()))
    corral("run", "-", server=server)
    assert server.body()["input"] == "from a pipe"


def test_background_prints_the_id_only(corral: Corral) -> None:
    server = FakeServer(answer({"id": INTERACTION, "status": "in_progress"}))
    outcome = corral("run", "x", "--background", server=server)
    assert (outcome.code, outcome.out) == (0, f"{INTERACTION}\n")
    assert server.body()["background"] is True
    assert "stream" not in server.body()
    assert f"corral logs -f {INTERACTION}" in outcome.err


def test_a_refusal_is_exit_code_2(corral: Corral) -> None:
    server = FakeServer(refusal(404, "not_found", "Agent 'genral' not found (closest known name: 'general')."))
    outcome = corral("run", "x", "--agent", "genral", server=server)
    assert outcome.code == 2
    assert "closest known name: 'general'" in outcome.err


def test_a_cut_stream_is_taken_up_after_the_last_event(corral: Corral) -> None:
    first = sse(created(), *STEPS[:4], then=httpx2.ReadError("reset"))
    second = sse(*STEPS[4:10], is_done=False)
    server = FakeServer(first, second, sse(*STEPS[10:], completed()))
    outcome = corral("run", "x", server=server)
    assert outcome.code == 0
    assert outcome.out.count("ls /workspace") == 1
    assert "Two files." in outcome.out
    assert [request.url.params.get("last_event_id") for request in server.requests] == [
        None,
        STEPS[3]["event_id"],
        STEPS[9]["event_id"],
    ]
    assert server.requests[1].url.path == f"/v1beta/interactions/{INTERACTION}"


def test_a_stream_that_stays_cut_says_how_to_go_on(corral: Corral) -> None:
    server = FakeServer(sse(created(), then=httpx2.ReadError("reset")), *[sse(is_done=False) for _ in range(5)])
    outcome = corral("run", "x", server=server)
    assert outcome.code == 2
    assert f"corral logs -f {INTERACTION}" in outcome.err


def test_ctrl_c_cancels_the_interaction(corral: Corral) -> None:
    server = FakeServer(sse(created(), *STEPS[:4], then=KeyboardInterrupt()), answer({"status": "cancelled"}))
    outcome = corral("run", "x", server=server)
    assert outcome.code == 130
    assert server.requests[1].method == "POST"
    assert server.requests[1].url.path == f"/v1beta/interactions/{INTERACTION}/cancel"
    assert outcome.err == f"corral: cancelled {INTERACTION}\n"


def test_a_long_output_is_shown_with_head_and_tail(corral: Corral) -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    result = {"type": "code_execution_result", "result": text, "is_error": True}
    events = step(0, {"type": "code_execution_result", "call_id": "c"}, result)
    out = corral("run", "x", server=FakeServer(sse(created(), *events, completed()))).out
    assert "  line 29\n  … 940 lines …\n  line 970\n" in out


def test_events_of_a_newer_server_do_no_harm(corral: Corral) -> None:
    odd = [
        {"event_type": "interaction.paused", "event_id": "e2"},
        *step(0, {"type": "telepathy_call", "id": "t"}, {"type": "telepathy_call", "arguments": {"to": "you"}}),
        *step(1, {"type": "telepathy_result"}, {"type": "telepathy_result", "result": {"heard": True}}),
        {"event_type": "step.delta", "event_id": "e3", "index": 77, "delta": {"type": "text", "text": "no start"}},
    ]
    outcome = corral("run", "x", server=FakeServer(sse(created(), *odd, completed())))
    assert outcome.code == 0
    assert '● telepathy(to="you")' in outcome.out
    assert '{"heard": true}' in outcome.out
