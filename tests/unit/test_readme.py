"""What the papers name exists: commands, make targets, files, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from orchestrator.cli.main import app
from orchestrator.config import Settings

ROOT = Path(__file__).resolve().parents[2]
PAPERS = sorted(
    path.relative_to(ROOT)
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("examples/**/*.sh"),
    )
)
README = Path("README.md")
_TEST_VARIABLES = {"CORRAL_TEST_NO_ENGINE", "CORRAL_CONFIG"}


def text_of(paper: Path) -> str:
    return (ROOT / paper).read_text(encoding="utf-8")


def code_of(paper: Path) -> str:
    """Scripts as they are; of Markdown the fenced blocks and code spans. Without comments."""
    text = text_of(paper)
    if paper.suffix == ".md":
        blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        text = "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])
    return re.sub(r"(^|\s)#.*", "", text, flags=re.MULTILINE)


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) < 150
    assert len(text_of(Path("AGENTS.md")).splitlines()) <= 120


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_links_lead_somewhere(paper):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(paper)):
        if not target.startswith("https://"):
            assert (ROOT / paper.parent / target).exists(), f"{paper} links to {target}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_paths_exist(paper):
    for path in re.findall(r"(?<![\w./-])((?:orchestrator|scripts|tests|docs|examples)/[\w./-]*\w)", text_of(paper)):
        assert (ROOT / path).exists(), f"{paper} names {path}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_make_targets_exist(paper):
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z0-9]+)", code_of(paper)))
    assert named <= targets, f"{paper} names {sorted(named - targets)}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_commands_and_options_exist(paper):
    root = get_command(app)
    for line in re.findall(r"(?:^|[\s(/])\$?corral ((?:[a-z]|--).*)", code_of(paper), re.MULTILINE):
        words = re.split(r"['\"`|)$<·]", line)[0].split()
        command = root
        while words and (found := getattr(command, "commands", {}).get(words[0])):
            command = found
            words.pop(0)
        assert command is not root, f"{paper}: there is no `corral {line}`"
        options = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} - options
        assert not unknown, f"{paper}: `corral {line}` has no {sorted(unknown)}"


@pytest.mark.parametrize("paper", PAPERS, ids=str)
def test_settings_exist(paper):
    for variable in re.findall(r"\bCORRAL_[A-Z_]*[A-Z]", text_of(paper)):
        name = variable.removeprefix("CORRAL_").partition("__")[0].lower()
        assert variable in _TEST_VARIABLES or name in Settings.model_fields, f"{paper} names {variable}"


def test_changelog_lines_are_short():
    lines = [line for line in text_of(Path("CHANGELOG.md")).splitlines() if line.startswith("- ")]
    assert lines
    assert [line for line in lines if len(line.split()) > 26] == []
