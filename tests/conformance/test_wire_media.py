"""Media in and out of the providers' formats, over real HTTP: what is really sent, and what is refused before."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.errors import ModelError
from orchestrator.models import chat, media
from orchestrator.models.port import (
    MediaOutput,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThoughtSignature,
    ToolSpec,
    TurnEnd,
)
from orchestrator.models.remote import Endpoint, RemoteModel
from orchestrator.wire.content import (
    AudioContent,
    Content,
    DocumentContent,
    ImageContent,
    TextContent,
    VideoContent,
)
from orchestrator.wire.steps import FunctionCall, FunctionResult, ModelOutput, Step, Thought, UserInput
from tests.conformance.model_suite import collect
from tests.fakes.model_servers import SERVERS, Answer, Cut, ModelServer

pytestmark = pytest.mark.anyio

KEY = "canary-0123456789"
TOOL = ToolSpec("read_file", "Reads.", {"type": "object", "properties": {"path": {"type": "string"}}})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG, PDF, WAV, MP4 = (b64(data) for data in (b"\x89PNG\r\n\x1a\nx", b"%PDF-1.7 x", b"RIFF....WAVE", b"\x00\x00ftypmp4"))
SIGNATURE = b64(b"\x00signed\xff")
IMAGE = ImageContent(data=PNG, mime_type="image/png")
BLOCKS: dict[str, Content] = {
    "image": IMAGE,
    "pdf": DocumentContent(data=PDF, mime_type="application/pdf"),
    "text": DocumentContent(data=b64(b"a,b"), mime_type="text/plain; charset=utf-8"),
    "csv": DocumentContent(data=b64(b"a,b"), mime_type="text/csv"),
    "audio": AudioContent(data=WAV, mime_type="audio/x-wav"),
    "ogg": AudioContent(data=WAV, mime_type="audio/ogg"),
    "video": VideoContent(data=MP4, mime_type="video/mp4"),
}
INLINE = {"image": "image/png", "pdf": "application/pdf", "audio": "audio/x-wav", "video": "video/mp4"}
SENT: dict[tuple[str, str], Any] = {
    ("openai", "image"): {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ("openai", "audio"): {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
    ("openai", "pdf"): {
        "type": "file",
        "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "filename.pdf"},
    },
    ("anthropic", "image"): {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    },
    ("anthropic", "pdf"): {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
    },
    ("anthropic", "text"): {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "a,b"},
    },
    **{
        ("gemini", name): {"inlineData": {"data": BLOCKS[name].data, "mime_type": mime_type}}  # type: ignore[union-attr]  # no text
        for name, mime_type in INLINE.items()
    },
}
REFUSED = [
    ("openai", "video", "'video'"),
    ("openai", "ogg", "'audio'"),
    ("anthropic", "audio", "'audio'"),
    ("anthropic", "video", "'video'"),
    ("anthropic", "csv", "'document'"),
]


def user(*blocks: Content) -> UserInput:
    return UserInput(content=list(blocks))


def text(words: str) -> TextContent:
    return TextContent(text=words)


def asks(kind: str, history: Sequence[Step], *, tools: tuple[ToolSpec, ...] = (TOOL,), name: str = "m") -> ModelRequest:
    return ModelRequest(f"{kind}:{name}", "Be brief.", tuple(history), tools, 0)


@asynccontextmanager
async def world(
    kind: str, answer: Answer | Cut | None = None, *, vendor: str = ""
) -> AsyncGenerator[tuple[ModelServer, RemoteModel], None]:
    server = SERVERS[kind](dict.fromkeys(("m", "x/m"), answer or Answer(text=("ok",))))
    async with server.running():
        model = RemoteModel(Endpoint(vendor or kind, vendor or kind, server.url, KEY))
        try:
            yield server, model
        finally:
            await model.aclose()


def parts_sent(kind: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that was said in the request, without what only caches it."""
    parts: list[dict[str, Any]] = []
    for message in body["contents" if kind == "gemini" else "messages"]:
        content = message["parts" if kind == "gemini" else "content"]
        parts += [{"text": content}] if isinstance(content, str) else content or []
    return [{name: value for name, value in part.items() if name != "cache_control"} for part in parts]


@pytest.mark.parametrize(("kind", "name"), sorted(SENT))
async def test_media_of_the_user_are_sent_as_the_format_has_them(kind: str, name: str) -> None:
    async with world(kind) as (server, model):
        await collect(model, asks(kind, [user(text("Look."), BLOCKS[name])]))
    assert SENT[kind, name] in parts_sent(kind, server.requests[0])


async def test_documents_of_text_are_written_out_for_openai() -> None:
    async with world("openai") as (server, model):
        await collect(model, asks("openai", [user(text("Look."), BLOCKS["csv"])]))
    assert "a,b" in json.dumps(server.requests[0])


@pytest.mark.parametrize(("kind", "name", "named"), REFUSED)
@pytest.mark.parametrize("where", ["input", "result", "output"])
async def test_what_a_format_cannot_take_is_refused_before_anything_is_sent(
    kind: str, name: str, named: str, where: str
) -> None:
    said: dict[str, list[Step]] = {
        "input": [user(BLOCKS[name])],
        "result": [
            user(text("Go.")),
            FunctionCall(id="a", name="read_file"),
            FunctionResult(call_id="a", result=[BLOCKS[name]]),
        ],
        "output": [user(text("Go.")), ModelOutput(content=[BLOCKS[name]]), user(text("And?"))],
    }
    async with world(kind) as (server, model):
        with pytest.raises(ModelError, match=rf"'{kind}:m' cannot take content of type {named}") as caught:
            await collect(model, asks(kind, said[where]))
    assert (caught.value.code, caught.value.retryable) == ("model_bad_request", False)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_documents_that_claim_to_be_text_are_refused(kind: str) -> None:
    block = DocumentContent(data=b64(b"\xff\xfe\x00"), mime_type="text/plain")
    async with world(kind) as (server, model):
        with pytest.raises(ModelError, match="not UTF-8"):
            await collect(model, asks(kind, [user(block)]))
    assert server.requests == []


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_media_by_address_are_refused(kind: str) -> None:
    async with world(kind) as (server, model):
        with pytest.raises(ModelError, match="'image' by address"):
            await collect(model, asks(kind, [user(ImageContent(uri="https://example.com/x.png"))]))
    assert server.requests == []


@pytest.mark.parametrize("kind", sorted(SERVERS))
@pytest.mark.parametrize("is_error", [False, True])
async def test_results_with_images_are_sent_and_failures_are_told(kind: str, is_error: bool) -> None:
    history: list[Step] = [
        user(text("Go.")),
        FunctionCall(id="a", name="read_file"),
        FunctionCall(id="b", name="read_file"),
        FunctionResult(call_id="a", result=[text("a chart:"), IMAGE], is_error=is_error),
        FunctionResult(call_id="b", result="plain"),
        user(text("And now?")),
    ]
    async with world(kind) as (server, model):
        events = await collect(model, asks(kind, history))
    assert isinstance(events[-1], TurnEnd), "the provider refused it"
    sent = json.dumps(server.requests[0])
    assert PNG in sent
    assert "a chart:" in sent
    failed = {"gemini": '"error": ', "openai": r"{\"error\":", "anthropic": '"is_error": true'}[kind]
    assert (failed in sent) is is_error
    if kind == "anthropic":
        result = next(part for part in parts_sent(kind, server.requests[0]) if part.get("tool_use_id") == "a")
        assert SENT[kind, "image"] in result["content"]
    elif kind == "openai":
        assert SENT[kind, "image"] in parts_sent(kind, server.requests[0])
    else:
        results = [part.get("functionResponse", {}) for part in parts_sent(kind, server.requests[0])]
        assert {"inline_data": {"data": PNG, "mime_type": "image/png"}} in [
            part for result in results for part in result.get("parts", ())
        ]


# answers


def told(events: Sequence[ModelEvent]) -> list[Any]:
    """Texts in one piece, media as their data, in order."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, TextDelta):
            last = found.pop() if found and isinstance(found[-1], str) else ""
            found.append(last + event.text)
        elif isinstance(event, MediaOutput):
            found.append((event.content.type, event.content.mime_type, event.content.data))
    return found


@pytest.mark.parametrize("kind", ["gemini", "openai"])
async def test_images_of_an_answer_come_beside_its_text_in_order(kind: str) -> None:
    answer = Answer(text=("Here ", "it is:"), images=((PNG, SIGNATURE), (PDF, "")), after=("Nice?",))
    async with world(kind, answer) as (_, model):
        events = await collect(model, asks(kind, [user(text("Draw."))]))
    images = [("image", "image/png", PNG), ("image", "image/png", PDF)]
    assert told(events) == ["Here it is:", *images, "Nice?"]


async def test_a_signed_image_goes_back_to_gemini_where_it_was() -> None:
    answer = Answer(text=("Here:",), images=((PNG, SIGNATURE), (PDF, "")), after=("Nice?",))
    async with world("gemini", answer) as (server, model):
        events = await collect(model, asks("gemini", [user(text("Draw."))]))
        (signature,) = [event.signature for event in events if isinstance(event, ThoughtSignature)]
        first, second = [event.content for event in events if isinstance(event, MediaOutput)]
        said: list[Step] = [
            user(text("Draw.")),
            ModelOutput(content=[text("Here:"), first]),
            Thought(signature=signature),
            ModelOutput(content=[second, text("Nice?")]),
            user(text("Again.")),
        ]
        await collect(model, asks("gemini", said))
    contents = server.requests[1]["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[1]["parts"] == [
        {"text": "Here:"},
        {"inlineData": {"data": PNG, "mime_type": "image/png"}, "thoughtSignature": SIGNATURE},
        {"inlineData": {"data": PDF, "mime_type": "image/png"}},
        {"text": "Nice?"},
    ]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_images_of_an_answer_are_shown_by_the_user_where_answers_have_no_place_for_them(kind: str) -> None:
    history: list[Step] = [
        user(text("Draw.")),
        ModelOutput(content=[text("Here:"), IMAGE]),
        FunctionCall(id="a", name="read_file"),
        FunctionResult(call_id="a", result="done"),
    ]
    async with world(kind) as (server, model):
        events = await collect(model, asks(kind, history))
    assert isinstance(events[-1], TurnEnd), "the provider refused it"
    assert [message["role"] for message in server.requests[0]["messages"]][-1] == "user"
    assert parts_sent(kind, server.requests[0])[-1] == SENT[kind, "image"]


async def test_sound_of_an_answer_comes_as_its_words_and_a_file() -> None:
    samples = bytes(range(200))
    pieces = (("Good ", b64(samples[:100])), ("day.", b64(samples[100:])))
    async with world("openai", Answer(sound=pieces)) as (server, model):
        events = await collect(model, asks("openai", [user(text("Speak."))]))
        words, (kind, mime_type, data) = told(events)
        said = ModelOutput(content=[text(words), AudioContent(data=data, mime_type=mime_type)])
        await collect(model, asks("openai", [user(text("Speak.")), said, user(text("Again."))]))
    assert (words, kind, mime_type) == ("Good day.", "audio", "audio/wav")
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        assert (file.getframerate(), file.getnchannels(), file.readframes(1000)) == (24_000, 1, samples)
    assert {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}} in parts_sent(
        "openai", server.requests[1]
    )


@pytest.mark.parametrize("kind", ["gemini", "openai"])
async def test_a_medium_that_is_too_large_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "LIMIT_BYTES", 100)
    async with world(kind, Answer(images=((b64(bytes(102)), ""),))) as (_, model):
        with pytest.raises(ModelError, match="image/png of more than") as caught:
            await collect(model, asks(kind, [user(text("Draw."))]))
    assert (caught.value.code, caught.value.retryable) == ("model_failed", False)


async def test_sound_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "LIMIT_BYTES", 100)
    pieces = tuple(("", b64(bytes(60))) for _ in range(2))
    async with world("openai", Cut(Answer(sound=pieces), 4)) as (_, model):
        with pytest.raises(ModelError, match="audio of more than"):
            await collect(model, asks("openai", [user(text("Speak."))]))


@pytest.mark.parametrize(
    "url", ["https://example.com/x.png", "data:image/png,x", "data:;base64,x", "data:image/png;base64,%"]
)
def test_an_image_by_address_in_an_answer_is_not_fetched(url: str) -> None:
    with pytest.raises(ModelError):
        chat._read(url)


# tools that are not offered


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_calls_can_be_read_again_when_no_tool_is_offered(kind: str) -> None:
    history: list[Step] = [
        user(text("Go.")),
        FunctionCall(id="a", name="read_file", arguments={"path": "x"}),
        FunctionResult(call_id="a", result="done"),
        user(text("And now without.")),
    ]
    async with world(kind) as (server, model):
        events = await collect(model, asks(kind, history, tools=()))
        await collect(model, asks(kind, [user(text("Go."))], tools=()))
    assert isinstance(events[-1], TurnEnd), "the provider refused it"
    offered, bare = (json.dumps(body) for body in server.requests)
    assert {"gemini": '"mode": "NONE"', "openai": '"tool_choice": "none"', "anthropic": '{"type": "none"}'}[
        kind
    ] in offered
    assert '"tools"' in offered
    assert '"tools"' not in bare


# other kinds of providers


@pytest.mark.parametrize(
    "vendor",
    ["alibaba", "cerebras", "deepseek", "fireworks", "litellm", "ollama", "together", "vllm", "zai"],
)
async def test_other_providers_speak_the_chat_format(vendor: str) -> None:
    answer = Answer(thought="Hm.", text=("Hello.",), calls=(("read_file", '{"path": "x"}'),))
    async with world("openai", answer, vendor=vendor) as (server, model):
        events = await collect(model, asks(vendor, [user(text("Go."))], name="x/m"))
        signature = next(event.signature for event in events if isinstance(event, ThoughtSignature))
        said: list[Step] = [
            user(text("Go.")),
            Thought(summary=[text("Hm.")], signature=signature),
            ModelOutput(content=[text("Hello.")]),
            FunctionCall(id="a", name="read_file", arguments={"path": "x"}),
            FunctionResult(call_id="a", result=[IMAGE]),
        ]
        again = await collect(model, asks(vendor, said, name="x/m"))
    assert told(events) == ["Hello."]
    assert isinstance(again[-1], TurnEnd)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "Hm." in json.dumps(server.requests[1])
    assert PNG in json.dumps(server.requests[1])


async def test_openrouter_takes_video_and_gives_images() -> None:
    async with world("openai", Answer(images=((PNG, ""),)), vendor="openrouter") as (server, model):
        server.is_strict = False  # its dialect has more parts
        events = await collect(model, asks("openrouter", [user(BLOCKS["video"])], name="x/m"))
    assert told(events) == [("image", "image/png", PNG)]
    assert MP4 in json.dumps(server.requests[0])


async def test_what_openrouter_signed_goes_back_to_it_whole() -> None:
    shown = {
        "type": "reasoning.text",
        "text": "Hm.",
        "signature": "a+b/c=",
        "id": "r:1.x",
        "format": "anthropic-claude-v1",
    }
    hidden = {"type": "reasoning.encrypted", "data": "+/=", "id": "r-2", "format": "openai-responses-v1"}
    details = ({**shown, "index": 0}, {**hidden, "index": 1})
    answer = Answer(details=details, calls=(("read_file", "{}"),))
    async with world("openai", answer, vendor="openrouter") as (server, model):
        events = await collect(model, asks("openrouter", [user(text("Go."))], name="x/m"))
        first, second = [event.signature for event in events if isinstance(event, ThoughtSignature)]
        said: list[Step] = [
            user(text("Go.")),
            Thought(summary=[text("Hm.")], signature=first),
            Thought(signature=second),
            FunctionCall(id="a", name="read_file"),
            FunctionResult(call_id="a", result="done"),
        ]
        await collect(model, asks("openrouter", said, name="x/m"))
        await collect(
            model, asks("openrouter", [user(text("Go.")), Thought(signature="openrouter.thought:{")], name="x/m")
        )
    back = [message.get("reasoning_details") for message in server.requests[1]["messages"]]
    assert [{name: detail[name] for name in sent} for detail, sent in zip(back[2], details, strict=True)] == list(
        details
    )
