"""Agents on the wire: every way to write one, what is refused and how it is said, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.wire.agents import AgentChange, AgentCreate, dump_agent, parse_change, pinned, public_agent
from orchestrator.wire.base import encode_json, parse
from orchestrator.wire.schema import schemas

GOLDEN = Path(__file__).parent / "golden" / "agent.json"

CLERK: dict[str, Any] = {
    "id": "ledger-clerk",
    "base_agent": "antigravity-preview-09-2026",
    "description": "Reconciles ledgers",
    "system_instruction": "Work only inside /workspace and end with a table.",
    "tools": [
        {"type": "code_execution"},
        {"type": "mcp_server", "name": "crm", "url": "https://crm.example.com", "headers": {"X-Key": "s3cr3t"}},
    ],
    "agent_config": {"type": "antigravity", "model": "gemini-3.8-flash", "max_total_tokens": "400000"},
    "base_environment": {
        "type": "remote",
        "sources": [{"type": "inline", "target": ".agents/AGENTS.md", "content": "# Rules\nCite row numbers."}],
        "network": {"allowlist": [{"domain": "api.example.com", "transform": {"Authorization": "s3cr3t"}}]},
        "env": {"TOKEN": "s3cr3t"},
    },
}


def test_the_answer_is_as_it_was() -> None:
    shown = public_agent(parse(AgentCreate, CLERK), with_contents=True)
    assert encode_json(shown).decode() + "\n" == GOLDEN.read_text()


def test_nothing_secret_is_shown_and_contents_only_where_asked_for() -> None:
    agent = parse(AgentCreate, CLERK)
    whole, listed = (json.dumps(public_agent(agent, with_contents=each)) for each in (True, False))
    assert "s3cr3t" not in whole + listed
    assert "Cite row numbers" in whole
    assert "Cite row numbers" not in listed


def test_what_is_kept_parses_to_the_same() -> None:
    agent = parse(AgentCreate, CLERK)
    assert parse(AgentCreate, json.loads(encode_json(dump_agent(agent)))) == agent


def test_older_names_mean_the_same() -> None:
    plain = parse(AgentCreate, {"id": "a", "system_instruction": "Be brief."})
    assert parse(AgentCreate, {"name": "a", "instructions": "Be brief.", "id": None}) == plain
    assert parse(AgentCreate, {"name": "a", "instructions": "Be brief.", "system_instruction": None}) == plain


@pytest.mark.parametrize("text", ["a", "0", "ledger-clerk", "a" * 63, "a--b"])
def test_ids(text: str) -> None:
    assert parse(AgentCreate, {"id": text}).id == text


@pytest.mark.parametrize("text", ["", "A", "a_b", "-a", "a-", "a" * 64, "a@1", "ä", "a\n", "a/b"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"'id': expected at most 63 lowercase letters"):
        parse(AgentCreate, {"id": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sytem_instruction": ""}, r"Unknown parameter 'sytem_instruction' \(closest known name: 'system_instruct"),
        ({"systemInstruction": ""}, "closest known name: 'system_instruction'"),
        ({"name": "b"}, "'name': give either 'id' or 'name', not both"),
        ({"instructions": "a", "system_instruction": "b"}, "'instructions': give either"),
        ({"instructions": {"parts": []}}, "'system_instruction': expected a string"),
        ({"tools": [{"type": "code_execution"}, {"type": "code"}]}, r"'tools\[1\]\.type'"),
        ({"agent_config": {"type": "antigravity", "modl": "x"}}, r"'modl' at 'agent_config'"),
        ({"base_environment": {"sources": [{"type": "inline", "target": "/"}]}}, r"base_environment\.sources\[0\]"),
        ({"base_agent": 5}, "'base_agent': expected a string"),
        ({"description": "d" * 5000}, "at most 4096 characters"),
    ],
)
def test_a_fault_names_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse(AgentCreate, {"id": "a", **change})


def test_an_agent_needs_an_id() -> None:
    with pytest.raises(InvalidRequest, match="Missing required parameter 'id'"):
        parse(AgentCreate, {"base_agent": "general"})


def test_a_change_tells_what_is_given_and_what_is_taken_away() -> None:
    assert parse_change({"instructions": "Be brief.", "tools": None, "agent_config": None}) == {
        "system_instruction": "Be brief.",
        "tools": None,
        "agent_config": None,
    }
    assert parse_change({"instructions": None}) == {"system_instruction": None}
    assert parse_change({}) == {}
    refused: tuple[Any, ...] = ({"id": "b"}, {"name": "b"}, {"name": None}, {"descripton": None}, [])
    for wrong in refused:
        with pytest.raises(InvalidRequest):
            parse_change(wrong)


def test_setup_is_shown_with_the_contents_of_files() -> None:
    agent = parse(AgentCreate, {"id": "a", "base_environment": {"setup": ["make tools"]}})
    assert public_agent(agent, with_contents=True)["base_environment"]["setup"] == ["make tools"]
    assert "setup" not in public_agent(agent, with_contents=False)["base_environment"]


def test_pins() -> None:
    assert pinned("clerk") == ("clerk", None)
    assert pinned("clerk@12") == ("clerk", 12)
    assert pinned("clerk@x") == ("clerk@x", None)
    assert pinned("@1") == ("@1", None)


@pytest.mark.parametrize("kind", [AgentCreate, AgentChange])
def test_the_description_agrees_with_the_parser(kind: Any) -> None:
    (schema,), components = schemas([(kind, "validation")], {})
    validator = jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": components}})
    own = {"id": "a"} if kind is AgentCreate else {}
    for right in ({}, {"instructions": "x"}, {"tools": None}, {"system_instruction": None, "instructions": "x"}):
        parse(kind, {**own, **right})
        assert validator.is_valid({**own, **right}), right
    both = {"instructions": "x", "system_instruction": "y"}
    refused: tuple[dict[str, Any], ...] = (both, {"name": "b", **own, "id": "c"}, {"tools": {}})
    for wrong in refused:
        with pytest.raises(InvalidRequest):
            parse(kind, {**own, **wrong})
        assert not validator.is_valid({**own, **wrong}), wrong
    if kind is AgentCreate:
        assert validator.is_valid({"name": "a"})
        assert not validator.is_valid({})
