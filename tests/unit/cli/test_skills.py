"""`corral skills`: the server's, listed, and folders that are checked here."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.wire_server import FakeServer, answer
from tests.unit.cli.conftest import Corral

SKILLS = {"skills": [{"name": "b\x1b[2Jomb", "problem": "it has tags"}, {"name": "charts", "description": "Draws."}]}


def test_they_are_listed_with_what_is_wrong(corral: Corral) -> None:
    server = FakeServer(answer(SKILLS), answer(SKILLS))
    listed = corral("skills", "list", server=server)
    assert (listed.code, server.requests[0].url.path) == (0, "/v1beta/skills")
    first, second = listed.out.splitlines()
    assert first.endswith("cannot be used: it has tags")
    assert "\x1b" not in first
    assert second == "charts: Draws."
    assert json.loads(corral("skills", "list", "--json", server=server).out) == SKILLS


def test_a_folder_is_checked_as_the_server_does(corral: Corral, folder: Path) -> None:
    for name, told in (("charts", "name: charts\ndescription: Draws."), ("bomb", "a: &a x\nname: bomb")):
        (folder / name).mkdir()
        (folder / name / "SKILL.md").write_text(f"---\n{told}\n---\n")
    server = FakeServer()
    right = corral("skills", "validate", "charts", server=server)
    assert right.code == 0
    assert right.out.startswith("charts is right: charts, ")
    wrong = corral("skills", "validate", "charts", "bomb", "none", server=server)
    assert wrong.code == 1
    assert wrong.err.splitlines() == [
        "corral: bomb: its front matter has anchors or aliases",
        "corral: none: a skill is a folder with a file SKILL.md",
    ]
    assert server.requests == []
