"""Front matter of skills: what the open SKILL.md standard allows, and what attack case F12 tries."""

from __future__ import annotations

import time

import pytest

from orchestrator.agents.guidance import Skill, Unread
from orchestrator.agents.skills import FRONT_MATTER_LIMIT_BYTES, read_skill

PATH = "/.agents/skills/charts/SKILL.md"


def skill(front_matter: str, body: str = "\nHow to draw.\n", path: str = PATH) -> Skill | Unread:
    return read_skill(path, f"---\n{front_matter}\n---\n{body}")


def reason(front_matter: str, path: str = PATH) -> str:
    found = skill(front_matter, path=path)
    assert isinstance(found, Unread), found
    assert found.path == path
    assert "\n" not in found.reason
    return found.reason


@pytest.mark.parametrize(
    "front_matter",
    [
        "name: charts\ndescription: Draws charts.",
        "description: 'Draws charts.'\nname: charts\nlicense: MIT\nmetadata: {version: '1'}\nallowed-tools: [a, b]",
        "name: charts\ndescription: >-\n  Draws\n  charts.",
        "name: charts\ndescription: |\n  Draws\n\n  charts.\n",
        "name: charts\ndescription: Draws \u202echarts\u200b.\x07",
        "name: charts\r\ndescription: Draws charts.\r",
    ],
)
def test_a_skill_has_a_name_and_a_description_in_one_line(front_matter: str) -> None:
    assert skill(front_matter) == Skill("charts", "Draws charts.", PATH)


def test_values_are_text_whatever_yaml_takes_them_for() -> None:
    path = "/.agents/skills/2026-11-20/SKILL.md"
    found = skill("name: 2026-11-20\ndescription: yes", path=path)
    assert found == Skill("2026-11-20", "yes", path)


@pytest.mark.parametrize(
    "name", ["Charts", "char_ts", "-charts", "charts-", "a--b", "", "diagrämme", "сharts", "a" * 65]
)
def test_names_are_plain(name: str) -> None:
    path = f"/.agents/skills/{name}/SKILL.md"
    assert "lowercase letters" in reason(f"name: '{name}'\ndescription: x", path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "charts/../x", "other"])
def test_a_name_leads_nowhere_else(name: str) -> None:
    assert "name is not" in reason(f"name: {name}\ndescription: x")


BOMB = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefg", "bcdefgh", strict=True))
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("front_matter", "why"),
    [
        (BOMB + "\nname: charts\ndescription: x", "anchors or aliases"),
        (MERGES + "\nname: charts\ndescription: x", "anchors or aliases"),
        ("name: &n charts\ndescription: x", "anchors or aliases"),
        ("name: charts\ndescription: *x", "anchors or aliases"),
        ("name: !!python/object/apply:os.system ['true']\ndescription: x", "tags"),
        ("name: !!str charts\ndescription: x", "tags"),
        ("name: charts\ndescription: x\nmore: " + "[" * 4000, "too deep"),
        ("name: charts\ndescription: x\nmore: " + "[" * 20 + "]" * 20, "too deep"),
        ("name: charts\ndescription: x\nmore:\n" + "".join("  " * n + "- \n" for n in range(20)), "YAML|deep"),
        ("name: charts\nname: other\ndescription: x", "twice"),
        ("name: charts", "no description"),
        ("description: x", "no name"),
        ("name: charts\ndescription:", "description does not have"),
        ("name: charts\ndescription: '\u200b \u202e'", "description does not have"),
        ("name: charts\ndescription: " + "x" * 1025, "1 to 1024 characters"),
        ("name: charts\ndescription: [a, b]", "no description"),
        ("name: charts\ndescription: a: b", "not valid YAML"),
        ("name: charts\ndescription: '\x07\n", "not valid YAML"),
        ("- name: charts", "has no fields"),
        ("", "has no fields"),
        ("? [a]\n: b\nname: charts", "no description"),
        ("name: charts\ndescription: " + "x" * FRONT_MATTER_LIMIT_BYTES, "no end within 8192 bytes"),
    ],
)
def test_what_is_hostile_or_wrong_is_refused_with_its_reason(front_matter: str, why: str) -> None:
    began = time.perf_counter()
    found = reason(front_matter)
    assert any(each in found for each in why.split("|")), found
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("text", ["", "# Charts\n", "---\nname: charts\ndescription: x\n", " ---\nname: charts\n---\n"])
def test_there_has_to_be_front_matter(text: str) -> None:
    found = read_skill(PATH, text)
    assert isinstance(found, Unread)
    assert "front matter" in found.reason


def test_what_is_below_the_front_matter_is_left_alone() -> None:
    found = skill("name: charts\ndescription: x", "---\n&a *b [[[[\n" + "x" * 100_000)
    assert isinstance(found, Skill)
