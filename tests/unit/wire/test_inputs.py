from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import parse
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.inputs import Input
from orchestrator.wire.steps import FunctionCall, FunctionResult, ModelOutput, Step, UserInput
from tests.unit.wire.samples import STEPS

adapter: TypeAdapter[list[Step]] = TypeAdapter(Input)

HI = {"type": "text", "text": "hi"}
HI_STEP = UserInput(content=[TextContent(text="hi")])
PICTURE = {"type": "image", "mime_type": "image/png", "data": "YQ=="}
RESULT = {"type": "function_result", "name": "f", "call_id": "a", "result": {"paid": True}}


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        ("hi", [HI_STEP]),
        (HI, [HI_STEP]),
        ([HI], [HI_STEP]),
        (
            [HI, PICTURE],
            [UserInput(content=[TextContent(text="hi"), ImageContent(mime_type="image/png", data="YQ==")])],
        ),
        ([{"type": "user_input", "content": [HI]}], [HI_STEP]),
        ({"type": "user_input", "content": "hi"}, [HI_STEP]),
        ([RESULT], [FunctionResult(call_id="a", name="f", result={"paid": True})]),
        (
            [RESULT, {**RESULT, "call_id": "b", "name": None, "result": "x"}],
            [
                FunctionResult(call_id="a", name="f", result={"paid": True}),
                FunctionResult(call_id="b", result="x"),
            ],
        ),
        (
            [{"type": "model_output", "content": "hi"}, {"type": "USER_INPUT", "content": [HI, RESULT, HI]}],
            [
                ModelOutput(content=[TextContent(text="hi")]),
                HI_STEP,
                FunctionResult(call_id="a", name="f", result={"paid": True}),
                HI_STEP,
            ],
        ),
        (
            {"type": "user_input", "content": [RESULT]},
            [FunctionResult(call_id="a", name="f", result={"paid": True})],
        ),
        ({"role": "user", "content": "hi"}, [HI_STEP]),
        (
            [
                {"role": "user", "content": "hi"},
                {"role": "model", "content": HI},
                {"role": "assistant", "content": [HI]},
                {"role": "USER", "content": [HI, PICTURE]},
            ],
            [
                HI_STEP,
                ModelOutput(content=[TextContent(text="hi")]),
                ModelOutput(content=[TextContent(text="hi")]),
                UserInput(content=[TextContent(text="hi"), ImageContent(mime_type="image/png", data="YQ==")]),
            ],
        ),
        (
            [
                {"role": "model", "content": [HI, {"type": "function_call", "id": "a", "name": "f"}, HI]},
                {"role": "user", "content": [RESULT]},
            ],
            [
                ModelOutput(content=[TextContent(text="hi")]),
                FunctionCall(id="a", name="f"),
                ModelOutput(content=[TextContent(text="hi")]),
                FunctionResult(call_id="a", name="f", result={"paid": True}),
            ],
        ),
    ],
)
def test_all_forms_become_steps(value: Any, steps: list[Step]) -> None:
    assert parse(adapter, value, "input") == steps


def test_steps_pass_as_they_are() -> None:
    assert parse(adapter, list(STEPS)) == list(STEPS)
    assert parse(adapter, [step.model_dump(exclude_none=True) for step in STEPS]) == list(STEPS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "Invalid value at 'input': expected a string, an object or a list."),
        (True, "Invalid value at 'input': expected a string, an object or a list."),
        ("", "Invalid value at 'input': must not be empty."),
        ([], "Invalid value at 'input': must not be empty."),
        (["hi"], "Invalid value at 'input[0]': expected an object."),
        ([HI, None], "Invalid value at 'input[1]': expected an object."),
        ([[HI]], "Invalid value at 'input[0]': expected an object."),
        ([HI, {"type": "text", "txt": "x"}], "Unknown parameter 'txt' at 'input[1]' (closest known name: 'text')."),
        ({"type": "text", "text": 5}, "Invalid value at 'input.text': expected a string."),
        (
            [{"type": "user_input", "content": "a"}, {"type": "user_input", "content": 7}],
            "Invalid value at 'input[1].content': expected a string or a list of content blocks.",
        ),
        (
            [{"type": "user_input", "content": [{"type": "text", "text": 7}]}],
            "Invalid value at 'input[0].content[0].text': expected a string.",
        ),
        (
            [{"type": "user_input", "content": "a"}, {"type": "user_input", "content": [RESULT, {"type": "foo"}]}],
            "Unknown content type 'foo' at 'input[1].content[1].type'; known: text, image, audio, video, document, "
            "function_result.",
        ),
        (
            [{"type": "user_input", "content": [{**RESULT, "reslt": 1}]}],
            "Unknown parameter 'reslt' at 'input[0].content[0]' (closest known name: 'result').",
        ),
        (
            [HI, {"type": "user_input", "content": "x"}],
            "Invalid value at 'input[1]': 'input' must not mix forms; this is a step, 'input[0]' is a content block.",
        ),
        (
            [{"role": "user", "content": "x"}, HI],
            "Invalid value at 'input[1]': 'input' must not mix forms; this is a content block, 'input[0]' is a turn.",
        ),
        (
            [{"role": "system", "content": "x"}],
            "Invalid value at 'input[0].role': expected 'user', 'model' or 'assistant'.",
        ),
        ([{"role": "user"}], "Missing required parameter 'content' at 'input[0]'."),
        ([{"role": "user", "parts": []}], "Unknown parameter 'parts' at 'input[0]' (known names: content, role)."),
        ([{"type": 5}], "Invalid value at 'input[0].type': expected a string."),
    ],
)
def test_refusals(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(adapter, value, "input")
    assert caught.value.message == message


@pytest.mark.parametrize("value", [[{"type": "foo"}], [HI, {"type": "foo"}], {"type": "foo"}])
def test_an_unknown_type_lists_what_is_known(value: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Unknown step type 'foo' at 'input.*\.type'; known: .*\buser_input, audio,"
    ):
        parse(adapter, value, "input")


def test_a_missing_type_lists_what_is_known() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^Missing required parameter 'type' at 'input\[0\]'; known step types: code"
    ):
        parse(adapter, [{"text": "hi"}], "input")
