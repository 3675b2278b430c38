"""Shortening a conversation: what is kept, what is left out, and what never happens to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.models.port import Correction
from orchestrator.runs.compaction import (
    Shortened,
    Summary,
    is_too_long,
    media_of,
    passages,
    plan,
    text_tokens,
    tokens_of,
    told,
)
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    ModelOutput,
    Step,
    Thought,
    UserInput,
)

LIMIT = 4_000


def said(text: str) -> UserInput:
    return UserInput(content=[TextContent(text=text)])


def answered(text: str) -> ModelOutput:
    return ModelOutput(content=[TextContent(text=text)])


def turn(name: str, output: str) -> list[Step]:
    return [
        Thought(signature=f"signed {name}"),
        CodeExecutionCall(id=name, arguments=CodeArguments(language="bash", code=f"run {name}")),
        CodeExecutionResult(call_id=name, result=output),
    ]


def shot(name: str) -> list[Step]:
    image = ImageContent(mime_type="image/png", data="aGVsbG8=")
    return [FunctionCall(id=name, name="look"), FunctionResult(call_id=name, name="look", result=[image])]


def turns(count: int, output: str = "x" * 2_000) -> list[Step]:
    return [step for number in range(count) for step in turn(f"c{number}", output)]


def shortened(steps: list[Step], summary: str = "What was before.") -> Shortened:
    how = plan(steps, Shortened(), LIMIT)
    return Shortened(how.shortened.begin, how.shortened.elided, summary if how.to_summarise else "")


def text_of(step: Step) -> str:
    assert isinstance(step, UserInput | ModelOutput)
    return "".join(block.text for block in step.content if isinstance(block, TextContent))


def test_a_short_conversation_is_told_as_it_is() -> None:
    steps = [said("go"), *turns(3)]
    assert told(steps, Shortened(), LIMIT) == steps
    assert not is_too_long(steps, tokens_of(steps), LIMIT)


def test_old_outputs_go_first_and_nothing_is_summarised_if_that_is_enough() -> None:
    steps = [said("go"), *turns(9)]
    assert is_too_long(steps, tokens_of(steps), LIMIT)
    how = plan(steps, Shortened(), LIMIT)
    assert (how.to_summarise, how.shortened.begin, how.shortened.summary) == ((), 0, "")
    read = told(steps, how.shortened, LIMIT)
    assert [step.type for step in read] == [step.type for step in steps]
    first, last = read[3], read[-1]
    assert isinstance(first, CodeExecutionResult)
    assert isinstance(last, CodeExecutionResult)
    assert first.result == f"{'x' * 200}\n[… 1600 characters left out …]\n{'x' * 200}"
    assert last.result == "x" * 2_000
    assert [step for step in read if isinstance(step, Thought)] == [step for step in steps if isinstance(step, Thought)]


def test_what_is_old_is_summarised_if_that_is_not_enough() -> None:
    steps = [said("first"), answered("yes " * 2_000), said("the task"), *turns(20, "y" * 1_000)]
    how = plan(steps, Shortened(), LIMIT)
    assert how.to_summarise
    assert how.to_summarise[0] == said("first")
    read = told(steps, shortened(steps), LIMIT)
    summary, task, *rest = read
    assert isinstance(summary, Summary)
    assert text_of(summary) == "[Summary of the conversation so far]\nWhat was before."
    assert task == said("the task")
    assert rest == steps[len(steps) - len(rest) :]
    assert tokens_of(read) < LIMIT / 2
    assert {step.id for step in rest if isinstance(step, CodeExecutionCall)} == {
        step.call_id for step in rest if isinstance(step, CodeExecutionResult)
    }


def test_the_next_summary_tells_only_what_came_since() -> None:
    steps = [said("the task"), answered("yes " * 4_000), *turns(20, "y" * 1_000)]
    first = shortened(steps)
    longer = [*steps, *[step for number in range(40) for step in turn(f"d{number}", "z" * 1_000)]]
    second = plan(longer, first, LIMIT)
    assert second.shortened.summary == first.summary
    assert second.shortened.begin > first.begin
    assert second.to_summarise[0] == said("the task")
    assert second.to_summarise[1] == longer[first.begin]
    assert not any("yes yes" in text for text in passages(second.to_summarise, LIMIT))


def test_the_last_input_stays_word_for_word_also_among_what_is_old() -> None:
    steps = [said("long ago"), said("w" * 6_000), *turns(9)]
    read = told(steps, shortened(steps), LIMIT)
    assert said("w" * 6_000) in read


def test_a_correction_is_not_the_users_word() -> None:
    correction = Correction(content=[TextContent(text="Answer again.")])
    steps = [said("the task"), *turns(20), answered("no"), correction, *turns(1)]
    assert said("the task") in told(steps, shortened(steps), LIMIT)


@pytest.mark.parametrize("count", [41, 200])
def test_of_many_images_the_latest_stay(count: int) -> None:
    steps = [said("look"), *[step for number in range(count) for step in shot(f"s{number}")]]
    how = plan(steps, Shortened(), 1_000_000)
    assert is_too_long(steps, 0, 1_000_000)
    read = told(steps, how.shortened, 1_000_000)
    assert media_of(read) == 20
    assert read[2] == FunctionResult(call_id="s0", name="look", result=[TextContent(text="[image left out]")])
    assert read[-1] == steps[-1]


def test_images_of_the_last_input_stay() -> None:
    image = ImageContent(mime_type="image/png", data="aGVsbG8=")
    steps = [UserInput(content=[image, TextContent(text="what is it?")]), *turns(20)]
    assert steps[0] in told(steps, shortened(steps), LIMIT)


def test_one_huge_output_never_fills_the_window() -> None:
    steps = [said("go"), *turn("c0", "a" * 50_000 + "é" * 50_000)]
    (result,) = [step for step in told(steps, Shortened(), LIMIT) if isinstance(step, CodeExecutionResult)]
    assert isinstance(result.result, str)
    assert tokens_of([result]) <= LIMIT / 4 + 30
    assert result.result.startswith("aaa")
    assert result.result.endswith("ééé")
    assert f"[… {100_000 - 2_000 - 1_000} characters left out …]" in result.result


def test_results_that_are_objects_or_blocks_are_shortened_too() -> None:
    steps: list[Step] = [
        said("go"),
        FunctionCall(id="a", name="f"),
        FunctionResult(call_id="a", name="f", result={"rows": ["r" * 100] * 1_000}),
        FunctionCall(id="b", name="f"),
        FunctionResult(call_id="b", name="f", result=[TextContent(text="t" * 50_000), TextContent(text="u" * 50_000)]),
    ]
    read = told(steps, Shortened(), LIMIT)
    assert tokens_of(read) < LIMIT
    assert tokens_of(steps) > 10 * LIMIT


def test_nothing_is_done_where_it_would_gain_nothing() -> None:
    """Else a summary would be wanted after every turn."""
    steps = [said("w" * 5 * LIMIT), *turns(1, "short")]
    assert is_too_long(steps, tokens_of(steps), LIMIT)
    assert plan(steps, Shortened(), LIMIT) == plan(steps[:0], Shortened(), LIMIT)


def test_calls_that_are_answered_late_are_not_cut_from_their_results() -> None:
    late: list[Step] = [FunctionCall(id="late", name="ask"), *turns(20), FunctionResult(call_id="late", result="yes")]
    steps = [said("go"), answered("fill " * 4_000), *late, answered("so"), said("next")]
    how = plan(steps, Shortened(), LIMIT)
    kept = steps[how.shortened.begin :]
    calls = {step.id for step in kept if isinstance(step, FunctionCall | CodeExecutionCall)}
    assert {step.call_id for step in kept if isinstance(step, FunctionResult | CodeExecutionResult)} == calls


def test_passages_are_as_long_as_they_may_be_and_say_who_spoke() -> None:
    steps = [said("please"), *turns(1, "it failed"), answered("done")]
    assert passages(steps, LIMIT) == [
        "[user]\nplease\n\n[agent thinks]\n\n\n[call of code_execution]\n"
        '{"language":"bash","code":"run c0"}\n\n[result]\nit failed\n\n[agent]\ndone'
    ]
    many = passages([said("p" * 1_000)] * 40, 1_000)
    assert len(many) == 14
    assert all(text_tokens(text) <= 1_000 for text in many)


BLOCKS = st.sampled_from(["say", "answer", "turn", "shot", "parallel"])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(BLOCKS, st.integers(0, 6_000)), min_size=1, max_size=60))
def test_any_conversation_stays_whole_in_what_is_kept(parts: list[tuple[str, int]]) -> None:
    steps: list[Step] = [said("begin")]
    how = Shortened()
    for number, (what, size) in enumerate(parts):
        text, name = "v" * size, f"n{number}"
        match what:
            case "say":
                steps.append(said(text))
            case "answer":
                steps.append(answered(text))
            case "turn":
                steps += turn(name, text)
            case "shot":
                steps += shot(name)
            case "parallel":
                one, two = turn(f"{name}a", text), turn(f"{name}b", text)
                steps += [*one[:2], *two[:2], one[2], two[2]]
        read = told(steps, how, LIMIT)
        if is_too_long(read, tokens_of(read), LIMIT):
            found = plan(steps, how, LIMIT)
            how = Shortened(found.shortened.begin, found.shortened.elided, "s" if found.to_summarise else how.summary)
            read = told(steps, how, LIMIT)
        open_calls: set[str] = set()
        for step in read:
            if isinstance(step, FunctionCall | CodeExecutionCall):
                open_calls.add(step.id)
            elif isinstance(step, FunctionResult | CodeExecutionResult):
                open_calls.remove(step.call_id)
        assert not open_calls
        last = next(step for step in reversed(steps) if isinstance(step, UserInput))
        assert last in read
        assert not (how.begin and not how.summary)
        # What is latest is there as it was; a request that is too long has one big thing that cannot be left out.
        biggest = max(tokens_of([step]) for step in read)
        assert tokens_of(read) <= LIMIT + biggest + LIMIT / 4
