"""The skills of the server: which there are, what is refused, and by which digest they are known. Attack case F12."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agents.guidance import Unread
from orchestrator.agents.skill_registry import RegisteredSkill, SkillRegistry
from orchestrator.errors import InvalidRequest
from orchestrator.wire.environments import EnvironmentSpec, parse_environment
from orchestrator.wire.sources import SkillRegistrySource


def write(folder: Path, name: str, front_matter: str | None = None, **files: str) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    told = front_matter if front_matter is not None else f"name: {name}\ndescription: About {name}."
    (place / "SKILL.md").write_text(f"---\n{told}\n---\nHow to.\n")
    for file, content in files.items():
        (place / file).write_text(content)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "skills"
    write(place, "charts", rows="1,2")
    write(place, "letters")
    (place / "README.md").write_text("no skill")
    return place


def spec(*sources: dict[str, Any]) -> EnvironmentSpec:
    found = parse_environment({"sources": [{"type": "skill_registry", **source} for source in sources]})
    assert found is not None
    return found


def digest(folder: Path, name: str = "charts") -> str:
    found = SkillRegistry.of(folder).find(name)
    assert isinstance(found, RegisteredSkill), found
    return found.sha256


def test_each_folder_with_a_skill_file_is_a_skill(folder: Path) -> None:
    known = SkillRegistry.of(folder).skills()
    assert [each.skill.name for each in known if isinstance(each, RegisteredSkill)] == ["charts", "letters"]
    assert next(each.skill.description for each in known if isinstance(each, RegisteredSkill)) == "About charts."


def test_of_the_same_name_the_first_folders_counts(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    write(own, "charts", "name: charts\ndescription: My own.")
    found = SkillRegistry.of(own, None, folder).find("charts")
    assert isinstance(found, RegisteredSkill)
    assert found.skill.description == "My own."


def test_an_environment_is_told_what_it_will_get(folder: Path) -> None:
    asked = spec({"source": "charts"}, {"source": "letters", "target": "workspace/.agents/skills/letters"})
    pinned = SkillRegistry.of(folder).pin(asked)
    first, second = pinned.sources
    assert isinstance(first, SkillRegistrySource)
    assert (first.path, first.sha256) == ("/.agents/skills/charts", digest(folder))
    assert isinstance(second, SkillRegistrySource)
    assert second.sha256 == digest(folder, "letters")
    assert SkillRegistry.of(folder).pin(pinned) == pinned


def move(place: Path) -> None:
    (place / "rows").rename(place / "lines")


def allow(place: Path) -> None:
    (place / "rows").chmod(0o755)


def add_link(place: Path) -> None:
    (place / "same").symlink_to("rows")


def add_folder(place: Path) -> None:
    (place / "empty").mkdir()


def append(place: Path) -> None:
    (place / "rows").write_text("1,2,3")


def say_more(place: Path) -> None:
    (place / "SKILL.md").write_text((place / "SKILL.md").read_text() + "More.\n")


@pytest.mark.parametrize("change", [move, allow, add_link, add_folder, append, say_more])
def test_whatever_is_delivered_otherwise_is_another_digest(folder: Path, change: Callable[[Path], None]) -> None:
    before = digest(folder)
    assert digest(folder) == before
    change(folder / "charts")
    assert digest(folder) != before


def test_what_work_leaves_behind_is_no_part_of_it(folder: Path) -> None:
    before = digest(folder)
    (folder / "charts" / "__pycache__").mkdir()
    (folder / "charts" / "__pycache__" / "draw.pyc").write_bytes(b"\0")
    (folder / "charts" / ".DS_Store").write_bytes(b"\0")
    assert digest(folder) == before


def test_an_unknown_skill_is_refused_with_those_that_there_are(folder: Path) -> None:
    told = r"'environment\.sources\[1\]\.source': the server has no skill 'chart'; it has charts, letters\."
    with pytest.raises(InvalidRequest, match=told):
        SkillRegistry.of(folder).pin(spec({"source": "letters"}, {"source": "chart"}))
    with pytest.raises(InvalidRequest, match="it has none"):
        SkillRegistry().pin(spec({"source": "charts"}))


def test_another_digest_than_the_one_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"sources\[0\]\.sha256': skill 'charts' is another one by now"):
        SkillRegistry.of(folder).pin(spec({"source": "charts", "sha256": "0" * 64}))


def refusal(folder: Path, name: str) -> str:
    """Why an environment cannot have it; others can still be had."""
    registry = SkillRegistry.of(folder)
    with pytest.raises(InvalidRequest, match=rf"sources\[0\]\.source': skill '{name}' cannot be used") as caught:
        registry.pin(spec({"source": name}))
    assert [each.path for each in registry.skills() if isinstance(each, Unread)] == [f"{name}/SKILL.md"]
    assert isinstance(registry.find("letters"), RegisteredSkill)
    return caught.value.message


@pytest.mark.parametrize(
    ("front_matter", "why"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nname: hostile\ndescription: x", "anchors or aliases"),
        ("name: !!python/object/apply:os.system ['true']\ndescription: x", "tags"),
        ("name: hostile\ndescription: x\nmore: " + "[" * 4000, "too deep"),
        ("name: hostile\ndescription: x\nmore: " + "x" * 9000, "no end within 8192 bytes"),
        ("name: hоstile\ndescription: x", "lowercase letters"),
        ("name: ../letters\ndescription: x", "lowercase letters"),
        ("name: letters\ndescription: x", "not that of its folder"),
        ("name: hostile\nname: hostile\ndescription: x", "twice"),
        ("name: hostile\ndescription: '\u202e\u200b'", "description does not have"),
    ],
)
def test_hostile_front_matter_is_refused_with_its_reason(folder: Path, front_matter: str, why: str) -> None:
    write(folder, "hostile", front_matter)
    assert why in refusal(folder, "hostile")


def link_out(place: Path) -> None:
    (place / "passwd").symlink_to("/etc/passwd")


def link_up(place: Path) -> None:
    (place / "other").symlink_to("../letters")


def pipe(place: Path) -> None:
    os.mkfifo(place / "pipe")


def strange_name(place: Path) -> None:
    (place / "a\x1b[2J").write_text("x")


def names_that_meet(place: Path) -> None:
    (place / "README").write_text("x")
    (place / "readme").write_text("x")


def much(place: Path) -> None:
    with (place / "big").open("wb") as file:
        file.truncate(21 << 20)


def many(place: Path) -> None:
    for number in range(1001):
        (place / f"f{number}").touch()


def linked_file(place: Path) -> None:
    (place / "SKILL.md").rename(place / "other.md")
    (place / "SKILL.md").symlink_to("other.md")


def linked_folder(place: Path) -> None:
    place.rename(place.parent.parent / "elsewhere")
    place.symlink_to(place.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (link_out, "leads out of the source"),
        (link_up, "leads out of the source"),
        (pipe, "neither a file nor a folder"),
        (strange_name, "control characters"),
        (names_that_meet, "differs from another only in case"),
        (much, "larger than 20971520 bytes"),
        (many, "more than 1000 files"),
        (linked_file, "a folder with a file SKILL.md"),
        (linked_folder, "cannot be read"),
    ],
)
def test_hostile_folders_are_refused_with_their_reason(folder: Path, make: Callable[[Path], None], why: str) -> None:
    make(write(folder, "hostile"))
    said = refusal(folder, "hostile")
    assert why in said
    assert str(folder.parent) not in said, "where the operator's folders are is nobody's business"
    assert said.isprintable()


def test_a_folder_of_skills_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="folder of skills cannot be read: No such file"):
        SkillRegistry.of(tmp_path / "missing").pin(spec({"source": "charts"}))
