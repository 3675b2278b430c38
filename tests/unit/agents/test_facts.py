from __future__ import annotations

from pathlib import Path

from orchestrator.agents.facts import facts_of
from orchestrator.config import Settings

BASE = Path(__file__).parents[3] / "sandbox-images" / "base"


def test_the_shipped_image_has_what_is_said_of_it() -> None:
    installed = facts_of(Settings().image)["installed"]
    recipe = (BASE / "Dockerfile").read_text() + (BASE / "requirements.txt").read_text()
    names = installed.replace("Python 3.11 with ", "").replace("Node.js 18 with npm", "nodejs, npm").replace(";", ",")
    for name in names.split(", "):
        assert f" {name} " in recipe or f"\n{name}==" in recipe, name


def test_of_another_image_nothing_is_claimed() -> None:
    facts = facts_of("registry.example.com/corral/base:1")
    assert "installed" not in facts
    assert facts["operating system"] == "Linux"


def test_they_are_the_same_at_every_call() -> None:
    assert list(facts_of("corral/base:1").items()) == list(facts_of("corral/base:1").items())
    assert "date" not in facts_of("corral/base:1")


def test_whom_programs_reach() -> None:
    assert facts_of("x")["network"] == "none"
    assert facts_of("x", "open")["network"].startswith("everybody, through the HTTP proxy")
    assert facts_of("x", "allowlist", ["a.example", "*.b.example"])["network"].startswith(
        "only a.example, *.b.example,"
    )
    many = facts_of("x", "allowlist", [f"h{number}.example" for number in range(100)])["network"]
    assert "and 70 more" in many
    assert "h30.example" not in many


def test_which_secrets_are_put_in_on_the_way() -> None:
    assert "secrets" not in facts_of("x", "open")
    told = facts_of("x", "open", (), ["git.example"], ["TOKEN", "KEY"])["secrets"]
    assert told.startswith("requests to git.example are authorized on their way out")
    assert "placeholders stand for them in TOKEN, KEY" in told
