"""Skills in real containers: from the server's registry and inline, told by name, read and run when they are needed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.caller import Caller
from tests.e2e.conftest import StartServer
from tests.e2e.providers import provider, settings_of
from tests.e2e.server import ServerProcess
from tests.e2e.test_examples import CLIENTS_PYTHON, ROOT, run_example
from tests.fakes.model_servers import Answer, ModelServer

DRAWS = """\
---
name: charts
description: Draws charts.
---
Use red for costs. Run scripts/draw.
"""
WRITES = """\
---
name: letters
description: Writes letters.
---
Begin with the date.
"""
CLERK = """\
id: clerk
tools: [{type: code_execution}]
base_environment:
  sources:
    - {type: skill_registry, source: charts}
"""
REGISTERED = {"type": "skill_registry", "source": "charts"}


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    """A folder of skills of the operator's own, with one in it."""
    place = tmp_path / "skills" / "charts"
    (place / "scripts").mkdir(parents=True)
    (place / "SKILL.md").write_text(DRAWS)
    (place / "scripts" / "draw").write_text("#!/bin/sh\necho drawn by $(id -un)\n")
    (place / "scripts" / "draw").chmod(0o755)
    return place.parent


def told(model: ModelServer, number: int) -> str:
    """The system prompt of the model's call `number`."""
    (system,) = [each["content"] for each in model.requests[number]["messages"] if each["role"] == "system"]
    return str(system)


def test_an_agent_is_told_of_its_skills_reads_one_and_runs_its_program(
    start_server: StartServer, skills: Path, tmp_path: Path
) -> None:
    agents = tmp_path / "agents"
    (agents / "clerk").mkdir(parents=True)
    (agents / "clerk" / "agent.yaml").write_text(CLERK)
    reads = Answer(calls=(("read_file", json.dumps({"path": "/.agents/skills/charts/SKILL.md"})),))
    code = "/.agents/skills/charts/scripts/draw; ls -A /.agents/skills"
    runs = Answer(calls=(("code_execution", json.dumps({"language": "bash", "code": code})),))
    done = Answer(text=("Done.",))
    inline = {"type": "inline", "target": ".agents/skills/letters/SKILL.md", "content": WRITES}
    with provider("openai", reads, *[runs, done] * 3) as model:
        server = start_server(**settings_of(model), SKILLS_DIR=str(skills), AGENTS_DIR=str(agents))
        with server.caller() as caller:
            first = caller.create("Go.", {"type": "remote", "sources": [inline]}, agent="clerk")
            (skills / "charts" / "scripts" / "draw").write_text("#!/bin/sh\necho drawn anew\n")
            second = caller.create("Go.", "remote", agent="clerk")
            kept = caller.create("Go.", first["environment_id"], agent="clerk")
    assert [each["status"] for each in (first, second, kept)] == ["completed"] * 3, first
    system = told(model, 0)
    assert "- charts (/.agents/skills/charts/SKILL.md): Draws charts." in system
    assert "- letters (/.agents/skills/letters/SKILL.md): Writes letters." in system
    assert "Use red" not in system
    assert "Begin with the date" not in system
    assert "Use red for costs." in json.dumps(model.requests[1]["messages"])
    assert "drawn by agent\\ncharts\\nletters\\n" in json.dumps(first["steps"])
    assert "drawn anew\\ncharts\\n" in json.dumps(second["steps"]), "a changed skill is another template"
    assert "drawn by agent" in json.dumps(kept["steps"]), "and changes no environment that is there"
    assert len([line for line in server.log() if line.get("event") == "template_built"]) == 2


def test_what_is_wrong_with_a_skill_is_said_before_anything_is_made(start_server: StartServer, skills: Path) -> None:
    (skills / "bomb").mkdir()
    (skills / "bomb" / "SKILL.md").write_text("---\na: &a [x]\nname: bomb\ndescription: x\n---\n")
    server = start_server(SKILLS_DIR=str(skills))
    with server.caller() as caller:

        def refused(path: str, body: dict[str, object]) -> str:
            answer = caller.http.post(f"/v1beta/{path}", json=body)
            assert answer.status_code == 400, answer.text
            return str(answer.json()["error"]["message"])

        for name, why in (
            ("bomb", "skill 'bomb' cannot be used: its front matter has anchors or aliases"),
            ("chart", "the server has no skill 'chart'; it has charts, "),
        ):
            sources = [{"type": "skill_registry", "source": name}]
            spec = {"type": "remote", "sources": sources}
            assert why in refused("environments", {"sources": sources})
            assert why in refused("interactions", {"agent": "general", "input": "x", "environment": spec})
            said = refused("agents", {"id": "clerk", "base_environment": spec})
            assert f"'base_environment.sources[0].source': {why}" in said
        assert caller.http.get("/v1beta/environments").json()["environments"] == []
        made = caller.http.post("/v1beta/environments", json={"sources": [REGISTERED]}).json()
        (source,) = made["sources"]
        assert (source["target"], len(source["sha256"])) == (".agents/skills/charts", 64)
        assert "drawn" in json.dumps(caller.create("```bash\n/.agents/skills/charts/scripts/draw\n```", made["id"]))


@pytest.fixture(scope="module")
def analyst(caller: Caller) -> Iterator[str]:
    """An environment of a shipped agent."""
    made = caller.create("```bash\ntrue\n```", "remote", agent="data-analyst")["environment_id"]
    yield made
    caller.delete_environment(made)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "printf 'a,b\\n007,1\\n' > d.csv; python /.agents/skills/data-analysis/scripts/look.py d.csv",
            "1 value(s) with leading zeros",
        ),
        (
            "cp /.agents/skills/report-writing/assets/report.md . && "
            "python3 /.agents/skills/report-writing/scripts/check.py report.md",
            "not filled in",
        ),
        ("cd /tmp && sed -n '/^```python/,/^```$/{/^```/!p}' "
         "/.agents/skills/data-analysis/references/charts.md | python3 && file *.png", "PNG image data"),
    ],
)  # fmt: skip
def test_programs_of_shipped_skills_run_in_the_sandbox(caller: Caller, analyst: str, code: str, says: str) -> None:
    ran = caller.create(f"~~~~bash\n{code}\n~~~~" if "```" in code else f"```bash\n{code}\n```", analyst)
    assert says in json.dumps(ran["steps"]), ran


EXAMPLES = sorted((ROOT / "skills" / "interactions-api").rglob("*.md"))


@pytest.mark.timeout(120)
@pytest.mark.skipif(None in (shutil.which("curl"), shutil.which("jq")), reason="curl or jq is not installed")
@pytest.mark.parametrize("file", [pytest.param(each, id=each.stem) for each in EXAMPLES])
def test_the_examples_that_teach_this_api_run_as_they_stand(server: ServerProcess, file: Path) -> None:
    def blocks(language: str) -> str:
        found = re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.DOTALL | re.MULTILINE)
        return "\n".join(found)

    assert blocks("bash")
    assert blocks("python")
    run_example(server, "bash", "-euo", "pipefail", "-c", blocks("bash"))
    run_example(server, str(CLIENTS_PYTHON), "-c", blocks("python"))


def test_the_client_to_copy_from_works(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    program = str(ROOT / "skills" / "interactions-api" / "scripts" / "ask.py")
    prompt = "```bash\ncat data.csv; ls /.agents/skills\n```"
    said = run_example(
        server, sys.executable, program, prompt, "--file", str(tmp_path / "data.csv"), "--skill", "web-research"
    )
    assert "1,2\nweb-research" in said
