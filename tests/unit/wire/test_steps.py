from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import encode_json, parse, types_of
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    STEP_TYPES,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    StepAdapter,
    StepsAdapter,
    Thought,
    UserInput,
    dump,
)
from tests.unit.wire.samples import STEPS
from tests.unit.wire.strategies import steps

PUBLIC_EXAMPLE: list[dict[str, Any]] = [
    {"type": "thought", "signature": "c2lnLTE=", "summary": [{"type": "text", "text": "Write a script, then run it."}]},
    {
        "type": "function_call",
        "id": "fc_01",
        "name": "write_to_file",
        "arguments": {"TargetFile": "/workspace/primes.py", "CodeContent": "print([2,3,5,7])"},
    },
    {
        "type": "function_result",
        "call_id": "fc_01",
        "name": "write_to_file",
        "result": [{"type": "text", "text": "created /workspace/primes.py"}],
        "is_error": False,
    },
    {
        "type": "code_execution_call",
        "id": "ce_01",
        "arguments": {"language": "bash", "code": "python3 /workspace/primes.py"},
    },
    {"type": "code_execution_result", "call_id": "ce_01", "result": "[2, 3, 5, 7]\n", "is_error": False},
    {"type": "model_output", "content": [{"type": "text", "text": "The script prints the first four primes."}]},
]


def test_the_public_example_comes_back_byte_for_byte() -> None:
    parsed = parse(StepsAdapter, PUBLIC_EXAMPLE)
    assert [dump(step) for step in parsed] == PUBLIC_EXAMPLE
    assert encode_json(parsed) == json.dumps(PUBLIC_EXAMPLE, separators=(",", ":")).encode()


@given(steps)
def test_dump_and_parse_are_inverse(step: Step) -> None:
    dumped = dump(step)
    assert next(iter(dumped)) == "type"
    assert parse(StepAdapter, json.loads(encode_json(dumped))) == step


def test_step_types_are_those_of_the_union() -> None:
    members = get_args(get_args(Step)[0])
    assert {name for model in members for name in types_of(model)} == STEP_TYPES
    assert {step.type for step in STEPS} == STEP_TYPES, "the samples show every type"


@pytest.mark.parametrize(
    ("short", "canonical"),
    [
        ({"type": "user_input", "content": "hi"}, UserInput(content=[TextContent(text="hi")])),
        (
            {"type": "USER_INPUT", "content": {"type": "TEXT", "text": "hi"}},
            UserInput(content=[TextContent(text="hi")]),
        ),
        ({"type": "thought", "summary": []}, Thought()),
        ({"type": "function_call", "id": "a", "name": "f"}, FunctionCall(id="a", name="f", arguments={})),
        (
            {"type": "function_result", "call_id": "a", "result": {"content": [{"type": "text", "text": "x"}]}},
            FunctionResult(call_id="a", result=[TextContent(text="x")]),
        ),
        (
            {"type": "code_execution_result", "call_id": "a", "result": [{"type": "image", "uri": "x"}]},
            CodeExecutionResult(call_id="a", result=[ImageContent(uri="x")]),
        ),
    ],
)
def test_short_forms(short: dict[str, Any], canonical: Step) -> None:
    assert parse(StepAdapter, short) == canonical


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"paid": True, "by": None},
        {"content": []},
        {"content": [{"type": "text"}]},
        {"content": ["text"]},
        {"content": [{"type": "text", "text": "x"}], "next": 1},
        {"content": [{"type": "invoice"}]},
    ],
)
def test_a_functions_own_object_is_left_alone(result: dict[str, Any]) -> None:
    step = parse(StepAdapter, {"type": "function_result", "call_id": "a", "result": result})
    assert isinstance(step, FunctionResult)
    assert step.result == result


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "user_input", "content": 7}, "'s.content': expected a string or a list of content blocks"),
        ({"type": "user_input", "content": {"type": "text"}}, "Missing required parameter 'text' at 's.content'"),
        ({"type": "user_input", "content": [[]]}, "'s.content[0]': expected an object"),
        ({"type": "thought", "summary": [{"type": "audio"}]}, "Unknown content type 'audio' at 's.summary[0].type'"),
        ({"type": "function_result", "result": "x"}, "Missing required parameter 'call_id' at 's'"),
        ({"type": "function_result", "call_id": "a"}, "Missing required parameter 'result' at 's'"),
        (
            {"type": "function_result", "call_id": "a", "result": 1},
            "'s.result': expected a string, an object or a list",
        ),
        ({"type": "function_result", "call_id": "a", "result": [1]}, "'s.result[0]': expected an object"),
        ({"type": "function_call", "id": "a", "name": "f", "arguments": "{}"}, "'s.arguments': expected an object"),
        (
            {"type": "code_execution_call", "id": "a", "arguments": {"language": "perl", "code": ""}},
            "'s.arguments.language': expected 'python' or 'bash'",
        ),
        ({"type": "code_execution_result", "call_id": "a", "result": {}}, "'s.result': expected a string or a list"),
        ({"type": "model_output", "content": [{"type": "user_input"}]}, "Unknown content type 'user_input'"),
    ],
)
def test_refusals(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(StepAdapter, data, "s")
    assert message in caught.value.message


def test_unpaired_arguments_keep_their_nulls() -> None:
    call = FunctionCall(id="a", name="f", arguments={"x": None, "y": [None]})
    assert dump(call)["arguments"] == {"x": None, "y": [None]}


def test_model_output_needs_no_content() -> None:
    assert dump(ModelOutput(content=[])) == {"type": "model_output", "content": []}
