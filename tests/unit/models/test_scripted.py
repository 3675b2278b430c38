from __future__ import annotations

import time
from typing import Any, Literal

import pytest

from orchestrator.errors import ModelError
from orchestrator.models.port import MediaOutput, ModelRequest, TextDelta, ThoughtDelta, TurnEnd, Usage
from orchestrator.models.scripted import FINISHED, NO_MODEL, ScriptedModel
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionResult,
    ModelOutput,
    Step,
    UserInput,
)
from tests.conformance.model_suite import calls_of, collect, text_of

IMAGE = ImageContent(mime_type="image/png", data="AAAA")

pytestmark = pytest.mark.anyio


def said(text: str) -> UserInput:
    return UserInput(content=[TextContent(text=text)])


def result(text: Any, *, is_error: bool = False) -> CodeExecutionResult:
    return CodeExecutionResult(call_id="c", result=text, is_error=is_error)


def request(
    *history: Step, turn: int = 0, attempt: int = 0, purpose: Literal["turn", "compaction"] = "turn"
) -> ModelRequest:
    return ModelRequest(
        model="scripted", system="Be good.", history=history, tools=(), turn=turn, attempt=attempt, purpose=purpose
    )


def script(turns: str) -> UserInput:
    return said(f"```script\nturns:\n{turns}\n```")


async def test_call_n_plays_turn_n_and_then_it_is_finished() -> None:
    program = script("- {text: one, calls: [{tool: t}]}\n- {calls: [{tool: u, arguments: {a: 1}}]}")
    first = await collect(ScriptedModel(), request(program))
    assert (text_of(first), calls_of(first)) == ("one", [("t", {})])
    assert calls_of(await collect(ScriptedModel(), request(program, turn=1))) == [("u", {"a": 1})]
    last = await collect(ScriptedModel(), request(program, turn=2))
    assert (text_of(last), calls_of(last)) == (FINISHED, [])


async def test_an_image_comes_after_the_text() -> None:
    program = script("- {text: Look., image: iVBORw0KGgo=, calls: [{tool: t}]}")
    events = await collect(ScriptedModel(), request(program))
    image = ImageContent(mime_type="image/png", data="iVBORw0KGgo=")
    assert events[:2] == [TextDelta("Look."), MediaOutput(image)]
    assert calls_of(events) == [("t", {})]


async def test_the_last_user_input_is_the_program() -> None:
    history = (script("- text: old"), ModelOutput(content=[TextContent(text="old")]), script("- text: new"))
    assert text_of(await collect(ScriptedModel(), request(*history))) == "new"


async def test_thought_comes_before_text_and_both_in_chunks() -> None:
    events = await collect(ScriptedModel(), request(script("- {text: abcde, thought: xyz, chunk: 2}")))
    assert events[:-1] == [
        ThoughtDelta("xy"),
        ThoughtDelta("z"),
        TextDelta("ab"),
        TextDelta("cd"),
        TextDelta("e"),
    ]


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        (result("7\n"), "7\n"),
        (
            result([TextContent(text="a"), ImageContent(mime_type="image/png", data="AAAA"), TextContent(text="b")]),
            "ab",
        ),
        (FunctionResult(call_id="c", name="f", result={"ok": "ä"}), '{"ok": "ä"}'),
    ],
)
async def test_last_is_the_text_of_the_latest_result_everywhere(latest: Step, expected: str) -> None:
    program = script(
        "- text: 'It is {{last}}{{last}}'\n"
        "  calls: [{tool: t, arguments: {a: ['x{{last}}'], b: {c: '{{last}}'}, d: 3}}]"
    )
    events = await collect(ScriptedModel(), request(program, result("older"), latest))
    assert text_of(events) == f"It is {expected}{expected}"
    assert calls_of(events) == [("t", {"a": [f"x{expected}"], "b": {"c": expected}, "d": 3})]


async def test_last_is_empty_without_a_result_and_is_not_filled_twice() -> None:
    program = script("- text: '<{{last}}>'")
    assert text_of(await collect(ScriptedModel(), request(program))) == "<>"
    assert text_of(await collect(ScriptedModel(), request(program, result("{{last}}")))) == "<{{last}}>"


@pytest.mark.parametrize(("code", "retryable"), [("model_overloaded", True), ("model_auth", False)])
async def test_an_error_holds_for_its_attempts_only(code: str, retryable: bool) -> None:
    program = script(f"- {{text: fine, error: {{code: {code}, message: No., times: 2}}}}")
    for attempt in (0, 1):
        with pytest.raises(ModelError, match=r"^No\.$") as caught:
            await collect(ScriptedModel(), request(program, attempt=attempt))
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert text_of(await collect(ScriptedModel(), request(program, attempt=2))) == "fine"


async def test_a_broken_stream_says_all_but_the_end() -> None:
    program = script("- {text: abc, error: {code: model_stream_broken}}")
    seen = []
    with pytest.raises(ModelError):
        async for event in ScriptedModel().stream(request(program)):
            seen.append(event)
    assert seen == [TextDelta("abc")]
    assert text_of(await collect(ScriptedModel(), request(program, attempt=1))) == "abc"


async def test_sleep_comes_before_the_first_event() -> None:
    start = time.monotonic()
    stream = ScriptedModel().stream(request(script("- {text: a, sleep_ms: 60}")))
    await anext(stream)
    assert time.monotonic() - start >= 0.06
    await stream.aclose()


async def test_usage_is_as_given_or_characters_by_four() -> None:
    given = await collect(ScriptedModel(), request(script("- {text: a, usage: {input_tokens: 7, output_tokens: 9}}")))
    assert given[-1] == TurnEnd(Usage(input_tokens=7, output_tokens=9))
    program = script("- {text: abcde, thought: abc}")
    estimated = await collect(ScriptedModel(), request(program, result("x" * 100)))
    chars = len("Be good.") + len(program.content[0].text) + 100  # type: ignore[union-attr]
    assert estimated[-1] == TurnEnd(Usage(input_tokens=-(-chars // 4), output_tokens=2, thought_tokens=1))


async def test_a_malformed_script_names_line_and_field() -> None:
    with pytest.raises(ModelError, match=r"line 3, turns\[0\]\.txt") as caught:
        await collect(ScriptedModel(), request(script("- txt: a")))
    assert caught.value.code == "model_bad_request"


async def test_compaction_uses_up_no_turn() -> None:
    program = script("- {text: one}")
    events = await collect(ScriptedModel(), request(program, result("1"), purpose="compaction"))
    assert text_of(events).startswith("Earlier in this conversation: 2 steps")
    assert calls_of(events) == []


async def test_code_blocks_run_one_per_turn_and_are_reported() -> None:
    program = said("Do\n```python\nprint(1)\n```\nand\n```bash\nfalse\n```\n")
    assert calls_of(await collect(ScriptedModel(), request(program))) == [
        ("code_execution", {"language": "python", "code": "print(1)\n"})
    ]
    assert calls_of(await collect(ScriptedModel(), request(program, result("1\n"), turn=1))) == [
        ("code_execution", {"language": "bash", "code": "false\n"})
    ]
    call = CodeExecutionCall(id="c", arguments=CodeArguments(code="x"))
    history = (result("not of this run"), program, call, result("```1```\n"), call, result("", is_error=True))
    report = text_of(await collect(ScriptedModel(), request(*history, turn=2)))
    assert report.startswith("Ran 2 of 2 code blocks, 1 failed.\n")
    assert "1. python:\n````\n```1```\n````\n" in report
    assert "2. bash (failed):\nno output\n" in report
    assert "not of this run" not in report


async def test_a_long_output_is_reported_from_its_end() -> None:
    program = said("```bash\nseq 9999\n```")
    report = text_of(await collect(ScriptedModel(), request(program, result("a" * 10_000 + "END"), turn=1)))
    assert "[6003 characters before this are left out]" in report
    assert report.rstrip().endswith("END\n```")


@pytest.mark.parametrize("text", ["Hello!", "", "```text\nno\n```"])
async def test_without_a_program_it_says_how_to_set_a_model(text: str) -> None:
    events = await collect(ScriptedModel(), request(said(text)))
    assert text_of(events) == NO_MODEL
    assert "CORRAL_MODEL" in NO_MODEL


async def test_without_any_input_it_says_so_too() -> None:
    assert text_of(await collect(ScriptedModel(), request())) == NO_MODEL


async def test_a_long_program_is_played_all_the_same() -> None:
    program = script(f"- text: {'long ' * 5000}")
    assert len(text_of(await collect(ScriptedModel(), request(program)))) == 24_999
