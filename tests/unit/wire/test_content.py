from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import dump, parse
from orchestrator.wire.content import ContentAdapter, ImageContent, TextContent


def refusal(data: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(ContentAdapter, data, "content[0]")
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"type": "foo"},
            "Unknown content type 'foo' at 'content[0].type'; known: text, image, audio, video, document.",
        ),
        ({"type": "text"}, "Missing required parameter 'text' at 'content[0]'."),
        ({"type": "text", "text": 1}, "Invalid value at 'content[0].text': expected a string."),
        (
            {"type": "text", "text": "a", "mimeType": "x"},
            "Unknown parameter 'mimeType' at 'content[0]' (closest known name: 'type').",
        ),
        (
            {"type": "image", "mimeType": "x"},
            "Unknown parameter 'mimeType' at 'content[0]' (closest known name: 'mime_type').",
        ),
        ({"type": "image"}, "Invalid value at 'content[0]': expected either 'data' or 'uri'."),
        (
            {"type": "image", "data": "", "uri": "x", "mime_type": "image/png"},
            "Invalid value at 'content[0]': expected either 'data' or 'uri'.",
        ),
        (
            {"type": "image", "data": "YQ=="},
            "Invalid value at 'content[0].mime_type': expected the type of 'data', for example 'image/png'.",
        ),
        (
            {"type": "document", "data": "not base64!", "mime_type": "application/pdf"},
            "Invalid value at 'content[0].data': expected base64.",
        ),
        (
            {"type": "text", "text": "a", "annotations": [{"type": "url_citation", "start_index": -1}]},
            "Invalid value at 'content[0].annotations[0].start_index': expected an integer of at least 0.",
        ),
    ],
)
def test_refusals(data: Any, message: str) -> None:
    assert refusal(data) == message


@pytest.mark.parametrize(
    "data",
    [
        {"type": "text", "text": ""},
        {"type": "text", "text": "a", "annotations": [{"type": "file_citation", "end_index": 1, "document_uri": "x"}]},
        {"type": "image", "mime_type": "image/png", "data": "YQ==", "resolution": "high"},
        {"type": "audio", "uri": "https://e.org/a"},
        {"type": "video", "mime_type": "video/mp4", "uri": "https://e.org/a"},
        {"type": "document", "mime_type": "application/pdf", "data": ""},
    ],
)
def test_the_canonical_form_is_what_came(data: dict[str, Any]) -> None:
    assert dump(parse(ContentAdapter, data)) == data


def test_media_decode_their_data() -> None:
    assert parse(ContentAdapter, {"type": "image", "mime_type": "image/png", "data": "_-8"}) == ImageContent(
        mime_type="image/png", data="/+8="
    )
    assert ImageContent(mime_type="image/png", data="/+8=").content == b"\xff\xef"
    assert ImageContent(uri="https://e.org/a").content is None


def test_no_annotations_are_one_thing() -> None:
    assert TextContent(text="a", annotations=[]) == TextContent(text="a")
