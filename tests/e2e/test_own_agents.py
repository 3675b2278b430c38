"""Agents of the operator's own: what their sandboxes may take, and the template that their environments begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caller import Caller, Json

CLERK = """\
id: clerk
tools: [{type: code_execution}]
sandbox: {memory_bytes: 268435456, cpus: 0.5, pids: 64, open_files: 512, disk_bytes: 134217728, call_timeout_s: 2}
base_environment:
  sources:
    - {type: inline, target: workspace/rules.md, content: Be brief.}
    - {type: inline, target: home/agent/.clerk, content: clerk}
"""


@pytest.fixture
def clerks(start_server: Any, tmp_path: Path) -> Any:
    place = tmp_path / "agents" / "clerk"
    place.mkdir(parents=True)
    (place / "agent.yaml").write_text(CLERK)
    return start_server(AGENTS_DIR=str(place.parent))


def ask(caller: Caller, code: str, environment: Any = "remote") -> Json:
    return caller.create(f"```bash\n{code}\n```", environment, agent="clerk")


def result_of(interaction: Json) -> Json:
    (result,) = [step for step in interaction["steps"] if step["type"] == "code_execution_result"]
    return dict(result)


def test_every_new_environment_is_a_fork_of_the_template(clerks: Any) -> None:
    with clerks.caller() as caller:
        for _ in range(3):
            seen = result_of(ask(caller, "cat rules.md ~/.clerk; rm rules.md; echo mine > ~/.clerk"))
            assert seen["result"] == "Be brief.clerk"
        own = {"type": "remote", "sources": [{"type": "inline", "target": "workspace/more", "content": "more"}]}
        assert result_of(ask(caller, "cat rules.md more", own))["result"] == "Be brief.more"
    built = [line for line in clerks.log() if line.get("event") == "template_built"]
    assert len(built) == 1


def test_its_limits_are_its_sandboxes_and_its_calls(clerks: Any) -> None:
    with clerks.caller() as caller:
        made = ask(caller, "ulimit -n; df --output=size -B1 /workspace | tail -1; nproc >/dev/null; echo $$ >/dev/null")
        files, disk_bytes = result_of(made)["result"].split()
        assert files == "512"
        assert 100 << 20 < int(disk_bytes) <= 128 << 20
        host = clerks.container(made["environment_id"]).attrs["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (268435456, 500_000_000, 64)
        late = result_of(ask(caller, "sleep 30", made["environment_id"]))
        assert "timed out after 2 s" in late["result"]
        full = result_of(ask(caller, "head -c 200000000 /dev/zero > big", made["environment_id"]))
        assert full["is_error"]
        assert "disk full" in full["result"]


def test_more_than_the_operator_allows_stops_the_start(start_server: Any, tmp_path: Path) -> None:
    place = tmp_path / "agents" / "clerk"
    place.mkdir(parents=True)
    (place / "agent.yaml").write_text(CLERK)
    server = start_server()
    outcome = server.cli(
        "doctor", "--json", variables={"CORRAL_AGENTS_DIR": str(place.parent), "CORRAL_MAXIMA__PIDS": "40"}
    )
    assert outcome.returncode == 1
    assert "maxima.pids" in outcome.stdout
