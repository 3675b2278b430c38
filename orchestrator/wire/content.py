"""Content blocks: what inputs, outputs and tool results are made of (reference, 3.1). No I/O.

A medium is given either as base64 `data` with its `mime_type` or by `uri`. Whether a model can take it is decided
elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, model_validator

from orchestrator.wire.base import Base64, ByType, Count, ListOf, WireModel, base64_bytes, either, problem


class UrlCitation(WireModel):
    """A source of a passage. Indices count bytes of the text's UTF-8, end excluded."""

    type: Literal["url_citation"] = "url_citation"
    url: str | None = None
    title: str | None = None
    start_index: Count | None = None
    end_index: Count | None = None


class FileCitation(WireModel):
    """A file as the source of a passage. Its further fields are not documented publicly and are kept as they come."""

    model_config = ConfigDict(extra="allow")

    type: Literal["file_citation"] = "file_citation"
    start_index: Count | None = None
    end_index: Count | None = None


class PlaceCitation(WireModel):
    """A place as the source of a passage. Its further fields are not documented publicly and are kept as they come."""

    model_config = ConfigDict(extra="allow")

    type: Literal["place_citation"] = "place_citation"
    start_index: Count | None = None
    end_index: Count | None = None


Annotation = Annotated[UrlCitation | FileCitation | PlaceCitation, ByType("annotation")]


class TextContent(WireModel):
    type: Literal["text"] = "text"
    text: str
    annotations: Annotated[ListOf[Annotation] | None, AfterValidator(lambda found: found or None)] = None
    """Never empty."""


class Media(WireModel):
    """What image, audio, video and document have in common. Exactly one of `data` and `uri` is set."""

    model_config = ConfigDict(
        json_schema_extra={
            **either("data", "uri"),
            "if": {"required": ["data"], "properties": {"data": {"type": "string"}}},
            "then": {"required": ["mime_type"], "properties": {"mime_type": {"type": "string", "minLength": 1}}},
        }
    )

    type: str
    mime_type: str | None = None
    """Always set beside `data`."""
    data: Base64 | None = Field(default=None, repr=False)
    """Canonical base64."""
    uri: str | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.data is None) == (self.uri is None):
            raise problem("expected either 'data' or 'uri'")
        if self.data is not None and not self.mime_type:
            raise problem("expected the type of 'data', for example 'image/png'", "mime_type")
        return self

    @property
    def content(self) -> bytes | None:
        """The decoded `data`; None for a medium given by `uri`."""
        return None if self.data is None else base64_bytes(self.data)


class ImageContent(Media):
    type: Literal["image"] = "image"
    resolution: str | None = None


class AudioContent(Media):
    type: Literal["audio"] = "audio"


class VideoContent(Media):
    type: Literal["video"] = "video"
    resolution: str | None = None


class DocumentContent(Media):
    type: Literal["document"] = "document"


Content = Annotated[
    TextContent | ImageContent | AudioContent | VideoContent | DocumentContent,
    ByType("content"),
]
ContentAdapter: TypeAdapter[Content] = TypeAdapter(Content)
ContentsAdapter: TypeAdapter[list[Content]] = TypeAdapter(ListOf[Content])

CONTENT_TYPES = frozenset({"text", "image", "audio", "video", "document"})
