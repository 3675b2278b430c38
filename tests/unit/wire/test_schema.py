"""The schemas of what callers send agree with the parser; those of what they are sent, with what is dumped."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import parse
from orchestrator.wire.content import Content
from orchestrator.wire.environments import EnvironmentCreate
from orchestrator.wire.events import Delta, PublicEvent
from orchestrator.wire.interactions import Interaction, InteractionRequest, dump_interaction
from orchestrator.wire.schema import Mode, schemas
from orchestrator.wire.steps import Step
from tests.unit.wire.samples import STEPS, lines_by_kind
from tests.unit.wire.strategies import GOOD_REQUEST, almost_right_requests

UNIONS = {"Content": Content, "Step": Step, "Delta": Delta}


def validator(kind: Any, mode: Mode = "validation") -> jsonschema_rs.Draft202012Validator:
    (schema,), components = schemas([(kind, mode)], UNIONS)
    return jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": components}})


REQUEST = validator(InteractionRequest)
CREATE = validator(EnvironmentCreate)


def accepts(kind: Any, value: Any) -> bool:
    try:
        parse(kind, value)
    except InvalidRequest:
        return False
    return True


def is_json(value: Any) -> bool:
    """What can be sent: names are texts, and no text has lone surrogates."""
    try:
        return bool(json.loads(json.dumps(value, ensure_ascii=False).encode()) == value)
    except UnicodeEncodeError:
        return False


INPUTS: list[Any] = [
    "hi",
    {"type": "text", "text": "hi"},
    [{"type": "text", "text": "hi"}],
    {"type": "user_input", "content": "hi"},
    [{"type": "user_input", "content": {"type": "text", "text": "hi"}}],
    [{"content": [{"type": "text", "text": "hi"}]}],
    [{"type": None, "content": [{"type": "text", "text": "hi"}]}],
    {"role": "user", "content": "hi"},
    [{"role": "user", "content": [{"type": "image", "data": "YQ", "mime_type": "image/png"}]}],
    "",
    [],
    {},
    5,
    {"type": "text"},
    {"type": "image"},
    {"type": "image", "data": "YQ=="},
    {"type": "image", "data": "a", "mime_type": "image/png"},
    {"type": "image", "data": "YQ==", "mime_type": "image/png", "uri": "https://x"},
    {"type": "image", "data": None, "uri": "https://x"},
    {"type": "user_input"},
    [{"type": "text", "text": "hi"}, {"type": "user_input", "content": "hi"}],
    {"type": "nothing"},
    {"text": "hi"},
]
ENVIRONMENTS: list[Any] = [
    "remote",
    "3f0c",
    "environments/3f0c",
    {},
    {"type": "remote"},
    {"environment_id": "3f0c"},
    {"env_id": "3f0c"},
    {"enabled": True},
    {"enabled": False},
    {"enabled": False, "type": "remote"},
    {"enabled": None, "env_id": None, "environment_id": None, "sources": None},
    {"env_id": "a", "environment_id": None},
    {"unknown": None},
    {"env_id": "a", "environment_id": "b"},
    {"network": "disabled"},
    {"network": {"allowlist": "disabled"}},
    {"network": {"allowlist": []}},
    {"network": {"allowlist": [{"domain": "x", "transform": {"a": "b"}}]}},
    {"network": {"allowlist": [{"domain": "x", "transform": [{"a": "b"}]}]}},
    {"network": "open"},
    {"network": {}},
    {"sources": [{"type": "git", "url": "https://x", "target": "workspace/x"}]},
    {"sources": [{"type": "git", "url": "https://x", "source": "https://x", "target": "workspace/x"}]},
    {"sources": [{"type": "git", "url": "https://x", "source": None, "target": "workspace/x"}]},
    {"sources": [{"type": "git", "url": None, "source": "https://x", "target": "workspace/x"}]},
    {"sources": [{"type": "git", "url": None, "target": "workspace/x"}]},
    {"sources": [{"type": "inline", "target": "a", "content": "?", "encoding": "base64"}]},
    {"sources": [{"type": "inline", "target": "a", "content": "?"}]},
    {"sources": [{"type": "inline", "target": "/", "content": "?"}]},
    {"sources": [{"target": "a", "content": "?"}]},
    {"env": {"A": "x", "B": {"value": "x"}, "C": {"credential": "x"}}},
    {"env": {"A": {"value": "x", "credential": "x"}}},
    {"env": {"A": {}}},
    {"env": {"1": "x"}},
    {"env": {"A": 1}},
    {"env": {"A": "\0"}},
    "",
    "a\n",
    5,
    [],
]
OTHERS: list[dict[str, Any]] = [
    {},
    {"model": "general"},
    {"agent": None, "model": "general"},
    {"agent": None},
    {"agent": ""},
    {"stream": None},
    {"stream": 1},
    {"Stream": True},
    {"agent_config": {"type": "antigravity", "max_total_tokens": "5"}},
    {"agent_config": {"type": "antigravity", "max_total_tokens": 5}},
    {"agent_config": {"type": "antigravity", "max_total_tokens": 0}},
    {"agent_config": {"type": "antigravity", "max_total_tokens": "five"}},
    {"agent_config": {"type": "antigravity", "max_total_tokens": 2**63}},
    {"agent_config": {"type": "dynamic", "anything": 1}},
    {"agent_config": {"max_total_tokens": 5}},
    {"agent_config": {"type": "dynamic"}, "generation_config": {}},
    {"generation_config": {"seed": "-5", "speech_config": [], "tool_choice": "auto"}},
    {"generation_config": {"speech_config": "x"}},
    {"response_format": {"type": "text"}},
    {"response_format": [{"type": "text", "schema": {"anything": None}}]},
    {"response_format": "text"},
    {"background": True, "store": False},
    {"background": True, "webhook_config": {"uris": ["x"]}},
    {"webhook_config": {"uris": ["x"]}},
    {"webhook_config": {"uris": []}, "background": True},
    {"labels": {"team": "blue"}},
    {"labels": {"Team": "blue"}},
    {"labels": {"team": "Blue"}},
    {"tools": []},
    {"tools": [{"type": "function", "name": "a b"}]},
    {"tools": [{"type": "mcp_server", "name": "CRM", "url": "https://x"}]},
    {"tools": [{"type": "mcp_server", "name": "crm", "url": "ftp://x"}]},
    {"tools": [{"type": "mcp_server", "name": "crm", "url": "https://x", "allowed_tools": [{"tools": ["a"]}]}]},
    {"input": None, "continuation_token": "x"},
    {"input": None},
]
REQUESTS = [
    *({"input": value} for value in INPUTS),
    *({"environment": value} for value in ENVIRONMENTS),
    *OTHERS,
]


@pytest.mark.parametrize("fields", REQUESTS, ids=lambda fields: json.dumps(fields)[:60])
def test_every_form_of_a_request_is_described_as_it_is_taken(fields: dict[str, Any]) -> None:
    request = {"agent": "general", "input": "hi", **fields}
    assert REQUEST.is_valid(request) == accepts(InteractionRequest, request)


def test_both_sides_of_the_forms_are_tried() -> None:
    taken = [accepts(InteractionRequest, {"agent": "general", "input": "hi", **fields}) for fields in REQUESTS]
    assert 30 < sum(taken) < len(taken) - 30


@given(almost_right_requests())
def test_the_schema_agrees_with_the_parser(request: Any) -> None:
    assume(is_json(request))
    assert REQUEST.is_valid(request) == accepts(InteractionRequest, request)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "from_environment": st.sampled_from([None, "a", "environments/a", "", 5]),
            "sources": st.sampled_from([None, [], [{"type": "inline", "target": "a", "content": "b"}], [5]]),
            "network": st.sampled_from([None, "disabled", {"allowlist": []}, "x"]),
            "other": st.none(),
        },
    )
)
def test_the_schema_of_a_new_environment_agrees_with_the_parser(request: Any) -> None:
    assert CREATE.is_valid(request) == accepts(EnvironmentCreate, request)


def test_events_and_steps_are_as_described() -> None:
    event = validator(PublicEvent, "serialization")
    for lines in lines_by_kind().values():
        for line in lines:
            event.validate(json.loads(line))
    interaction = Interaction(id="v1_a", status="completed", agent="general", steps=list(STEPS))
    validator(Interaction, "serialization").validate(dump_interaction(interaction))
    assert not event.is_valid({"event_type": "step.start", "index": 0})
    assert not validator(Interaction, "serialization").is_valid({"object": "interaction"})


def test_texts_below_fields_are_their_descriptions() -> None:
    _, components = schemas([(InteractionRequest, "validation"), (PublicEvent, "serialization")], UNIONS)
    assert components["InteractionRequest"]["properties"]["tools"]["description"].startswith("Absent: the default set.")
    assert components["StepStop"]["properties"]["usage"]["description"] == "The run's total so far."


def test_unions_are_components_and_one_that_is_only_sent_has_a_plain_name() -> None:
    _, components = schemas([(InteractionRequest, "validation"), (PublicEvent, "serialization")], UNIONS)
    assert {"Step-Input", "Step-Output", "Delta"} <= set(components)
    assert components["Step-Input"]["discriminator"]["mapping"]["thought"] == "#/components/schemas/Thought-Input"
    assert components["Thought-Input"]["required"] == ["type"]
    assert REQUEST.is_valid(GOOD_REQUEST)
    assert "x-aliases" not in json.dumps(components)
