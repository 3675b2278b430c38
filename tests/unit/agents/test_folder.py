"""A folder is read, checked and folded; whatever is wrong with it is said with file, line and field."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from orchestrator.agents import folder as folders
from orchestrator.agents.folder import AgentFolder, read_folder
from orchestrator.errors import ConfigError, NotSupported
from orchestrator.wire.agents import AgentCreate, dump_agent
from orchestrator.wire.base import parse

WHOLE = """\
id: ledger-clerk
base_agent: antigravity-preview-09-2026
description: Reconciles ledgers
instructions: End with a table.
tools:
  - type: code_execution
agent_config: {type: antigravity, max_total_tokens: 400000}
environment:
  type: remote
  sources:
    - {type: inline, target: workspace/own.md, content: own}
  network: disabled
  env: {MODE: test}
sources:
  - {type: inline, target: workspace/more.md, content: more}
examples:
  - Reconcile march.
  - {name: april, prompt: Reconcile april., expect: [balance]}
metadata: {team: books}
subagents: []
"""


def write(place: Path, text: str = WHOLE, **files: str | bytes) -> Path:
    place.mkdir(exist_ok=True)
    (place / "agent.yaml").write_text(text)
    for name, content in files.items():
        put(place / name, content)
    return place


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def whole(tmp_path: Path) -> AgentFolder:
    place = write(tmp_path / "clerk")
    put(place / "AGENTS.md", "# Rules\n")
    put(place / "skills/tables/SKILL.md", "---\nname: tables\ndescription: Makes them.\n---\n")
    put(place / "skills/tables/scripts/t.py", "print(1)\n")
    put(place / "workspace/a.csv", "1,2\n")
    put(place / "workspace/deep/b.png", b"\x89PNG\0\xff")
    for left_out in (".git/config", "workspace/.git/config", "workspace/node_modules/x.js", "README.md"):
        put(place / left_out, "x")
    return read_folder(place)


def test_a_whole_folder_is_one_create_call(tmp_path: Path) -> None:
    request = whole(tmp_path).request()
    assert (request.id, request.base_agent, request.system_instruction) == (
        "ledger-clerk",
        "antigravity-preview-09-2026",
        "End with a table.",
    )
    assert request.base_environment is not None
    assert request.base_environment.network == "disabled"
    assert request.base_environment.env["MODE"].value == "test"
    shown = dump_agent(request)["base_environment"]["sources"]
    assert [(source["target"], source["content"]) for source in shown] == [
        ("workspace/own.md", "own"),
        ("workspace/more.md", "more"),
        (".agents/skills/tables/SKILL.md", "---\nname: tables\ndescription: Makes them.\n---\n"),
        (".agents/skills/tables/scripts/t.py", "print(1)\n"),
        ("workspace/a.csv", "1,2\n"),
        ("workspace/deep/b.png", base64.b64encode(b"\x89PNG\0\xff").decode()),
        (".agents/AGENTS.md", "# Rules"),
    ]
    assert [source.get("encoding") for source in shown] == [None] * 5 + ["base64", None]
    assert parse(AgentCreate, dump_agent(request)) == request


def test_examples_may_be_a_line_or_more(tmp_path: Path) -> None:
    first, second = whole(tmp_path).file.examples
    assert (first.prompt, first.name, first.expect) == ("Reconcile march.", None, [])
    assert (second.prompt, second.name, second.expect) == ("Reconcile april.", "april", ["balance"])


def test_a_plain_folder_has_no_environment(tmp_path: Path) -> None:
    request = read_folder(write(tmp_path / "a", "id: a\nenvironment: {enabled: true}\n")).request()
    assert request.base_environment is not None
    assert request.base_environment.sources == []
    assert read_folder(write(tmp_path / "b", "id: b\n")).request() == AgentCreate(id="b")


def test_a_model_may_be_named_in_short(tmp_path: Path) -> None:
    text = "id: a\nmodel: gemini:x\nagent_config: {type: antigravity, max_total_tokens: 5}\n"
    config = read_folder(write(tmp_path / "a", text)).request().agent_config
    assert config is not None
    assert config.model_dump() == {"type": "antigravity", "model": "gemini:x", "max_total_tokens": 5}


def test_secrets_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    place = write(tmp_path / "a", "id: a\n")
    put(place / ".env", "TOKEN=s3cr3t")
    folder = read_folder(place)
    assert folder.notes == (f"{place / '.env'} is left out: secrets do not go into sandboxes",)
    assert "s3cr3t" not in str(dump_agent(folder.request()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: a\n\ndescripton: x\n", r"agent\.yaml:3: Unknown parameter 'descripton' \(closest .*'description'"),
        ("id: a\ntools:\n  - type: code_execution\n  - type: code\n", r"agent\.yaml:4: Unknown tool type 'code'"),
        ("id: a\ntools:\n  - typ: code_execution\n", r"agent\.yaml:3: Missing required parameter 'type'"),
        ("# x\nid: A\n", r"agent\.yaml:2: Invalid value at 'id'"),
        ("id: a\ninstructions: [x]\n", r"agent\.yaml:2: Invalid value at 'system_instruction': expected a string"),
        ("id: a\nsandbox:\n  pids: 64\n  memory: 5\n", r"agent\.yaml:4: Unknown parameter 'memory' at 'sandbox'"),
        ("id: a\nsubagents: [b]\n", r"agent\.yaml:2: Unknown parameter 'subagents'"),
        (
            "id: a\nenvironment:\n  sources:\n  - {type: inline, target: a, content: b}\n",
            r"agent\.yaml:4: Invalid value at 'base_environment\.sources\[0\]\.target'",
        ),
        (
            "id: a\nenvironment:\n  sources:\n  - {type: inline,\n     target: workspace/a}\n",
            r"agent\.yaml:4: Missing required parameter 'content' at 'environment\.sources\[0\]'",
        ),
        (
            "id: a\nbase_environment: {}\nsources:\n- type: inline\n  target: etc/a\n  content: b\n",
            r"agent\.yaml:5: Invalid value at 'base_environment\.sources\[0\]\.target'",
        ),
        ("id: a\nenvironment: remote\nbase_environment: remote\n", r"agent\.yaml:2: give either 'environment' or"),
        ("id: a\nid: b\n", r"agent\.yaml:2: not valid YAML: 'id' is given twice"),
        ("", r"agent\.yaml: Invalid request: expected an object"),
    ],
)
def test_a_fault_names_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_folder(write(tmp_path / "a", text))
    assert str(tmp_path / "a" / "agent.yaml") in caught.value.message


def test_what_the_server_says_of_the_call_is_led_back_to_the_file(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    place = folder.place
    for field, at in (
        ("tools[0].type", "agent.yaml:6"),
        ("base_environment.network", "agent.yaml:12"),
        ("base_environment.sources[0].target", "agent.yaml:11"),
        ("base_environment.sources[1].target", "agent.yaml:15"),
        ("base_environment.sources[2].target", "skills/tables/SKILL.md"),
        ("base_environment.sources[6].content", "AGENTS.md"),
        ("nothing", "agent.yaml"),
    ):
        assert folder.located(NotSupported(f"Not supported: '{field}'.")).message == (
            f"{place / at}: Not supported: '{field}'."
        )


def test_only_agents_of_the_server_say_what_their_sandbox_takes(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "a", "id: a\nsandbox: {pids: 64}\n"))
    with pytest.raises(ConfigError, match=r"agent\.yaml:2: 'sandbox' is for agents of the server"):
        folder.request()


def test_files_are_not_added_to_an_environment_that_exists(tmp_path: Path) -> None:
    place = write(tmp_path / "a", f"id: a\nbase_environment: {'f' * 32}\n")
    assert read_folder(place).request().base_environment is not None
    put(place / "workspace/a", "x")
    with pytest.raises(ConfigError, match=r"agent\.yaml.*cannot be added"):
        read_folder(place).request()


def test_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    place = write(tmp_path / "a", "id: a\n")
    put(tmp_path / "secret", "s3cr3t")
    (place / "workspace").mkdir()
    link = place / "workspace/link"
    for target in (tmp_path / "secret", tmp_path, tmp_path / "nowhere"):
        link.symlink_to(target)
        with pytest.raises(ConfigError, match="link: links are not followed"):
            read_folder(place)
        link.unlink()
    os.mkfifo(link)
    with pytest.raises(ConfigError, match="link: neither a file nor a folder"):
        read_folder(place)
    link.unlink()
    (place / "workspace").rmdir()
    (place / "workspace").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="workspace: must be a folder"):
        read_folder(place)


def test_a_skill_has_a_file(tmp_path: Path) -> None:
    place = write(tmp_path / "a", "id: a\n")
    put(place / "skills/tables/notes.md", "x")
    with pytest.raises(ConfigError, match="skills/tables: a skill is a folder"):
        read_folder(place)
    put(place / "skills/tables/SKILL.md", "---\nname: chairs\ndescription: d\n---\n")
    with pytest.raises(ConfigError, match=r"skills/tables/SKILL\.md: its name is not that of its folder"):
        read_folder(place)


def test_limits_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write(tmp_path / "a", "id: a\n")
    for number in range(4):
        put(place / f"workspace/{number}", "x" * 10)
    for name, limit, message in (
        ("INLINE_LIMIT_BYTES", 9, "workspace/0: 10 bytes; a file may have 9"),
        ("FILES_LIMIT_BYTES", 39, "workspace/3: the files have more than 39 bytes together"),
        ("FILES_LIMIT", 3, "workspace: more than 3 files"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(folders, name, limit)
            with pytest.raises(ConfigError, match=message):
                read_folder(place)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*agent\.yaml: No such file"):
        read_folder(tmp_path)
    place = write(tmp_path / "a", "id: a\n")
    put(place / "AGENTS.md", b"\xff")
    with pytest.raises(ConfigError, match="must be UTF-8"):
        read_folder(place)
