from __future__ import annotations

import textwrap
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ModelError
from orchestrator.models.port import Usage
from orchestrator.models.script import Call, CodeBlock, Fault, Turn, parse


def script(body: str) -> str:
    return f"Hello.\n\n```script\n{textwrap.dedent(body).strip()}\n```\nBye.\n"


def turns(body: str) -> tuple[Turn, ...]:
    program = parse(script(body))
    assert program.turns is not None
    return program.turns


def test_every_field_of_a_turn() -> None:
    (turn,) = turns(
        """
        turns:
          - thought: Hm.
            text: "Saw {{last}}"
            calls:
              - {tool: read_file, arguments: {path: a.txt, lines: [1, 2.5, null, true, "3"]}}
              - tool: list_files
            sleep_ms: 5
            chunk: 3
            error: {code: model_overloaded, message: Busy., times: 2}
            usage: {input_tokens: 1, cached_tokens: 4, input_by_modality: {text: 1, audio: 2}, cost_usd: 0.002}
        """
    )
    assert turn == Turn(
        thought="Hm.",
        text="Saw {{last}}",
        calls=(
            Call("read_file", {"path": "a.txt", "lines": [1, 2.5, None, True, "3"]}),
            Call("list_files", {}),
        ),
        sleep_ms=5,
        chunk=3,
        error=Fault("model_overloaded", "Busy.", 2),
        usage=Usage(
            input_tokens=1, cached_tokens=4, input_by_modality={"text": 1, "audio": 2}, cost_usd=Decimal("0.002")
        ),
    )


def test_plain_scalars_are_read_as_json_would() -> None:
    (turn,) = turns("turns: [{calls: [{tool: t, arguments: {a: yes, b: 2026-01-01, c: 007, d: 1e3, e: 0x1f, f: ~}}]}]")
    assert turn.calls[0].arguments == {"a": "yes", "b": "2026-01-01", "c": 7, "d": 1000.0, "e": "0x1f", "f": None}


def test_text_may_look_like_a_number() -> None:
    assert turns("turns: [{text: 42}]")[0].text == "42"


@pytest.mark.parametrize(
    ("body", "line", "field", "problem"),
    [
        ("turns:\n- txt: a", 5, "turns[0].txt", "unknown field (closest known name: text)"),
        ("turn: []", 4, "turn", "unknown field (closest known name: turns)"),
        ("turns:\n- text: a\n  calls: {}", 6, "turns[0].calls", "expected a list"),
        ("turns:\n- calls:\n  - {arguments: {}}", 6, "turns[0].calls[0].tool", "is missing"),
        ("turns:\n- calls:\n  - {tool: a, arguments: [1]}", 6, "turns[0].calls[0].arguments", "expected a mapping"),
        ("turns:\n- calls:\n  - {tool: a, argument: {}}", 6, "turns[0].calls[0].argument", "closest known name"),
        ("turns:\n- sleep_ms: soon", 5, "turns[0].sleep_ms", "expected a whole number"),
        ("turns:\n- sleep_ms: -1", 5, "turns[0].sleep_ms", "expected 0 to"),
        ("turns:\n- chunk: 0", 5, "turns[0].chunk", "expected 1 to"),
        ("turns:\n- text: ", 5, "turns[0].text", "expected text"),
        ("turns:\n- text: a\n- b", 6, "turns[1]", "expected a mapping"),
        ("turns:\n- text: a\n  text: b", 6, "turns[0].text", "is given twice"),
        ("turns:\n- error: {code: overloaded}", 5, "turns[0].error.code", "expected one of model_auth"),
        ("turns:\n- error: {times: 1}", 5, "turns[0].error.code", "is missing"),
        ("turns:\n- usage: {tokens: 1}", 5, "turns[0].usage.tokens", "unknown field"),
        ("turns:\n- usage: {cost_usd: -1}", 5, "turns[0].usage.cost_usd", "expected 0 to 1000000"),
        ("turns:\n- usage: {cost_usd: much}", 5, "turns[0].usage.cost_usd", "expected a number"),
        ("turns:\n- usage: {cost_usd: 1e999}", 5, "turns[0].usage.cost_usd", "expected 0 to 1000000"),
        ("turns:\n- usage: {input_by_modality: {smell: 1}}", 5, "turns[0].usage.input_by_modality.smell", "unknown"),
        ("turns: []", 4, "turns", "at least one turn"),
        ("turns:\n- image: 'a b!'", 5, "turns[0].image", "expected base64"),
        ("turns:\n- image: AAAA", 5, "turns[0].image", "expected a PNG"),
        ("turns:\n- text: [a", 6, "script", "not valid YAML"),
        ("turns:\n- &a {text: x}\n- *a", 6, "script", "aliases are not allowed"),
        ("turns:\n- calls: [{tool: a, arguments: {x: !!python/name:os.system ''}}]", 5, "arguments.x", "not allowed"),
    ],
)
def test_a_fault_names_line_and_field(body: str, line: int, field: str, problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(script(body))
    assert caught.value.code == "model_bad_request"
    assert not caught.value.retryable
    assert f"line {line}, " in caught.value.message
    assert field in caught.value.message
    assert problem in caught.value.message


def test_an_empty_script_is_a_fault() -> None:
    with pytest.raises(ModelError, match="turns: is missing"):
        parse("```script\n```")


def test_two_scripts_are_a_fault() -> None:
    with pytest.raises(ModelError, match=r"line 4, script: there may be only one"):
        parse("```script\nturns: [{text: a}]\n```\n```script\nturns: [{text: b}]\n```")


def test_deep_nesting_is_a_fault_and_not_a_crash() -> None:
    with pytest.raises(ModelError, match="nested too deeply"):
        parse("```script\nturns: " + "[" * 5000)


def test_code_blocks_in_order() -> None:
    text = "Do:\n```python\nprint(1)\n```\nthen\n~~~~bash title=x\nls\n~~~\nmore\n~~~~\n```text\nno\n```\n```bash\nopen"
    assert parse(text).blocks == (
        CodeBlock("python", "print(1)\n"),
        CodeBlock("bash", "ls\n~~~\nmore\n"),
        CodeBlock("bash", "open\n"),
    )


def test_a_script_wins_over_code_blocks() -> None:
    program = parse("```bash\nls\n```\n```script\nturns: [{text: a}]\n```")
    assert program.turns is not None
    assert program.blocks == ()


def test_inline_code_is_not_a_block() -> None:
    program = parse("Use ```bash``` and `script`.\nturns:\n")
    assert (program.turns, program.blocks) == (None, ())


@given(st.text(alphabet="`~abcscript \n:-[]{}&*!turns", max_size=200))
def test_any_text_is_a_program_or_a_model_error(text: str) -> None:
    try:
        program = parse(f"```script\n{text}\n```")
    except ModelError as error:
        assert error.code == "model_bad_request"
    else:
        assert program.turns
