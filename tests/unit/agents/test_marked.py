from __future__ import annotations

import pytest

from orchestrator.agents.marked import read_yaml
from orchestrator.errors import ConfigError

TEXT = """\
# an agent
id: clerk
since: 2026-01-01
tools:
  - type: code_execution
  - {type: function,
     name: f}
"odd name": [1, 2.5, true, null, "5"]
"""


def test_values_know_their_lines() -> None:
    marked = read_yaml(TEXT, "agent.yaml")
    assert marked.value == {
        "id": "clerk",
        "since": "2026-01-01",
        "tools": [{"type": "code_execution"}, {"type": "function", "name": "f"}],
        "odd name": [1, 2.5, True, None, "5"],
    }
    lines = {"id": 2, "tools": 4, "tools[0]": 5, "tools[0].type": 5, "tools[1]": 6, "tools[1].name": 7}
    assert lines.items() <= marked.lines.items()
    assert marked.lines['["odd name"][1]'] == 8


def test_nothing_is_nothing() -> None:
    assert read_yaml("", "f").value is None
    assert read_yaml("# nothing\n", "f").value is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", r"^f:2: not valid YAML: "),
        ("a: 1\na: 2\n", r"^f:2: not valid YAML: 'a' is given twice"),
        ("a: 1\nb: !!python/object:os.system x\n", r"^f:2: .*tags are not allowed"),
        ("a: 1\nb: !!binary aGk=\n", r"^f:2: .*tags are not allowed"),
        ("a: &x [1]\nb: 2\n", r"^f:1: .*anchors are not allowed"),
        ("a: 1\n\nb: *x\n", r"^f:3: .*aliases are not allowed"),
        ("1: a\n", r"^f:1: .*names must be text"),
        ("[a]: b\n", r"^f:1: .*names must be text"),
        ("a: 1\n---\nb: 2\n", r"^f:2: not valid YAML"),
        ("[" * 40 + "]" * 40, r"^f:1: .*more than 32 levels"),
        ("[" * 100_000, r"^f"),
        ("a" * (1 << 20) + "b", r"^f: more than 1048576 bytes"),
        ("a: \x07", r"^f.*not valid YAML"),
        ("a: 2026-13-45", None),
        ("a: " + "9" * 5000, r"^f"),
    ],
)
def test_what_is_refused_says_where(text: str, message: str | None) -> None:
    if message is None:
        assert read_yaml(text, "f").value == {"a": "2026-13-45"}
        return
    with pytest.raises(ConfigError, match=message):
        read_yaml(text, "f")
