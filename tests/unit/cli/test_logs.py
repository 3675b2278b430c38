from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2

from tests.fakes.wire_server import ENVIRONMENT, INTERACTION, FakeServer, journal, ndjson, refusal
from tests.unit.cli.conftest import Corral


def shown(corral: Corral, *entries: dict[str, object]) -> list[str]:
    """The lines without their time stamps and sources."""
    out = corral("logs", "x", server=FakeServer(ndjson(*entries))).out
    assert "\x1b" not in out
    return [line.split(" ", 2)[2] for line in out.splitlines()]


def test_time_source_and_lifecycle(corral: Corral) -> None:
    server = FakeServer(ndjson(journal("sandbox.started", {"sandbox_id": "s", "duration_ms": 400}, ENVIRONMENT)))
    out = corral("logs", ENVIRONMENT, server=server).out
    assert out == "09:00:41.120 7d915c44 sandbox.started sandbox_id=s duration_ms=400\n"
    assert str(server.requests[0].url).endswith(f"/ops/logs/{ENVIRONMENT}?follow=false")


def test_a_call_its_output_by_whole_lines_and_its_end(corral: Corral) -> None:
    code = {"language": "bash", "code": "for i in 1 2\ndo echo $i; done\n"}
    lines = shown(
        corral,
        journal("tool.started", {"call_id": "c", "tool": "code_execution", "arguments": code}),
        journal("tool.output", {"call_id": "c", "text": "on"}),
        journal("tool.output", {"call_id": "c", "text": "e\n\x1b[2Jtwo\nlast"}),
        journal("tool.ended", {"call_id": "c", "verdict": "exited", "exit_code": 0, "duration_ms": 12.4}),
    )
    assert lines == [
        "▶ bash: for i in 1 2",
        "  … do echo $i; done",
        "  │ one",
        "  │ two",
        "  │ last",
        "✓ exited 0 · 12 ms",
    ]


def test_output_of_calls_at_once_is_not_mixed(corral: Corral) -> None:
    lines = shown(
        corral,
        journal("tool.output", {"call_id": "a", "text": "al"}),
        journal("tool.output", {"call_id": "b", "text": "be"}),
        journal("tool.output", {"call_id": "a", "text": "pha\n"}),
        journal("tool.output", {"call_id": "b", "text": "ta\n"}),
    )
    assert lines == ["  │ alpha", "  │ beta"]


def test_a_call_that_failed(corral: Corral) -> None:
    lines = shown(
        corral,
        journal("tool.started", {"call_id": "c", "tool": "read_file", "arguments": {"path": "a\nb"}}),
        journal("tool.ended", {"call_id": "c", "verdict": "timeout", "exit_code": None, "duration_ms": 600_000}),
    )
    assert lines == ["▶ read_file path=a\\nb", "✗ timeout · 10 min 0 s"]


def test_what_the_model_says_is_one_entry_per_step(corral: Corral) -> None:
    thought = {"type": "thought_summary", "content": {"type": "text", "text": "Hm."}}
    lines = shown(
        corral,
        journal("interaction.created", {"interaction": {"agent": "general"}}),
        journal("step.start", {"index": 0, "step": {"type": "thought"}}),
        journal("step.delta", {"index": 0, "delta": thought}),
        journal("step.stop", {"index": 0}),
        journal("step.delta", {"index": 1, "delta": {"type": "text", "text": "All "}}),
        journal("step.delta", {"index": 1, "delta": {"type": "text", "text": "done."}}),
        journal("step.stop", {"index": 1}),
        journal("step.stop", {"index": 2}),
        journal("interaction.completed", {"interaction": {"status": "completed"}}),
    )
    assert lines == [
        "interaction created: general",
        "thought: Hm.",
        "says: All done.",
        "interaction completed",
    ]


def test_what_a_run_was_told_is_a_line_for_each_file(corral: Corral) -> None:
    skill = {"name": "charts", "description": "Draws\x1b[31m charts.", "path": "/.agents/skills/charts/SKILL.md"}
    told = {
        "guides": [{"path": "/workspace/AGENTS.md", "text": "Be brief.", "left_out_bytes": 0}],
        "skills": [skill],
        "unread": [{"path": "/.agents/AGENTS.md", "reason": "not a regular file"}],
    }
    assert shown(corral, journal("context.read", told)) == [
        "read /workspace/AGENTS.md: 9 characters",
        "skill charts: Draws charts.",
        "not read /.agents/AGENTS.md: not a regular file",
    ]


def test_unknown_kinds_are_shown_as_they_are(corral: Corral) -> None:
    lines = shown(corral, journal("turn.failed", {"code": "model_overloaded", "message": "Busy\x07.", "detail": None}))
    assert lines == ["turn.failed code=model_overloaded message=Busy."]


def test_following_asks_for_it_and_ends_quietly_with_ctrl_c(corral: Corral) -> None:
    def endless() -> Iterator[bytes]:
        yield (json.dumps(journal("run.started", {})) + "\n").encode()
        raise KeyboardInterrupt

    server = FakeServer(httpx2.Response(200, content=endless()))
    outcome = corral("logs", "-f", INTERACTION, server=server)
    assert outcome.code == 130
    assert outcome.err == ""
    assert "run.started" in outcome.out
    assert server.requests[0].url.params["follow"] == "true"


def test_json_is_the_journal(corral: Corral) -> None:
    entry = journal("run.ended", {"status": "completed"})
    assert json.loads(corral("logs", "x", "--json", server=FakeServer(ndjson(entry))).out) == entry


def test_an_unknown_id_is_exit_code_2(corral: Corral) -> None:
    outcome = corral("logs", "x", server=FakeServer(refusal(404, "not_found", "Nothing is called 'x'.")))
    assert (outcome.code, outcome.out) == (2, "")
    assert "Nothing is called 'x'." in outcome.err
