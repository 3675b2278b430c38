"""Agents of a project in real containers: by the official SDK, and from a folder by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caller import Caller
from tests.e2e.client_programs import Saw, python_program, saw_by
from tests.e2e.server import ServerProcess

PROGRAM = python_program("managed_agents")
pytestmark = pytest.mark.timeout(120)

TEXT = """\
id: {id}
base_agent: antigravity-preview-09-2026
description: {description}
instructions: End with a table.
tools:
  - type: code_execution
environment:
  type: remote
  env: {{MODE: test}}
examples:
  - name: reads
    prompt: |
      ```bash
      cat data.csv note.md /.agents/AGENTS.md /.agents/skills/tables/SKILL.md; echo $MODE
      ```
    expect: ["1,2", Be brief, test]
"""


@pytest.fixture(scope="module")
def saw(request: pytest.FixtureRequest, server: ServerProcess) -> Saw:
    return saw_by(request, server, PROGRAM)


@pytest.fixture
def clerk(tmp_path: Path) -> Path:
    """A folder as the public command line has it."""
    place = tmp_path / "folder-clerk"
    for name, content in (
        ("agent.yaml", TEXT.format(id="folder-clerk", description="one").encode()),
        ("AGENTS.md", b"# Rules\nBe brief.\n"),
        ("skills/tables/SKILL.md", b"---\nname: tables\ndescription: Makes tables.\n---\nUse pipes.\n"),
        ("workspace/data.csv", b"1,2\n"),
        ("workspace/note.md", b"a note\n"),
        ("workspace/logo.bin", b"\x00\xff\x00"),
    ):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def test_the_sdk_defines_runs_and_deletes_an_agent(saw: Saw) -> None:
    seen = saw("agents")
    assert seen["made"] == [
        "ledger-clerk",
        "antigravity-preview-09-2026",
        "Reconciles ledgers",
        "End with a table.",
    ]
    assert seen["sources"] == ["Be brief."]
    assert seen["runs"] == ["Be brief.", "Be brief."]
    assert seen["environments"] == 3
    assert seen["goes on"] == "mine"
    assert seen["pinned"] == ["Be brief.", "ledger-clerk"]
    assert {"ledger-clerk", "general", "coder", "data-analyst", "web-researcher"} <= set(seen["listed"])
    assert seen["after"] == "404"
    assert seen["kept"] == ["completed", "ledger-clerk"]


def test_a_folder_is_deployed_changed_and_called(server: ServerProcess, caller: Caller, clerk: Path) -> None:
    def corral(*arguments: str, code: int = 0) -> str:
        done = server.cli("agents", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    place = str(clerk)
    assert "folder-clerk is right" in corral("validate", place)
    assert "✓ reads" in corral("examples", "run", place)
    assert corral("diff", place, code=1).startswith("--- not deployed")
    assert corral("deploy", place) == "folder-clerk: version 1\n"
    assert corral("deploy", place) == "folder-clerk: version 1, unchanged\n"
    assert corral("diff", place) == ""
    assert "✓ reads" in corral("examples", "run", place, "--deployed")

    (clerk / "workspace/data.csv").write_text("3,4\n")
    assert "+  3,4" in corral("diff", place, code=1)
    assert corral("deploy", place) == "folder-clerk: version 2\n"

    def seen(agent: str) -> tuple[Any, Any]:
        ran = caller.create("```bash\ncat data.csv; sha256sum logo.bin | cut -c1-8\n```", "remote", agent=agent)
        (result,) = [step for step in ran["steps"] if step["type"] == "code_execution_result"]
        return result["result"].split(), ran["agent_version"]

    assert seen("folder-clerk") == (["3,4", "2c8d07cd"], 2)
    assert seen("folder-clerk@1") == (["1,2", "2c8d07cd"], 1)
    assert corral("rollback", "folder-clerk", "1") == "folder-clerk: version 3\n"
    assert seen("folder-clerk") == (["1,2", "2c8d07cd"], 3)
    listed = json.loads(corral("versions", "folder-clerk", "--json"))["versions"]
    assert [each["version"] for each in listed] == [3, 2, 1]
    assert corral("delete", "folder-clerk") == "folder-clerk\n"
    assert server.cli("agents", "get", "folder-clerk").returncode == 2


def test_a_fault_is_told_with_file_and_line_before_anything_is_sent(server: ServerProcess, clerk: Path) -> None:
    text = (clerk / "agent.yaml").read_text().replace("code_execution", "code_exec")
    (clerk / "agent.yaml").write_text(text)
    done = server.cli("agents", "deploy", str(clerk))
    assert done.returncode == 2
    assert f"{clerk}/agent.yaml:6: Unknown tool type 'code_exec'" in done.stderr.replace("\n", "")
