"""What a model says comes back to it as it was: parts to events to steps to parts."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelResponse,
    ModelResponsePart,
    NativeToolCallPart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as RequestMessage

from orchestrator.errors import ModelError
from orchestrator.models.messages import messages_of
from orchestrator.models.parts import Translation
from orchestrator.models.port import CallDelta, CallStart, Correction, MediaOutput, ModelEvent, TextDelta, ThoughtDelta
from orchestrator.models.port import ThoughtSignature as Signed
from orchestrator.wire.content import ImageContent, TextContent
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    ModelOutput,
    SearchArguments,
    SearchResult,
    Step,
    Thought,
    UserInput,
)

PIXEL = base64.b64encode(b"\x89PNG pixel").decode()
IMAGE = ImageContent(data=PIXEL, mime_type="image/png")
B64 = base64.b64encode(b"\x00\xffsigned").decode()


def text(words: str) -> TextContent:
    return TextContent(text=words)


def parts(message: Any) -> list[Any]:
    assert isinstance(message, RequestMessage | ModelResponse)
    return list(message.parts)


def bare(part: ModelResponsePart) -> tuple[Any, ...]:
    """What counts of a part."""
    match part:
        case TextPart():
            return ("text", part.content, part.provider_details)
        case ThinkingPart():
            return ("thought", part.content, part.signature, part.id, part.provider_details)
        case ToolCallPart():
            return ("call", part.tool_name, part.args_as_dict(), part.provider_details)
        case FilePart():
            return ("file", part.content.media_type, part.content.data, part.provider_details)
    raise AssertionError(part)


# from an answer to steps and back


def events_of(said: Sequence[ModelResponsePart], kind: str, sizes: Sequence[int]) -> list[ModelEvent]:
    """The answer as it streams, in pieces."""
    translation = Translation(kind)
    told: list[ModelEvent] = []
    lengths = itertools.cycle(sizes)
    empty: Any
    for index, part in enumerate(said):
        match part:
            case FilePart():
                told += translation.take(PartStartEvent(index=index, part=part))
                continue
            case TextPart():
                whole, empty = part.content, TextPart("", provider_details=part.provider_details)
            case ThinkingPart():
                whole, empty = part.content, ThinkingPart("", id=part.id)
            case ToolCallPart():
                whole, empty = part.args_as_json_str(), ToolCallPart(part.tool_name, "", part.tool_call_id)
                empty.provider_details = part.provider_details
            case _:
                raise AssertionError(part)
        told += translation.take(PartStartEvent(index=index, part=empty))
        at = 0
        while at < len(whole):
            size = next(lengths)
            piece, at = whole[at : at + size], at + size
            delta: Any = TextPartDelta(piece)
            if isinstance(part, ThinkingPart):
                delta = ThinkingPartDelta(content_delta=piece)
            elif isinstance(part, ToolCallPart):
                delta = ToolCallPartDelta(args_delta=piece)
            told += translation.take(PartDeltaEvent(index=index, delta=delta))
        told += translation.take(PartEndEvent(index=index, part=part))
    told += translation.finish()
    return told


def steps_of(told: Sequence[ModelEvent]) -> list[Step]:
    """As a turn makes them: deltas of one sort side by side are one step, a signature ends its thought."""
    steps: list[Step] = []
    is_signed = True
    for event in told:
        last = steps[-1] if steps else None
        if isinstance(event, TextDelta | MediaOutput):
            said = steps.pop().content if isinstance(last, ModelOutput) else []  # type: ignore[union-attr]  # it is `last`
            block = text(event.text) if isinstance(event, TextDelta) else event.content
            if said and isinstance(known := said[-1], TextContent) and isinstance(block, TextContent):
                said, block = said[:-1], text(known.text + block.text)
            steps.append(ModelOutput(content=[*said, block]))
        elif isinstance(event, ThoughtDelta):
            if isinstance(last, Thought) and not is_signed:
                steps[-1] = Thought(summary=[*(last.summary or []), text(event.text)])
            else:
                steps.append(Thought(summary=[text(event.text)]))
            is_signed = False
        elif isinstance(event, Signed):
            if isinstance(last, Thought) and not is_signed:
                steps[-1] = Thought(summary=last.summary, signature=event.signature)
            else:
                steps.append(Thought(signature=event.signature))
            is_signed = True
        elif isinstance(event, CallStart):
            steps.append(FunctionCall(id=f"call{len(steps)}", name=event.name))
            arguments = ""
        elif isinstance(event, CallDelta):
            assert isinstance(last, FunctionCall)
            arguments += event.arguments
            try:
                steps[-1] = last.model_copy(update={"arguments": json.loads(arguments)})
            except ValueError:
                continue
    return steps


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
BASE64 = st.binary(min_size=1, max_size=20).map(lambda raw: base64.b64encode(raw).decode())
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.none(), max_size=3)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def signed(raw: str | None) -> dict[str, Any]:
    return {} if raw is None else {"provider_name": "google", "provider_details": {"thought_signature": raw}}


CALLS: st.SearchStrategy[ToolCallPart[Any]] = st.builds(
    ToolCallPart, st.sampled_from(["code_execution", "read_file"]), ARGUMENTS
)
TEXTS = st.builds(TextPart, WORDS)
CONTENTS = st.builds(
    lambda data, media_type: BinaryContent(data, media_type=media_type),
    st.binary(min_size=1, max_size=20),
    st.sampled_from(["image/png", "audio/wav", "application/pdf"]),
)
IMAGES = st.builds(
    lambda data: FilePart(BinaryContent(data, media_type="image/png")), st.binary(min_size=1, max_size=20)
)
ANTHROPIC = st.lists(
    st.builds(
        lambda content, raw: ThinkingPart(content, signature=raw, provider_name="anthropic"),
        st.text(max_size=20),
        WORDS,
    )
    | st.builds(lambda raw: ThinkingPart("", id="redacted_thinking", signature=raw, provider_name="anthropic"), WORDS)
    | TEXTS
    | CALLS,
    max_size=7,
)
GEMINI = st.lists(
    st.builds(lambda content, raw: ThinkingPart(content, **signed(raw)), WORDS, st.none() | BASE64)
    | st.builds(lambda content, raw: TextPart(content, **signed(raw)), WORDS, st.none() | BASE64)
    | st.builds(
        lambda name, arguments, raw: ToolCallPart(name, arguments, **signed(raw)),
        st.sampled_from(["code_execution", "read_file"]),
        ARGUMENTS,
        st.none() | BASE64,
    )
    | st.builds(lambda content, raw: FilePart(content, **signed(raw)), CONTENTS, st.none() | BASE64),
    max_size=7,
)
OPENAI = st.lists(
    st.builds(lambda content, name: ThinkingPart(content, id=name), WORDS, st.sampled_from(["reasoning", "content"]))
    | TEXTS
    | IMAGES
    | CALLS,
    max_size=7,
)


WHOLE = st.lists(
    st.builds(
        lambda content, name, raw, more: ThinkingPart(
            content, id=name, signature=raw, provider_name="openrouter", provider_details=more
        ),
        st.text(max_size=20),
        st.none() | WORDS,
        st.none() | WORDS,
        st.none() | st.dictionaries(WORDS, WORDS | st.integers(), min_size=1, max_size=2),
    )
    | TEXTS
    | IMAGES
    | st.builds(
        lambda name, arguments, more: ToolCallPart(name, arguments, provider_details=more),
        st.sampled_from(["code_execution", "read_file"]),
        ARGUMENTS,
        st.none() | st.dictionaries(WORDS, WORDS, min_size=1, max_size=2),
    ),
    max_size=7,
)


def joined(said: Sequence[ModelResponsePart], *, do_thoughts: bool = True) -> list[ModelResponsePart]:
    """Text beside text without a signature in between is one text, as every provider streams it; thoughts alike."""
    found: list[ModelResponsePart] = []
    for part in said:
        last = found[-1] if found else None
        if isinstance(part, TextPart) and isinstance(last, TextPart) and last.provider_details is None:
            found[-1] = TextPart(last.content + part.content, **signed((part.provider_details or {}).get(SIGNED)))
        elif (
            do_thoughts
            and isinstance(part, ThinkingPart)
            and isinstance(last, ThinkingPart)
            and not (last.signature or last.id or last.provider_details)
        ):
            found[-1] = ThinkingPart(last.content + part.content, **signed((part.provider_details or {}).get(SIGNED)))
        else:
            found.append(part)
    return found


SIGNED = "thought_signature"
GEMINI_SIGNED, ANTHROPIC_SIGNED = 1, 2


def came_back(said: Sequence[ModelResponsePart], kind: str, sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    """What the model reads of its answer: its own parts, then the media that the user shows it."""
    more = UserInput(content=[text("More.")])
    history = [UserInput(content=[text("Go.")]), *steps_of(events_of(said, kind, sizes)), more]
    if not said:
        return []
    _, *answers, last = messages_of(history, kind)
    assert all(isinstance(answer, ModelResponse) for answer in answers)
    *shown, prompt = parts(last)
    assert prompt.content == "More."
    media = [FilePart(block) for part in shown for block in part.content if isinstance(block, BinaryContent)]
    return [bare(part) for answer in answers for part in parts(answer)] + [bare(part) for part in media]


def as_without_place_for_media(
    said: Sequence[ModelResponsePart], *, do_thoughts: bool = True
) -> list[ModelResponsePart]:
    """Texts in pieces around media stay apart; the media follow at the end."""
    media = [part for part in said if isinstance(part, FilePart)]
    return [part for part in joined(said, do_thoughts=do_thoughts) if not isinstance(part, FilePart)] + media


@settings(deadline=None)
@given(ANTHROPIC, SIZES)
def test_what_anthropic_said_comes_back_byte_for_byte(said: list[ModelResponsePart], sizes: list[int]) -> None:
    assert came_back(said, "anthropic", sizes) == [bare(part) for part in joined(said)]


@settings(deadline=None)
@given(GEMINI, SIZES)
def test_what_gemini_said_comes_back_byte_for_byte(said: list[ModelResponsePart], sizes: list[int]) -> None:
    assert came_back(said, "gemini", sizes) == [bare(part) for part in joined(said)]


@settings(deadline=None)
@given(OPENAI, SIZES)
def test_what_an_openai_server_said_comes_back_in_its_field(said: list[ModelResponsePart], sizes: list[int]) -> None:
    assert came_back(said, "openai", sizes) == [bare(part) for part in as_without_place_for_media(said)]


@settings(deadline=None)
@given(WHOLE, SIZES)
def test_what_another_provider_said_comes_back_with_all_that_its_library_keeps(
    said: list[ModelResponsePart], sizes: list[int]
) -> None:
    expected = as_without_place_for_media(said, do_thoughts=False)
    assert came_back(said, "openrouter", sizes) == [bare(part) for part in expected]


@settings(deadline=None)
@given(ANTHROPIC, GEMINI, SIZES)
def test_nobody_gets_what_another_signed(one: list[Any], other: list[Any], sizes: list[int]) -> None:
    other = [part for part in other if not isinstance(part, FilePart) or part.content.is_image]
    history = [*steps_of(events_of(one, "anthropic", sizes)), *steps_of(events_of(other, "gemini", sizes))]
    own = {"gemini": GEMINI_SIGNED, "openai": 0, "anthropic": ANTHROPIC_SIGNED}
    for kind, allowed in own.items():
        sent = [part for message in messages_of(history, kind) for part in parts(message)]
        found = {ANTHROPIC_SIGNED for part in sent if isinstance(part, ThinkingPart) and part.signature}
        found |= {GEMINI_SIGNED for part in sent if part.provider_details}
        assert found <= {allowed}


def test_calls_that_stream_side_by_side_are_told_one_after_the_other() -> None:
    translation = Translation("openai")
    told: list[ModelEvent] = []
    for index, name in enumerate(("a", "b")):
        told += translation.take(PartStartEvent(index=index, part=ToolCallPart(name, None)))
    for piece, index in ((p, i) for p in ('{"x":', "1}") for i in (0, 1)):
        told += translation.take(PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=piece)))
    told += translation.finish()
    assert told == [
        CallStart("a"),
        CallDelta('{"x":'),
        CallDelta("1}"),
        CallStart("b"),
        CallDelta('{"x":'),
        CallDelta("1}"),
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    translation = Translation("openai")
    told = [*translation.take(PartStartEvent(index=0, part=ToolCallPart("a", None))), *translation.finish()]
    assert told == [CallStart("a"), CallDelta("{}")]


def test_what_has_no_place_in_an_answer_is_refused() -> None:
    part = NativeToolCallPart("web_search", {})
    with pytest.raises(ModelError, match="builtin-tool-call, which is not supported"):
        list(Translation("gemini").take(PartStartEvent(index=0, part=part)))


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("image/png", "image"),
        ("audio/L16;codec=pcm;rate=24000", "audio"),
        ("video/mp4", "video"),
        ("application/pdf", "document"),
        ("application/zip", "document"),
    ],
)
def test_a_medium_of_an_answer_is_a_block_of_its_type(media_type: str, kind: str) -> None:
    part = FilePart(BinaryContent(b"x", media_type=media_type))
    (event,) = Translation("gemini").take(PartStartEvent(index=0, part=part))
    assert isinstance(event, MediaOutput)
    assert (event.content.type, event.content.mime_type, event.content.data) == (kind, media_type, "eA==")


# conversations


def test_inputs_results_and_corrections_are_the_users_side() -> None:
    history: list[Step] = [
        UserInput(content=[text("Look:"), IMAGE]),
        CodeExecutionCall(id="a", arguments=CodeArguments(language="bash", code="ls")),
        GoogleSearchCall(id="b", arguments=SearchArguments(queries=["x"])),
        CodeExecutionResult(call_id="a", result=[text("plot"), IMAGE]),
        GoogleSearchResult(call_id="b", result=[SearchResult(search_suggestions="none")], is_error=True),
        ModelOutput(content=[text("one"), IMAGE]),
        Correction(content=[text("JSON, please.")]),
    ]
    asked, called, returned, said, corrected = messages_of(history, "gemini")
    (prompt,) = parts(asked)
    assert prompt.content == ["Look:", BinaryContent(b"\x89PNG pixel", media_type="image/png")]
    assert [(part.tool_name, part.args) for part in parts(called)] == [
        ("code_execution", {"language": "bash", "code": "ls"}),
        ("google_search", {"queries": ["x"]}),
    ]
    first, second = parts(returned)
    assert isinstance(first, ToolReturnPart)
    assert (first.tool_name, first.tool_call_id, first.outcome) == ("code_execution", "a", "success")
    assert first.content == ["plot", BinaryContent(b"\x89PNG pixel", media_type="image/png")]
    assert (second.tool_name, second.outcome) == ("google_search", "failed")
    assert [type(part) for part in parts(said)] == [TextPart, FilePart]
    assert isinstance(parts(corrected)[0], UserPromptPart)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_names_that_a_model_made_up_become_ones_that_providers_read(kind: str) -> None:
    history: list[Step] = [FunctionCall(id="a", name="functions.read file"), FunctionResult(call_id="a", result="no")]
    called, returned = messages_of(history, kind)
    assert parts(called)[0].tool_name == parts(returned)[0].tool_name == "functions_read_file"


@pytest.mark.parametrize("raw", ["not json", "[1]", '"x"', "", '{"provider_details": 1}'])
def test_signatures_that_clients_have_broken_are_left_out(raw: str) -> None:
    history: list[Step] = [
        Thought(signature=f"openai.call:{raw}"),
        FunctionCall(id="a", name="f"),
        Thought(signature=f"openrouter.thought:{raw}"),
    ]
    for kind in ("openai", "openrouter", "gemini", "anthropic"):
        (message,) = messages_of(history, kind)
        told = [part.provider_details for part in parts(message) if part.provider_details]
        assert told == ([{"extra_content": {"provider_details": 1}}] if kind == "openai" and raw[:1] == "{" else [])


def test_ids_of_any_form_become_ones_that_providers_take() -> None:
    history: list[Step] = [
        FunctionCall(id="an id: ä", name="f"),
        FunctionResult(call_id="an id: ä", result={"content": 1}),
    ]
    called, returned = messages_of(history, "anthropic")
    assert parts(called)[0].tool_call_id == parts(returned)[0].tool_call_id == "call_0"


def test_a_signature_of_a_conversation_held_elsewhere_goes_to_the_call_after_it() -> None:
    history: list[Step] = [
        Thought(signature=B64),
        FunctionCall(id="a", name="f"),
        FunctionCall(id="b", name="g", signature=B64),
    ]
    (message,) = messages_of(history, "gemini")
    assert [part.provider_details for part in parts(message)] == [{SIGNED: B64}] * 2
    (message,) = messages_of(history, "anthropic")
    assert [type(part) for part in parts(message)] == [ToolCallPart] * 2


def test_a_text_that_was_held_back_has_its_signature_again() -> None:
    history: list[Step] = [Thought(signature=f"gemini.text:{B64}"), ModelOutput(content=[text("{}")])]
    (message,) = messages_of(history, "gemini")
    assert [bare(part) for part in parts(message)] == [("text", "{}", {SIGNED: B64})]


def test_an_input_without_text_is_one_all_the_same() -> None:
    (message,) = messages_of([UserInput(content=[text("")])], "anthropic")
    assert parts(message)[0].content == "(nothing)"


def test_media_by_address_are_refused() -> None:
    with pytest.raises(ModelError, match="not by address"):
        messages_of([UserInput(content=[ImageContent(uri="https://example.com/x.png")])], "openai")
