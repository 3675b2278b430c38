"""How a model or agent is to work: configs, response formats, safety settings, webhooks (reference, 2.1, 2.8, 2.9).

No I/O. Everything the wire knows is parsed and kept; what this server does not offer is refused where requests are
accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from orchestrator.wire.base import AnyCase, ByShape, ByType, Flag, Int64, ListOf, Number, Positive, WireModel

ThinkingSummaries = Annotated[Literal["auto", "none"], AnyCase]
JsonObjectOrList = Annotated[dict[str, Any] | list[Any], ByShape("an object or a list")]


class GenerationConfig(WireModel):
    """For models. The last four are deprecated on the wire."""

    max_output_tokens: Positive | None = None
    seed: Int64 | None = None
    stop_sequences: ListOf[str] | None = None
    thinking_level: Annotated[Literal["minimal", "low", "medium", "high", "xhigh"], AnyCase] | None = None
    thinking_summaries: ThinkingSummaries | None = None
    tool_choice: Annotated[str | dict[str, Any], ByShape("a string or an object")] | None = None
    speech_config: JsonObjectOrList | None = None
    transcription_config: dict[str, Any] | None = None
    video_config: dict[str, Any] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Number | None = None
    image_config: dict[str, Any] | None = None


# agent_config


class AntigravityConfig(WireModel):
    type: Literal["antigravity"] = "antigravity"
    model: str | None = Field(default=None, min_length=1)
    max_total_tokens: Positive | None = None
    """Input, output and thinking together, cached input not counted; checked between model calls."""


class DeepResearchConfig(WireModel):
    type: Literal["deep-research"] = "deep-research"
    thinking_summaries: ThinkingSummaries | None = None
    visualization: Annotated[Literal["auto", "off"], AnyCase] | None = None
    collaborative_planning: Flag | None = None
    enable_bigquery_tool: Flag | None = None


class CodeMenderConfig(WireModel):
    type: Literal["code-mender"] = "code-mender"
    model: str | None = None
    session_id: str | None = None
    session_config: dict[str, Any] | None = None
    find_request: dict[str, Any] | None = None
    fix_request: dict[str, Any] | None = None


class DynamicConfig(WireModel):
    """Free-form."""

    model_config = ConfigDict(extra="allow")

    type: Literal["dynamic"] = "dynamic"


AgentConfig = Annotated[
    AntigravityConfig | DeepResearchConfig | CodeMenderConfig | DynamicConfig, ByType("agent_config")
]


# response_format


class TextFormat(WireModel):
    type: Literal["text"] = "text"
    mime_type: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    """On the wire `schema`."""


class ImageFormat(WireModel):
    type: Literal["image"] = "image"
    mime_type: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    delivery: Annotated[Literal["inline", "uri"], AnyCase] | None = None


class AudioFormat(WireModel):
    """Its further fields are not documented publicly and are kept as they come."""

    model_config = ConfigDict(extra="allow")

    type: Literal["audio"] = "audio"


class VideoFormat(WireModel):
    """Its further fields are not documented publicly and are kept as they come."""

    model_config = ConfigDict(extra="allow")

    type: Literal["video"] = "video"


ResponseFormat = Annotated[TextFormat | ImageFormat | AudioFormat | VideoFormat, ByType("response format")]


class SafetySetting(WireModel):
    type: str
    threshold: str
    method: str | None = None


class WebhookConfig(WireModel):
    """Where to report this one interaction."""

    uris: ListOf[str] = Field(min_length=1)
    user_metadata: dict[str, Any] | None = None
