"""Agents that are tested without tokens: recorded and played again in real containers, also from the command line."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.exits import Exit
from orchestrator.config import Settings
from tests.e2e.programs import bash, call, python, results, run_bash, run_python, script, text_of
from tests.e2e.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing-agents.md"
STORY = script(
    {"thought": "Look first.", **run_bash("uname -s; echo $HOME; echo kept >a.txt")},
    run_python("x = 6 * 7\nprint(x)\nopen('a.txt').read()"),
    call("edit_file", path="a.txt", old_text="kept", new_text="changed"),
    run_bash("cat a.txt; exit 3"),
    {"text": "It said {{last}}"},
)


@pytest.fixture(scope="module")
def recording(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that records."""
    server = ServerProcess(engine, tmp_path_factory.mktemp("recording"), RECORD="1")
    server.start()
    yield server
    server.close()


def playing(name: str) -> dict[str, Any]:
    return {"agent_config": {"type": "antigravity", "model": f"replay:{name}"}}


def outcomes(interaction: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(step["type"], text_of(step), step["is_error"]) for step in results(interaction)]


def test_a_run_with_code_is_recorded_and_played_again(recording: ServerProcess) -> None:
    with recording.caller() as caller:
        first = caller.create(STORY, "remote")
        assert first["status"] == "completed", first
        (file,) = recording.data_dir.glob(f"cassettes/prj_*/{first['id']}.jsonl")
        again = caller.create(STORY, "remote", **playing(file.name))
    assert again["status"] == "completed", again.get("errors")
    assert again["environment_id"] != first["environment_id"]
    assert outcomes(again) == outcomes(first)
    assert [text for _, text, _ in outcomes(first)][:2] == ["Linux\n/home/agent\n", "42\n'kept\\n'\n"]
    assert again["output_text"] == first["output_text"]
    assert again["usage"] == first["usage"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not outcomes(first)[2][2]
    assert len(file.read_text().splitlines()) == 1 + 5


def test_a_run_that_leaves_its_recording_fails_and_says_where(recording: ServerProcess) -> None:
    program = bash("date +%N")
    with recording.caller() as caller:
        name = f"{caller.create(program, 'remote')['id']}.jsonl"
    failed = recording.cli("run", program, "--model", f"replay:{name}")
    assert failed.returncode == Exit.FAILED, failed.stdout
    assert (
        f"The run leaves its recording '{name}' at turn 1: history[2] (code_execution_result).result:" in failed.stdout
    )
    assert "[replay_diverged]" in failed.stdout
    other = recording.cli("run", bash("date"), "--model", f"replay:{name}", "--env", "none")
    assert other.returncode == Exit.FAILED
    assert "at turn 0: " in other.stdout


@pytest.mark.parametrize(
    ("program", "at"),
    [
        (bash("echo one; date +%N"), "1. bash: echo one; date +%N"),
        (
            python("import random\nprint('one')\nrandom.random()"),
            "1. python: import random print('one') random.random()",
        ),
    ],
    ids=["the time", "a random number"],
)
def test_replay_shows_where_results_differ(server: ServerProcess, program: str, at: str) -> None:
    with server.caller() as caller:
        first = caller.create(program, "remote")
        before = set(caller.environments())
        shown = server.cli("replay", first["id"])
        reported = server.cli("replay", first["id"], "--json")
        assert set(caller.environments()) == before, "a replay leaves no environment"
    assert (shown.returncode, reported.returncode) == (Exit.FAILED, Exit.FAILED), shown.stderr + reported.stderr
    lines = shown.stdout.splitlines()
    assert lines[:4] == [at, "  differs", "  --- recorded", "  +++ now"]
    assert "   one" in lines, "what is the same is no difference"
    assert sum(line.startswith("  +") for line in lines) == sum(line.startswith("  -") for line in lines) == 2
    assert lines[-1] == "1 of 1 results differ"
    report = json.loads(reported.stdout)
    assert report["differs"]
    assert report["results"][0]["recorded"] == text_of(results(first)[0])
    assert report["results"][0]["now"] != report["results"][0]["recorded"]


def test_replay_of_what_leaves_nothing_to_chance_shows_nothing(server: ServerProcess) -> None:
    """Twice: what a replay does in its environment is not there for the next one, nor for the first."""
    with server.caller() as caller:
        first = caller.create(STORY, "remote")
        for _ in range(2):
            same = server.cli("replay", first["id"])
            assert same.returncode == Exit.OK, same.stdout + same.stderr
            assert same.stdout.splitlines()[-1] == "0 of 4 results differ"
        kept = server.cli("replay", first["id"], "--keep")
        environment = re.search(r"environment (\w+)", kept.stderr)
        assert environment is not None
        assert environment[1] in caller.environments()
        looked = caller.create(bash("cat a.txt"), environment[1])
        assert [text for _, text, _ in outcomes(looked)] == ["changed\n"]
    unknown = server.cli("replay", "v1_unknown")
    assert unknown.returncode == Exit.USAGE
    assert "not found" in unknown.stderr


def test_the_page_for_users_runs_as_it_stands(recording: ServerProcess) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "corral run" in block]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        env={**recording.variables, "CORRAL_URL": recording.url, "PYTHONPATH": os.fspath(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completed · " in done.stdout
    assert "0 of 2 results differ" in done.stdout
    assert "at turn 0: history[0] (user_input)" in done.stdout
