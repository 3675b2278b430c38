"""Media that models take and give: which format takes what, and how large one that a model gives may be. Pure; imports
`wire` and `errors` only.

What cannot be taken is refused here, before anything is sent: libraries of providers fail in ways of their own, or
leave it out without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.errors import ModelError
from orchestrator.wire.content import AudioContent, Content, DocumentContent, ImageContent, TextContent, VideoContent

Medium = ImageContent | AudioContent | VideoContent | DocumentContent

LIMIT_BYTES = 16 << 20
"""Of one medium in an answer. It is kept in the log, and sent again with every later turn."""

_TEXT = r"text/.+|application/(?:json|xml|yaml|x-yaml|toml|.+\+json|.+\+xml)"
_TAKEN: Mapping[str, re.Pattern[str]] = {
    "openai": re.compile(rf"image/.+|audio/(?:wav|mpeg)|application/pdf|{_TEXT}"),
    "openrouter": re.compile(rf"image/.+|audio/(?:wav|mpeg)|video/.+|application/pdf|{_TEXT}"),
    "anthropic": re.compile(r"image/(?:png|jpeg|gif|webp)|application/pdf|text/plain"),
}
"""Format to the media types that it has a place for. Those that are not here take everything inline, as Gemini does."""
_SPELLINGS = {
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "image/jpg": "image/jpeg",
}
_BLOCKS: Mapping[str, type[Medium]] = {"image": ImageContent, "audio": AudioContent, "video": VideoContent}


def block_of(data_base64: str, mime_type: str) -> Medium:
    """The content block for what a model answered with.

    Raises:
        ModelError: it is larger than this server takes (`model_failed`).
    """
    check_size(len(data_base64) // 4 * 3, mime_type)
    block = _BLOCKS.get(mime_type.partition("/")[0].lower(), DocumentContent)
    return block(data=data_base64, mime_type=mime_type)


def check_size(size_bytes: int, what: str) -> None:
    """Raises `ModelError` if a medium of an answer is larger than this server takes (`model_failed`)."""
    if size_bytes > LIMIT_BYTES:
        said = f"The model answered with {what} of more than {LIMIT_BYTES >> 20} MiB"
        raise ModelError(f"{said}, which is the most that one medium may have.")


def sendable(block: Content, kind: str, model: str) -> tuple[bytes, str]:
    """The bytes of a medium, and its type as the format spells it.

    Raises:
        ModelError: a model of that format cannot be given it (`model_bad_request`); the user's fault.
    """
    if isinstance(block, TextContent) or (data := block.content) is None or block.mime_type is None:
        raise _refusal(block, model, "by address; models take media as data, not by address")
    taken = _TAKEN.get(kind)
    if taken is None:
        return data, block.mime_type
    bare = block.mime_type.partition(";")[0].strip().lower()
    bare = _SPELLINGS.get(bare, bare)
    if not taken.fullmatch(bare):
        raise _refusal(block, model, f"of the type {block.mime_type!r}")
    if re.fullmatch(_TEXT, bare):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise _refusal(block, model, f"of the type {block.mime_type!r} that is not UTF-8") from error
    return data, bare


def _refusal(block: Content, model: str, why: str) -> ModelError:
    return ModelError(
        f"The model {model!r} cannot take content of type {block.type!r} {why}.", code="model_bad_request"
    )
