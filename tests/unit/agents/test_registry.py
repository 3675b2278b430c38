from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.agents.registry import AgentRegistry
from orchestrator.config import Settings
from orchestrator.errors import ConfigError, NotFound
from orchestrator.policy.bounds import Bounds, Maxima
from orchestrator.wire.tools import CodeExecutionTool


def write(folder: Path, name: str, text: str, guide: str | None = None) -> None:
    place = folder / name
    place.mkdir()
    (place / "agent.yaml").write_text(text)
    if guide is not None:
        (place / "AGENTS.md").write_text(guide)


def test_the_shipped_agent_goes_by_its_public_names_too() -> None:
    registry = AgentRegistry.load(aliases=Settings().agent_aliases)
    general = registry.resolve("general")
    assert registry.resolve("antigravity-preview-09-2026") is general
    assert general.tools == (CodeExecutionTool(),)
    assert general.instructions.startswith("You are")
    assert general.model is None


def test_all_fields_are_read(tmp_path: Path) -> None:
    text = "id: clerk\ndescription: d\nsystem_instruction: Be brief.\nmodel: scripted:x\ntools: []\n"
    write(tmp_path, "clerk", text, "# Rules\n")
    (tmp_path / "notes.txt").write_text("not an agent")
    (agent,) = AgentRegistry.load(tmp_path).agents
    assert (agent.id, agent.description, agent.system_instruction) == ("clerk", "d", "Be brief.")
    assert (agent.instructions, agent.model, agent.tools) == ("# Rules", "scripted:x", ())


def test_bounds_are_read_and_absent_ones_are_nobodys(tmp_path: Path) -> None:
    write(tmp_path, "small", "id: small\nsandbox: {runtime: runsc, cpus: 1, call_timeout_s: 30, pids: null}\n")
    write(tmp_path, "plain", "id: plain\n")
    registry = AgentRegistry.load(tmp_path)
    assert registry.resolve("small").bounds == Bounds(runtime="runsc", cpus=1.0, call_timeout_s=30.0)
    assert registry.resolve("plain").bounds == Bounds()


def test_the_operators_maxima_count(tmp_path: Path) -> None:
    write(tmp_path, "large", "id: large\nsandbox: {pids: 10000}\n")
    assert AgentRegistry.load(tmp_path, maxima=Maxima(pids=10_000)).resolve("large").bounds.pids == 10_000


def test_agents_of_the_operator_come_beside_the_shipped_ones_and_may_replace_them(tmp_path: Path) -> None:
    write(tmp_path, "clerk", "id: clerk\n")
    registry = AgentRegistry.load(own=tmp_path)
    assert {"clerk", "general"} <= {agent.id for agent in registry.agents}
    write(tmp_path, "general", "id: general\ndescription: mine\n")
    assert AgentRegistry.load(own=tmp_path).resolve("general").description == "mine"


def test_an_unknown_agent_names_the_closest() -> None:
    registry = AgentRegistry.load(aliases={"antigravity-preview-09-2026": "general"})
    with pytest.raises(NotFound, match=r"^Agent 'antigravity-preview-08-2026' not found .*antigravity-preview-09-2026"):
        registry.resolve("antigravity-preview-08-2026")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", "id: a\ndescripton: x", "descripton.*description"),
        ("a", "id: b", "id 'b' must be the name of its folder, 'a'"),
        ("a", "description: x", "id"),
        ("A_b", "id: A_b", "lowercase letters"),
        ("a", "id: a\ntools: [{type: code_exec}]", "code_exec"),
        ("a", "id: [", "not valid YAML"),
        ("a", f"id: a\nbase_environment: {'a' * 32}", "an agent of the server cannot begin with an environment"),
        ("a", "", "agent.yaml"),
        ("a", "id: a\nsandbox: {memory: 5}", r"'memory' at 'sandbox' \(closest known name: 'memory_bytes'\)"),
        ("a", "id: a\nsandbox: {memory_bytes: 5}", r"'sandbox\.memory_bytes'.*greater than or equal to 67108864"),
        ("a", "id: a\nsandbox: {cpus: .nan}", r"'sandbox\.cpus'"),
        ("a", "id: a\nsandbox: {call_timeout_s: soon}", r"'sandbox\.call_timeout_s'"),
        ("a", "id: a\nsandbox: []", r"'sandbox': expected an object"),
        ("a", "id: a\nsandbox: {pids: 10000}", r"agent 'a': sandbox\.pids: 10000 .*'maxima\.pids' allows, 8192"),
        ("a", "id: a\nsandbox: {run_timeout_s: .inf}", r"agent 'a': sandbox\.run_timeout_s: inf .*86400"),
        ("a", "id: a\nsandbox: {runtime: crun}", r"agent 'a': sandbox\.runtime: 'crun' is not allowed"),
    ],
)
def test_a_fault_names_file_and_field(tmp_path: Path, name: str, text: str, message: str) -> None:
    write(tmp_path, name, text)
    with pytest.raises(ConfigError, match=message) as caught:
        AgentRegistry.load(tmp_path)
    assert str(tmp_path / name / "agent.yaml") in caught.value.message


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the folder of agents"):
        AgentRegistry.load(tmp_path / "gone")


def test_an_alias_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"alias 'x' leads to 'generel'.*'general'"):
        AgentRegistry.load(aliases={"x": "generel"})


BASE = """\
id: clerk
base_environment:
  sources:
    - {type: inline, target: workspace/rules.md, content: Be brief.}
"""


def test_what_new_environments_begin_with(tmp_path: Path) -> None:
    write(tmp_path, "clerk", BASE)
    base = AgentRegistry.load(tmp_path).resolve("clerk").base
    assert base is not None
    assert [source.model_dump()["target"] for source in base.sources] == ["workspace/rules.md"]


def test_agents_of_the_server_may_be_built_on_each_other(tmp_path: Path) -> None:
    write(tmp_path, "base", "id: base\ntools: [{type: code_execution}]\nsandbox: {pids: 64, cpus: 2}\n", "Look first.")
    text = "id: child\nbase_agent: public\ninstructions: Be brief.\nsandbox: {pids: 32}\nmodel: scripted\n"
    write(tmp_path, "child", text, "Be kind.")
    child = AgentRegistry.load(tmp_path, aliases={"public": "base"}).resolve("child")
    assert child.instructions == "Look first.\n\nBe brief.\n\nBe kind."
    assert (child.tools, child.model, child.bounds) == ((CodeExecutionTool(),), "scripted", Bounds(pids=32, cpus=2.0))


@pytest.mark.parametrize(("base", "message"), [("a", "itself"), ("b", "itself"), ("c", "'c' is unknown")])
def test_agents_that_cannot_be_built_on_each_other_stop_the_start(tmp_path: Path, base: str, message: str) -> None:
    write(tmp_path, "a", f"id: a\nbase_agent: {base}\n")
    write(tmp_path, "b", "id: b\nbase_agent: a\n")
    with pytest.raises(ConfigError, match=f"agent.yaml: base_agent: .*{message}"):
        AgentRegistry.load(tmp_path)


def test_skills_and_the_workspace_are_files_of_new_environments_and_the_guide_is_told(tmp_path: Path) -> None:
    write(tmp_path, "clerk", BASE, "Look first.")
    (tmp_path / "clerk/workspace").mkdir()
    (tmp_path / "clerk/workspace/a.csv").write_text("1,2")
    agent = AgentRegistry.load(tmp_path).resolve("clerk")
    assert agent.instructions == "Look first."
    assert agent.base is not None
    assert [source.model_dump()["target"] for source in agent.base.sources] == ["workspace/rules.md", "workspace/a.csv"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("workspace/rules.md", "etc/passwd"), "base_environment.sources[0].target"),
        (("workspace/rules.md", "tmp/rules.md"), "/tmp is memory"),
        (
            ("type: inline, target: workspace/rules.md, content: Be brief.", "type: gcs, source: gs://b, target: a"),
            "base_environment.sources[0].target",
        ),
        (
            ("base_environment:", "base_environment:\n  network: {allowlist: [{domain: a_-.b c}]}"),
            "base_environment.network",
        ),
    ],
)
def test_a_base_that_cannot_be_built_stops_the_start(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    write(tmp_path, "clerk", BASE.replace(*change))
    with pytest.raises(ConfigError, match=re.escape(named)) as failure:
        AgentRegistry.load(tmp_path)
    assert "agent.yaml" in failure.value.message


def test_a_skill_that_the_server_does_not_have_stops_the_start(tmp_path: Path) -> None:
    text = "id: clerk\nbase_environment:\n  sources:\n    - type: skill_registry\n      source: {}\n"
    write(tmp_path, "clerk", text.format("data-analysis"))
    assert AgentRegistry.load(tmp_path).resolve("clerk").base is not None
    (tmp_path / "clerk" / "agent.yaml").write_text(text.format("data-analisys"))
    with pytest.raises(
        ConfigError, match=r"agent\.yaml:5: .*no skill 'data-analisys'; it has data-analysis, "
    ) as failure:
        AgentRegistry.load(tmp_path)
    assert "base_environment.sources[0].source" in failure.value.message
