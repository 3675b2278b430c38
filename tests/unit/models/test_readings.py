"""What a model reads: chance compares as equal, secrets are not in it, and a difference is named."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from orchestrator.models.port import (
    ModelRequest,
    ToolSpec,
)
from orchestrator.models.readings import COMPARED, Reading, difference
from orchestrator.policy.redaction import Scrubber
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    UserInput,
)

KEEPS = Scrubber()
KEY = "crl_" + "aZ09_-" * 7 + "b"


def said(text: str) -> UserInput:
    return UserInput(content=[TextContent(text=text)])


def request(*history: Step, system: str = "Be brief.", tools: tuple[ToolSpec, ...] = (), **fields: Any) -> ModelRequest:
    return ModelRequest(model="m", system=system, history=history, tools=tools, **{"turn": 0, **fields})


def reading(*history: Step, **fields: Any) -> Reading:
    return Reading.of(request(*history, **fields), KEEPS)


def story(call_id: str, result: str, picture: bytes = b"png") -> list[Step]:
    image = ImageContent(mime_type="image/png", data=base64.b64encode(picture).decode())
    return [
        said("Go."),
        CodeExecutionCall(id=call_id, arguments=CodeArguments(code="1")),
        CodeExecutionResult(call_id=call_id, result=[TextContent(text=result), image]),
        FunctionCall(id=f"{call_id}2", name="f", arguments={"id": "x"}),
        FunctionResult(call_id=f"{call_id}2", name="f", result={"sum": 3}),
    ]


def test_ids_of_calls_are_their_order_and_media_their_digests() -> None:
    first = reading(*story("abcd", "out"))
    assert first == reading(*story("efgh", "out"))
    assert [step.get("id", step.get("call_id")) for step in first.history] == [
        None,
        "call 1",
        "call 1",
        "call 2",
        "call 2",
    ]
    assert first.history[3]["arguments"] == {"id": "x"}
    (_, image) = first.history[2]["result"]
    assert image["data"].startswith("sha256:")
    assert first != reading(*story("abcd", "out", b"jpg"))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (reading(*story("a", "out")), None),
        (
            reading(*story("a", "ouch")),
            'history[2] (code_execution_result).result[0] (text).text: recorded "out", now "ouch"',
        ),
        (reading(*story("a", "out")[:4]), 'history[4]: recorded {"type": "function_result"'),
        (reading(*story("a", "out"), said("More.")), "history[5]: recorded nothing, now "),
        (
            reading(said("Go!"), *story("a", "out")[1:]),
            'history[0] (user_input).content[0] (text).text: recorded "Go."',
        ),
        (
            reading(ModelOutput(content=[TextContent(text="Go.")]), *story("a", "out")[1:]),
            'history[0] (user_input).type: recorded "user_input", now "model_output"',
        ),
        (reading(*story("a", "out"), system="Be long."), 'system: recorded "Be brief.", now "Be long."'),
        (reading(*story("a", "out"), tools=(ToolSpec("t", "", {}),)), "tools[0]: recorded nothing, now "),
    ],
)
def test_the_first_difference_is_named(now: Reading, told: str | None) -> None:
    found = difference(reading(*story("b", "out")), now, COMPARED)
    assert (found is None) is (told is None)
    assert (found or "").startswith(told or "")


def test_of_long_texts_the_place_of_the_difference_is_shown() -> None:
    then, now = (reading(said("x" * 5000 + middle + "y" * 5000)) for middle in ("then", "this"))
    found = difference(then, now, COMPARED)
    assert found is not None
    assert len(found) < 300
    assert "…" in found
    assert "xxthenyy" in found
    assert "xxthisyy" in found


def test_only_what_is_compared_differs() -> None:
    then, now = reading(said("a"), system="one"), reading(said("a"), system="two")
    assert difference(then, now, ["tools", "history"]) is None
    assert difference(then, now, ["system"]) is not None


def test_secrets_are_in_nothing_that_was_read() -> None:
    scrubber = Scrubber({"TOKEN": 'pass"word'}, secrets=["provider-key"])
    found = Reading.of(
        request(
            said(f"Use {KEY} and provider-key."),
            FunctionCall(id="a", name="f", arguments={"deep": [{"token": 'pass"word'}]}),
            system='The token is pass"word.',
        ),
        scrubber,
    )
    assert found.system == "The token is [redacted:TOKEN]."
    assert found.history[0]["content"][0]["text"] == "Use [redacted] and [redacted]."
    assert found.history[1]["arguments"] == {"deep": [{"token": "[redacted:TOKEN]"}]}
