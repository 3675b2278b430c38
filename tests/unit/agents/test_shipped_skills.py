"""The skills that come with Corral: right by the open standard and by ours, whole, and their programs work."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from skills_ref.validator import validate

from orchestrator.agents.registry import AgentRegistry, shipped_folder
from orchestrator.agents.skill_registry import RegisteredSkill, SkillRegistry
from orchestrator.wire.sources import SkillRegistrySource

FOLDER = shipped_folder("skills")
REGISTRY = SkillRegistry.of(FOLDER)
SKILLS = sorted(place.parent for place in FOLDER.glob("*/SKILL.md"))
each_skill = pytest.mark.parametrize("place", [pytest.param(each, id=each.name) for each in SKILLS])


def test_they_are_all_there() -> None:
    known = REGISTRY.skills()
    assert [each.skill.name for each in known if isinstance(each, RegisteredSkill)] == [
        "data-analysis",
        "interactions-api",
        "report-writing",
        "web-research",
    ]
    assert len(known) == len(SKILLS)


@each_skill
def test_the_open_standard_and_we_agree_that_it_is_one(place: Path) -> None:
    assert validate(place) == []
    assert isinstance(REGISTRY.find(place.name), RegisteredSkill)


@each_skill
def test_what_it_speaks_of_is_there_and_all_that_is_there_is_spoken_of(place: Path) -> None:
    text = (place / "SKILL.md").read_text()
    assert len(text.splitlines()) < 120, "more belongs into references/"
    linked = {name for name in re.findall(r"\]\(([^)]+)\)", text) if "://" not in name}
    run = set(re.findall(rf"/\.agents/skills/{place.name}/([\w./-]+)", text))
    files = {str(file.relative_to(place)) for file in place.rglob("*") if file.suffix in (".md", ".py")}
    assert linked | run == files - {"SKILL.md"}


@each_skill
def test_it_is_installed_with_a_wheel(place: Path) -> None:
    given = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    installed = {
        (target, Path(file).name)
        for target, patterns in given.items()
        for pattern in patterns
        for file in FOLDER.parent.glob(pattern)
    }
    for file in place.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert (f"share/corral/skills/{file.parent.relative_to(FOLDER)}", file.name) in installed


def test_agents_that_come_with_corral_have_theirs() -> None:
    agents = AgentRegistry.load()

    def skills(agent_id: str) -> set[str]:
        base = agents.resolve(agent_id).base
        sources = base.sources if base is not None else []
        return {source.source for source in sources if isinstance(source, SkillRegistrySource)}

    assert skills("data-analyst") == {"data-analysis", "report-writing"}
    assert skills("web-researcher") == {"web-research", "report-writing"}
    assert skills("general") == skills("coder") == set()


def run(skill: str, program: str, *arguments: object) -> tuple[int, str]:
    """Exit code, and what a skill's program prints. It may not warn."""
    command = [sys.executable, "-W", "error", "-B", str(FOLDER / skill / "scripts" / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


SPOILT = """\
region;amount;date;code;note
north;1.200,50;2025-01-13;007;
north;1.200,50;2025-01-13;007;
South;12 €;13.01.2025;008;
south ;n/a;2025-02-01;009;ok
Total;2.400;2025-02-01;010;
"""


def test_a_look_at_data_tells_what_spoils_them(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the image has it; here the program is NOT tested")
    for file in (tmp_path / "data.csv", tmp_path / "data.csv.gz"):
        file.write_bytes(gzip.compress(SPOILT.encode()) if file.suffix == ".gz" else SPOILT.encode())
        code, said = run("data-analysis", "look.py", file)
        assert code == 0, said
        for told in (
            "5 rows, 5 columns",
            "1 row(s) are there twice",
            "upper and lower case",
            "spaces at the ends",
            "may be totals: ['Total']",
            "numbers as text, such as ['1.200,50'",
            "two date formats",
            "leading zeros",
            "['n/a']",
        ):
            assert told in said
    code, said = run("data-analysis", "look.py", tmp_path / "none.csv")
    assert code == 1


GOOD = """\
# South sold most

It sold 175 kEUR [1].

## Reasons

### More shops

| a | b |
|---|---|
| 1 | 2 \\| 3 |

![sales by region](sales.png)

```python
x[1] = "{{not a placeholder}}"
```

## Sources

[1] Sales 2025, https://e.org, 2026, read 2026-11-20.
"""


def test_a_report_is_checked(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    (tmp_path / "sales.png").touch()
    report.write_text(GOOD)
    assert run("report-writing", "check.py", report)[0] == 0


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("# South", "South", "1: the first line is no title"),
        ("sales.png", "other.png", "there is no file other.png"),
        ("![sales by region]", "![]", "a picture without a description"),
        ("| 1 | 2 \\| 3 |", "| 1 | 2 | 3 |", "a row of 3 cells in a table of 2"),
        ("kEUR [1]", "kEUR [2]", "[2] is cited, and not among the sources"),
        ("kEUR [1]", "kEUR", "source [1] is cited nowhere"),
        ("It sold", "{{who}} sold", "not filled in"),
        ("## Reasons", "## Empty\n\n## Reasons", "a section without text"),
        ("### More", "#### More", "leaves out a level"),
        ("```\n\n", "\n", "has no end"),
    ],
)
def test_a_fault_of_a_report_is_found(tmp_path: Path, right: str, wrong: str, told: str) -> None:
    report = tmp_path / "report.md"
    (tmp_path / "sales.png").touch()
    assert right in GOOD
    report.write_text(GOOD.replace(right, wrong))
    code, said = run("report-writing", "check.py", report)
    assert code == 1
    assert told in said


SOURCE = {
    "id": 1,
    "title": "Population",
    "url": "https://e.org/p",
    "by": "Office",
    "dated": "2026-03",
    "read": "2026-11-20",
    "says": "3",
}


def test_citations_are_checked_and_listed(tmp_path: Path) -> None:
    answer, sources = tmp_path / "answer.md", tmp_path / "sources.jsonl"
    answer.write_text("Three live there [1].\n")
    sources.write_text(json.dumps(SOURCE) + "\n" + json.dumps({**SOURCE, "id": 2}) + "\n")
    for _ in range(2):
        code, said = run("web-research", "citations.py", answer, sources, "--write")
        assert (code, "source [2] is cited nowhere" in said) == (0, True)
    listed = "[1] Population. Office, 2026-03. https://e.org/p (read 2026-11-20)"
    assert answer.read_text() == f"Three live there [1].\n\n## Sources\n\n{listed}\n"


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        ("Three [2].", {}, "answer.md:1: [2] is no source that was noted"),
        ("Three.", {}, "cites nothing"),
        ("Three [1].", {"url": "https://…"}, "has no address"),
        ("Three [1].", {"read": "today"}, "does not say when it was read"),
        ("Three [1].", {"says": " "}, "has no 'says'"),
    ],
)
def test_a_claim_without_proof_is_found(tmp_path: Path, text: str, change: dict[str, str], told: str) -> None:
    (tmp_path / "answer.md").write_text(text)
    (tmp_path / "sources.jsonl").write_text(json.dumps({**SOURCE, **change}))
    code, said = run("web-research", "citations.py", tmp_path / "answer.md", tmp_path / "sources.jsonl")
    assert code == 1
    assert told in said
