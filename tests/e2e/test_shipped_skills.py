"""What the shipped skills teach and bring works: examples against a real server, scripts in a real sandbox."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.caller import Caller
from tests.e2e.client_programs import LATEST
from tests.e2e.programs import only_result
from tests.e2e.server import ServerProcess

SKILLS = Path(__file__).resolve().parents[2] / "skills"
API = SKILLS / "interactions-api"
SAID = "http://127.0.0.1:8080"
TABLE = """\
region,amount,when
north,"1,200",2024-01-02
south,80,03.01.2024
North,30,2024-01-05
south,80,03.01.2024
Total,1390,
"""


def run(server: ServerProcess, *command: str) -> str:
    variables = {"CORRAL_URL": server.url, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("SKILL.md", "completed "),
        ("references/streaming.md", "cancelled"),
        ("references/environments.md", "3 in/notes.txt"),
        ("references/functions.md", "completed {'amount': 300}"),
        ("references/agents.md", "no,amount\n1,120"),
    ],
)
def test_the_programs_that_it_teaches_run(server: ServerProcess, page: str, shown: str) -> None:
    program = "\n".join(blocks(API / page, "python")).replace(SAID, server.url)
    assert server.url in program
    assert shown in run(server, str(LATEST / "python"), "-W", "ignore", "-c", program)


def test_all_its_programs_are_run() -> None:
    tested = {"SKILL.md", *(f"references/{name}.md" for name in ("streaming", "environments", "functions", "agents"))}
    assert {str(page.relative_to(API)) for page in API.rglob("*.md") if blocks(page, "python")} == tested


def test_plain_http_as_it_teaches_it(server: ServerProcess) -> None:
    (block,) = blocks(API / "references/http.md", "bash")
    assert "5050" in run(server, "bash", "-c", block)
    asked = "Count.\n```python\nsum(range(101))\n```"
    told = run(server, "python3", str(API / "scripts/ask.py"), "--url", server.url, asked)
    assert "[code_execution_result]\n5050" in told
    assert "\ncompleted\ninteraction v1_" in told


def in_sandbox(caller: Caller, code: str, **files: str) -> str:
    """What a command prints in a sandbox that has the scripts of the skills, and these files."""
    sources: list[dict[str, Any]] = [
        {"type": "inline", "target": f".agents/skills/{path.relative_to(SKILLS)}", "content": path.read_text()}
        for path in SKILLS.glob("*/scripts/*.py")
    ]
    sources += [{"type": "inline", "target": f"workspace/{name}", "content": text} for name, text in files.items()]
    return only_result(caller.create(f"```bash\n{code}\n```", {"type": "remote", "sources": sources}))


def test_its_scripts_run_in_a_sandbox(caller: Caller) -> None:
    profile = "python3 /.agents/skills/data-analysis/scripts/profile.py"
    seen = in_sandbox(caller, f"{profile} sales.csv; {profile} none.csv; echo $?", **{"sales.csv": TABLE})
    assert "sales.csv: 5 rows, 3 columns" in seen
    for trouble in (
        "1 rows are there twice",
        "'region': 1 rows look like totals",
        "'region': values differ only in upper and lower case",
        "'amount': numbers as text, with signs or separators, such as '1,200'",
        "'when': dates in 2 formats",
    ):
        assert f"! {trouble}" in seen
    assert "none.csv cannot be read as a table" in seen
    report = "# T\n\nA claim [1].\n\n## Sources\n\n1. A, 2024. https://a.example\n"
    check = "/.agents/skills/report-writing/scripts/check_report.py"
    cite = "/.agents/skills/web-research/scripts/citations.py"
    seen = in_sandbox(caller, f"python3 {check} r.md && python3 {cite} r.md", **{"r.md": report})
    assert seen == "nothing to stumble over\neach citation has its source, each source is cited\n"
