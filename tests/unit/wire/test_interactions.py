from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.wire.base import encode_json, parse, parse_json
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.generation import AntigravityConfig, DynamicConfig, GenerationConfig, TextFormat
from orchestrator.wire.interactions import (
    TERMINAL_STATUSES,
    Interaction,
    InteractionError,
    InteractionRequest,
    Status,
    Usage,
    dump_interaction,
    dump_request,
    output_text,
    parse_interaction_request,
)
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    ModelOutput,
    Step,
    Thought,
    UserInput,
)
from tests.unit.wire.strategies import GOOD_REQUEST, almost_right_requests, json_values

MINIMAL = {"agent": "a", "input": "hi"}
HI = UserInput(content=[TextContent(text="hi")])


def refusal(data: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_interaction_request(data)
    return caught.value.message


def test_the_smallest_request() -> None:
    request = parse_interaction_request(MINIMAL)
    assert request == InteractionRequest(agent="a", input=[HI])
    assert request.given == {"agent", "input"}
    assert (request.stream, request.background, request.store) == (False, False, True)
    assert request.target == "a"
    assert dump_request(request) == {
        "agent": "a",
        "input": [{"type": "user_input", "content": [{"type": "text", "text": "hi"}]}],
    }


def test_a_full_request() -> None:
    request = parse_interaction_request(GOOD_REQUEST)
    assert request.given == GOOD_REQUEST.keys()
    assert isinstance(request.environment, EnvironmentSpec)
    assert [source.type for source in request.environment.sources] == ["inline", "repository"]
    assert request.agent_config == AntigravityConfig(max_total_tokens=50000)
    assert request.response_format == [TextFormat(mime_type="application/json", schema={"type": "object"})]


def test_the_canonical_form_is_stable() -> None:
    request = parse_interaction_request(GOOD_REQUEST)
    stored = encode_json(dump_request(request))
    again = parse_interaction_request(parse_json(stored))
    assert again == request
    assert again.given == request.given
    assert encode_json(dump_request(again)) == stored
    assert b'"schema":{"type":"object"}' in stored


def test_null_is_not_given() -> None:
    request = parse_interaction_request({**MINIMAL, "stream": None, "tools": None, "environment": None})
    assert request.given == {"agent", "input"}


def test_what_was_given_is_told_even_if_it_is_the_default() -> None:
    request = parse_interaction_request({**MINIMAL, "store": True, "tools": [], "environment": "remote"})
    assert request.given == {"agent", "input", "store", "tools", "environment"}
    assert parse_interaction_request(dump_request(request)).given == request.given


@pytest.mark.parametrize(
    ("fields", "canonical"),
    [
        ({"agent": "agents/ledger-clerk"}, {"agent": "ledger-clerk"}),
        ({"agent": None, "model": "models/gemini-3.8-flash"}, {"model": "gemini-3.8-flash", "agent": None}),
        ({"agent": None, "model": "agents/ledger-clerk"}, {"model": "ledger-clerk", "agent": None}),
        ({"agent": None, "model": "openai:gpt/x"}, {"model": "openai:gpt/x", "agent": None}),
        ({"previous_interaction_id": "interactions/v1_a"}, {"previous_interaction_id": "v1_a"}),
        ({"service_tier": "STANDARD"}, {"service_tier": "standard"}),
        ({"response_format": {"type": "TEXT"}}, {"response_format": [TextFormat()]}),
        ({"agent_config": {"type": "dynamic", "x": [1]}}, {"agent_config": DynamicConfig.model_validate({"x": [1]})}),
        (
            {"generation_config": {"thinking_level": "XHIGH", "seed": "-1", "temperature": 1, "tool_choice": "auto"}},
            {
                "generation_config": GenerationConfig(
                    thinking_level="xhigh", seed=-1, temperature=1.0, tool_choice="auto"
                )
            },
        ),
        ({"environment": {"enabled": False}}, {"environment": None}),
        ({"input": None, "continuation_token": "t"}, {"input": None, "continuation_token": "t"}),
        ({"labels": {"a": "", "b-2_": "x" * 63}}, {"labels": {"a": "", "b-2_": "x" * 63}}),
    ],
)
def test_canonical_fields(fields: dict[str, Any], canonical: dict[str, Any]) -> None:
    request = parse_interaction_request({**MINIMAL, **fields})
    assert {name: getattr(request, name) for name in canonical} == canonical


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"agent": None}, "Invalid request: give either 'model' or 'agent'."),
        ({"model": "m"}, "Invalid request: give either 'model' or 'agent', not both."),
        ({"agent": ""}, "Invalid value at 'agent': must not be empty."),
        ({"agent": "a" * 257}, "Invalid value at 'agent': expected at most 256 characters."),
        ({"agent": {}}, "Invalid value at 'agent': expected a string."),
        ({"input": None}, "Missing required parameter 'input'."),
        (
            {"systemInstruction": "x"},
            "Unknown parameter 'systemInstruction' (closest known name: 'system_instruction').",
        ),
        ({"enviroment": "remote"}, "Unknown parameter 'enviroment' (closest known name: 'environment')."),
        ({"stream": "true"}, "Invalid value at 'stream': expected true or false."),
        (
            {"background": True, "store": False},
            "Invalid value at 'store': 'background' needs 'store': a run that is not stored cannot be asked for.",
        ),
        (
            {"agent_config": {"type": "antigravity"}, "generation_config": {}},
            "Invalid value at 'generation_config': not together with 'agent_config'.",
        ),
        (
            {"webhook_config": {"uris": []}, "background": True},
            "Invalid value at 'webhook_config.uris': must not be empty.",
        ),
        ({"webhook_config": {"uris": ["x"]}}, "Invalid value at 'webhook_config': needs 'background': true."),
        (
            {"agent_config": {"model": "x"}},
            "Missing required parameter 'type' at 'agent_config'; known agent_config types: ",
        ),
        (
            {"agent_config": {"type": "antigravity", "max_total_tokens": 0}},
            "Invalid value at 'agent_config.max_total_tokens': expected an integer of at least 1.",
        ),
        (
            {"agent_config": {"type": "antigravity", "max_tokens": 5}},
            "Unknown parameter 'max_tokens' at 'agent_config' (closest known name: 'max_total_tokens').",
        ),
        (
            {"generation_config": {"thinking_level": "huge"}},
            "Invalid value at 'generation_config.thinking_level': expected 'minimal', 'low', 'medium', 'high' or ",
        ),
        (
            {"generation_config": {"tool_choice": 5}},
            "Invalid value at 'generation_config.tool_choice': expected a string or an object.",
        ),
        (
            {"generation_config": {"temperature": "hot"}},
            "Invalid value at 'generation_config.temperature': expected a number.",
        ),
        ({"response_format": [5]}, "Invalid value at 'response_format[0]': expected an object."),
        ({"labels": {"Team": "a"}}, "Invalid value at 'labels.Team': keys are at most 63 of a-z, 0-9, '_' and '-', "),
        ({"labels": {"1a": "a"}}, "Invalid value at 'labels[\"1a\"]': keys are"),
        ({"labels": {"a" * 64: "a"}}, "Invalid value at 'labels.aaaa"),
        ({"labels": {"a": "A"}}, "Invalid value at 'labels.a': values are"),
        ({"labels": {"a": "a\n"}}, "Invalid value at 'labels.a': values are"),
        ({"labels": {f"a{i}": "a" for i in range(65)}}, "Invalid value at 'labels': expected at most 64 labels."),
        (
            {"service_tier": "gold"},
            "Invalid value at 'service_tier': expected 'flex', 'standard', 'priority' or 'deferred'.",
        ),
        (
            {"environment": {"network": {"allowlist": [{}]}}},
            "Missing required parameter 'domain' at 'environment.network.",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    assert refusal({**MINIMAL, **fields}).startswith(message)


@pytest.mark.parametrize("data", [None, 5, "x", [], [MINIMAL]])
def test_a_body_is_an_object(data: Any) -> None:
    assert refusal(data) == "Invalid request: expected an object."


@example({**GOOD_REQUEST, "\ud800": None})
@given(almost_right_requests() | json_values | st.dictionaries(st.sampled_from(sorted(GOOD_REQUEST)), json_values))
def test_anything_is_a_request_or_a_refusal(data: Any) -> None:
    try:
        request = parse_interaction_request(data)
    except (InvalidRequest, NotSupported) as error:
        assert error.message.isprintable()
        assert "\0" not in error.message
    else:
        assert parse_interaction_request(dump_request(request)) == request


# the record


def test_a_record_is_answered_without_what_is_absent() -> None:
    interaction = Interaction(
        id="v1_x",
        status="completed",
        agent="a",
        created="2026-11-20T09:00:00Z",
        updated="2026-11-20T09:00:41Z",
        environment_id="e",
        service_tier="standard",
        steps=[ModelOutput(content=[TextContent(text="Done.")])],
        usage=Usage(total_tokens=5),
        errors=[InteractionError(code="c", message="m")],
    )
    answer = dump_interaction(interaction)
    assert list(answer) == [
        "id",
        "object",
        "status",
        "agent",
        "created",
        "updated",
        "environment_id",
        "service_tier",
        "steps",
        "output_text",
        "outputs",
        "usage",
        "errors",
    ]
    assert answer["steps"] == [{"type": "model_output", "content": [{"type": "text", "text": "Done."}]}]
    assert answer["output_text"] == "Done."
    assert dump_interaction(parse(Interaction, answer)) == answer


def test_a_record_that_is_not_stored_has_no_id() -> None:
    assert dump_interaction(Interaction(status="failed", model="m")) == {
        "object": "interaction",
        "status": "failed",
        "model": "m",
    }


def test_only_in_progress_goes_on() -> None:
    assert set(get_args(Status)) - TERMINAL_STATUSES == {"in_progress"}
    assert set(get_args(Status)) > TERMINAL_STATUSES


def text(*texts: str) -> ModelOutput:
    return ModelOutput(content=[TextContent(text=part) for part in texts])


PICTURE = ImageContent(uri="x")
CALL = CodeExecutionCall(id="a", arguments=CodeArguments(code="1"))
RESULT = CodeExecutionResult(call_id="a", result="1")


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([], ""),
        ([HI], ""),
        ([text("a", "b")], "ab"),
        ([text("a"), CALL, RESULT, text("b")], "b"),
        ([text("b"), CALL, RESULT], "b"),
        ([text("a"), Thought(), text("b")], "ab"),
        ([text("a"), HI], ""),
        ([text("a"), HI, text("b")], "b"),
        ([ModelOutput(content=[TextContent(text="a"), PICTURE, TextContent(text="b")])], "b"),
        ([ModelOutput(content=[TextContent(text="a"), PICTURE])], "a"),
        ([text("a"), ModelOutput(content=[PICTURE])], "a"),
    ],
)
def test_output_text_is_what_clients_compute(steps: list[Step], found: str) -> None:
    assert output_text(steps) == found


def test_the_final_blocks_are_there_for_clients_that_know_no_steps() -> None:
    image = ImageContent(mime_type="image/png", data="AAAA")
    earlier = ModelOutput(content=[TextContent(text="First.")])
    steps = [
        earlier,
        CodeExecutionCall(id="c", arguments=CodeArguments(code="x")),
        ModelOutput(content=[TextContent(text="Look:"), image]),
        Thought(signature="s"),
        ModelOutput(content=[TextContent(text="Done.")]),
        CodeExecutionCall(id="d", arguments=CodeArguments(code="y")),
    ]
    answer = dump_interaction(Interaction(id="v1_x", status="completed", agent="a", steps=steps))
    assert answer["outputs"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image", "mime_type": "image/png", "data": "AAAA"},
        {"type": "text", "text": "Done."},
    ]
    assert "outputs" not in dump_interaction(Interaction(id="v1_x", status="failed", agent="a", steps=steps[1:2]))
