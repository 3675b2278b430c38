from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from orchestrator.cli import replay
from orchestrator.cli.replay import Pair, Result, pair, results
from tests.fakes.wire_server import INTERACTION, FakeServer, answer, completed, created, refusal, sse
from tests.unit.cli.conftest import Corral

AGAIN = "v1_again"
FRESH = "0" * 32


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_RESUME_PAUSE_S", 0)


def code(call_id: str, text: str, result: Any, *, is_error: bool = False) -> list[dict[str, Any]]:
    return [
        {"type": "code_execution_call", "id": call_id, "arguments": {"language": "bash", "code": text}},
        {"type": "code_execution_result", "call_id": call_id, "result": result, "is_error": is_error},
    ]


def interaction(identity: str, *steps: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"id": identity, "status": status, "steps": list(steps), **fields}


def served(recorded: dict[str, Any], now: dict[str, Any]) -> FakeServer:
    started = {"id": AGAIN, "status": "in_progress", "environment_id": FRESH}
    return FakeServer(answer(started), sse(created(), completed()), answer(now), answer(recorded), answer({}))


def test_where_nothing_differs(corral: Corral) -> None:
    server = served(
        interaction(INTERACTION, *code("a", "date\n", "same\n")), interaction(AGAIN, *code("b", "date\n", "same\n"))
    )
    outcome = corral("replay", INTERACTION, server=server)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == ["1. bash: date", "  same", "0 of 1 results differ"]
    asked = [(request.method, request.url.path) for request in server.requests]
    assert asked == [
        ("POST", f"/v1beta/interactions/{INTERACTION}/replay"),
        ("GET", f"/v1beta/interactions/{AGAIN}"),
        ("GET", f"/v1beta/interactions/{AGAIN}"),
        ("GET", f"/v1beta/interactions/{INTERACTION}"),
        ("DELETE", f"/v1beta/environments/{FRESH}"),
    ]


def test_where_results_differ_is_shown_and_harmless(corral: Corral) -> None:
    then = interaction(INTERACTION, *code("a", "pwd", "/workspace\n"), *code("b", "date", "head\none\ntail\n"))
    now = interaction(AGAIN, *code("x", "pwd", "/workspace\n"), *code("y", "date", "head\n\x1b[2Jtwo\ntail\n"))
    outcome = corral("replay", INTERACTION, server=served(then, now))
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        "1. bash: pwd",
        "  same",
        "2. bash: date",
        "  differs",
        "  --- recorded",
        "  +++ now",
        "  @@ -1,3 +1,3 @@",
        "   head",
        "  -one",
        "  +two",
        "   tail",
        "1 of 2 results differ",
    ]


def test_another_end_is_a_difference(corral: Corral) -> None:
    error = {"code": "replay_diverged", "message": "The run leaves\x1b[2J its recording."}
    then, now = interaction(INTERACTION), interaction(AGAIN, status="failed", errors=[error])
    outcome = corral("replay", INTERACTION, server=served(then, now))
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        "The run leaves its recording. [replay_diverged]",
        "then it was completed, now it is failed",
        "0 of 0 results differ",
    ]


def test_json_has_the_whole_results(corral: Corral) -> None:
    then, now = (interaction(name, *code("a", "date", name)) for name in (INTERACTION, AGAIN))
    outcome = corral("replay", INTERACTION, "--json", server=served(then, now))
    assert outcome.code == 1
    assert json.loads(outcome.out) == {
        "interaction": INTERACTION,
        "replay": AGAIN,
        "differs": True,
        "status": {"recorded": "completed", "now": "completed"},
        "errors": [],
        "results": [{"call": "bash: date", "recorded": INTERACTION, "now": AGAIN, "differs": True}],
    }


def test_the_environment_may_be_kept(corral: Corral) -> None:
    server = served(interaction(INTERACTION), interaction(AGAIN))
    outcome = corral("replay", INTERACTION, "--keep", server=server)
    assert outcome.code == 0
    assert FRESH in outcome.err
    assert {request.method for request in server.requests} == {"POST", "GET"}


def test_without_an_environment_nothing_is_deleted(corral: Corral) -> None:
    started = {"id": AGAIN, "status": "in_progress"}
    over = [answer(interaction(AGAIN)), answer(interaction(INTERACTION))]
    server = FakeServer(answer(started), sse(created(), completed()), *over)
    assert corral("replay", INTERACTION, server=server).code == 0


def test_a_stream_that_is_cut_is_taken_up(corral: Corral) -> None:
    cut = sse(created(), then=httpx2.ReadError("cut"))
    started = answer({"id": AGAIN, "status": "in_progress"})
    running = answer(interaction(AGAIN, status="in_progress"))
    over = [answer(interaction(AGAIN)), answer(interaction(INTERACTION))]
    server = FakeServer(started, cut, running, sse(created(), completed()), *over)
    assert corral("replay", INTERACTION, server=server).code == 0


def test_ctrl_c_cancels_it_and_leaves_nothing(corral: Corral) -> None:
    started = answer({"id": AGAIN, "status": "in_progress", "environment_id": FRESH})
    server = FakeServer(started, sse(created(), then=KeyboardInterrupt()), answer({}), answer({}))
    outcome = corral("replay", INTERACTION, server=server)
    assert outcome.code == 130
    assert [(request.method, request.url.path) for request in server.requests[2:]] == [
        ("POST", f"/v1beta/interactions/{AGAIN}/cancel"),
        ("DELETE", f"/v1beta/environments/{FRESH}"),
    ]


def test_a_refusal_is_exit_code_2(corral: Corral) -> None:
    outcome = corral("replay", "v1_x", server=FakeServer(refusal(404, "not_found", "Interaction 'v1_x' not found.")))
    assert (outcome.code, outcome.out) == (2, "")
    assert "not found" in outcome.err


# pairs


def test_results_as_text() -> None:
    image = {"type": "image", "mime_type": "image/png", "data": "AAAA"}
    other = {**image, "data": "BBBB"}
    steps = [
        {"type": "user_input", "content": []},
        *code("a", "x", [{"type": "text", "text": "chart\n"}, image]),
        *code("b", "y", "bad\n", is_error=True),
        {"type": "function_call", "id": "c", "name": "read_file", "arguments": {"path": "a"}},
        {"type": "function_result", "call_id": "c", "name": "read_file", "result": {"b": 1, "a": 2}},
        {"type": "google_search_call", "id": "d", "arguments": {"queries": ["q"]}},
        {"type": "google_search_result", "call_id": "d", "result": [{"error": "no"}]},
        {"type": "function_call", "id": "e", "name": "open", "arguments": {}},
    ]
    found = results(steps)
    assert [each.call for each in found] == [
        "bash: x",
        "bash: y",
        'read_file {"path": "a"}',
        'google_search {"queries": ["q"]}',
    ]
    assert found[0].text.startswith("chart\n[image/png ")
    assert found[0] != results(code("a", "x", [{"type": "text", "text": "chart\n"}, other]))[0]
    assert [each.text for each in found[1:]] == ["[failed]\nbad\n", '{"a": 2, "b": 1}', '{"error": "no"}']


def test_calls_that_were_made_once_stand_alone() -> None:
    then = [Result("a", "1"), Result("cut off", "[no result]"), Result("b", "2"), Result("c", "3")]
    now = [Result("a", "1"), Result("b", "x")]
    assert pair(then, now) == [
        Pair("a", "1", "1"),
        Pair("cut off", "[no result]", None),
        Pair("b", "2", "x"),
        Pair("c", "3", None),
    ]


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ("a\n", "a", "  +\\ no newline at the end"),
        ("a", "a\x07", "  only characters differ that no terminal shows"),
    ],
)
def test_small_differences_are_told(corral: Corral, then: str, now: str, told: str) -> None:
    sides = (interaction(name, *code("a", "x", text)) for name, text in ((INTERACTION, then), (AGAIN, now)))
    outcome = corral("replay", INTERACTION, server=served(*sides))
    assert outcome.code == 1
    assert told in outcome.out.splitlines()
