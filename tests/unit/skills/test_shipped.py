"""The skills that come with Corral: valid by the open standard and our own reading, installed, their scripts right."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import skills_ref

from orchestrator.agents.guidance import Skill
from orchestrator.agents.skills import read_skill

FOLDER = Path(__file__).resolve().parents[3] / "skills"
SKILLS = sorted(place.parent for place in FOLDER.glob("*/SKILL.md"))
each_skill = pytest.mark.parametrize("skill", [pytest.param(each, id=each.name) for each in SKILLS])

REPORT = """\
# Version 5 drops Python 3.9

It says so itself [1], and so does its build [2, 1]. A list is no claim: `items[3]`, [a link](https://x.example).

```
code [9]
```

## Sources

1. Release notes, 2026-02-11. https://example.com/notes
2. Build file, 2026. https://example.com/build.
"""


def script(skill: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / skill / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_all_there() -> None:
    assert [each.name for each in SKILLS] == ["data-analysis", "interactions-api", "report-writing", "web-research"]


@each_skill
def test_it_is_valid(skill: Path) -> None:
    assert skills_ref.validate(skill) == []
    text = (skill / "SKILL.md").read_text(encoding="utf-8")
    found = read_skill(f"skills/{skill.name}/SKILL.md", text)
    assert isinstance(found, Skill), found
    assert "Use it" in found.description, "a model chooses by the description: it says when"
    assert len(text.splitlines()) < 120, "what is longer belongs into references/"


@each_skill
def test_what_it_names_is_there_and_all_that_is_there_is_named(skill: Path) -> None:
    text = (skill / "SKILL.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:scripts|references)/[\w.-]+\.\w+", text))
    found = [path for kind in ("scripts", "references") for path in skill.glob(f"{kind}/*.*")]
    assert {str(path.relative_to(skill)) for path in found} == named


@each_skill
def test_it_is_installed_with_a_wheel(skill: Path) -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    patterns = [each for where in project["tool"]["setuptools"]["data-files"].values() for each in where]
    installed = {path for pattern in patterns for path in FOLDER.parent.glob(pattern)}
    assert {path for path in skill.rglob("*") if path.is_file() and path.suffix != ".pyc"} <= installed


def test_a_report_whose_claims_have_their_sources_is_right() -> None:
    assert script("web-research", "citations").faults(REPORT) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("itself [1]", "itself [4]", "[4] is cited, but not listed"),
        ("[2, 1]", "", "source 2 is cited nowhere"),
        ("## Sources", "## Reading", "there is no heading 'Sources'"),
        (" https://example.com/notes", "", "source 1 has no address"),
        (", 2026.", ".", "source 2 has no date"),
        ("example.com/build.", "example.com/notes/", "https://example.com/notes is listed 2 times"),
        ("2. Build", "1. Build", "source 1 is listed twice"),
    ],
)
def test_what_is_wrong_with_sources_is_told(old: str, new: str, told: str) -> None:
    assert old in REPORT
    assert told in script("web-research", "citations").faults(REPORT.replace(old, new))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# T\n\nText.\n", []),
        ("# T\n\n## A\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```\n| x |\n# no heading\nTODO\n```\n", []),
        ("Text.\n", [(1, "it does not begin with a title, a line with one #")]),
        ("# T\n\n### A\n\nText.\n", [(3, "'A' skips a level of headings")]),
        ("# T\n\nText.\n\n## A\n\n## B\n\nText.\n", [(5, "there is nothing under 'A'")]),
        ("# T\n\n![](missing.png)\n", [(3, "missing.png is not there")]),
        ("# T\n\n[x](https://x.example) [y](#a) [z](there.png)\n", []),
        ("# T\n\nTODO ask.\n", [(3, "a note to yourself was left in: TODO")]),
        ("# T\n\n| a | b |\n|---|---|\n| 1 |\n", [(5, "a row with 1 cells in a table of 2")]),
        ("# T\n\n| a | b |\n| 1 | 2 |\n", [(3, "a table without the line under its header")]),
        (f"# T\n\n{'word ' * 41}end.\n", [(3, "a sentence of 42 words")]),
    ],
)
def test_what_a_reader_would_stumble_over_is_told(text: str, told: list[tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    assert script("report-writing", "check_report").faults(text, tmp_path) == told
