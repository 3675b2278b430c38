"""Models of the OpenAI chat format whose answers have images and sound in them, which pydantic-ai passes over. Imports
pydantic-ai and the library of OpenAI, so it is imported only when a model is asked.

Images come whole in `images` beside the text, as OpenRouter and other gateways send them. Sound comes in pieces in
`audio`, with what is said as a transcript: that is told as text at once, the sound when it is whole.
"""

from __future__ import annotations

import base64
import binascii
import io
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat.chat_completion_chunk import Choice, ChoiceDeltaAudio
from pydantic_ai.messages import BinaryContent, FilePart, ModelResponseStreamEvent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.models.openrouter import OpenRouterModel, OpenRouterStreamedResponse

from orchestrator.errors import ModelError
from orchestrator.models.media import check_size

_SAMPLES_PER_S = 24_000
"""Of sound that is streamed: 16 bits, one channel. The format has no other."""


@dataclass
class _MediaStream(OpenAIStreamedResponse):
    _sound: bytearray = field(default_factory=bytearray, init=False)

    def _map_part_delta(self, choice: Choice) -> Iterable[ModelResponseStreamEvent]:
        yield from super()._map_part_delta(choice)
        for image in _listed(choice.delta, "images"):
            url = image.get("image_url") if isinstance(image, dict) else None
            yield self._file(*_read(url.get("url") if isinstance(url, dict) else None))
        if choice.delta.audio is not None:
            yield from self._map_sound(choice.delta.audio)
        if choice.finish_reason and self._sound:
            yield self._file(_as_wave(bytes(self._sound)), "audio/wav")
            self._sound.clear()

    def _map_sound(self, audio: ChoiceDeltaAudio) -> Iterator[ModelResponseStreamEvent]:
        if audio.transcript:
            yield from self._parts_manager.handle_text_delta(vendor_part_id="transcript", content=audio.transcript)
        if audio.data:
            self._sound += _decoded(audio.data)
            check_size(len(self._sound), "audio")

    def _file(self, data: bytes, media_type: str) -> ModelResponseStreamEvent:
        self._advance_part_boundary("tool")  # what is said from here on is another text
        part = FilePart(BinaryContent(data, media_type=media_type))
        return self._parts_manager.handle_part(vendor_part_id=None, part=part)


@dataclass
class _OpenRouterMediaStream(_MediaStream, OpenRouterStreamedResponse):
    pass


class ChatModel(OpenAIChatModel):
    """As OpenAI and most others speak."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return _MediaStream


class OpenRouterChatModel(OpenRouterModel):
    """OpenRouter's dialect."""

    @property
    def _streamed_response_cls(self) -> type[OpenRouterStreamedResponse]:
        return _OpenRouterMediaStream


def _listed(delta: Any, name: str) -> list[Any]:
    found = getattr(delta, name, None)
    return found if isinstance(found, list) else []


def _read(url: Any) -> tuple[bytes, str]:
    head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    scheme, _, rest = head.partition(":")
    media_type, _, coding = rest.rpartition(";")
    if scheme != "data" or coding != "base64" or not media_type:
        # An address would have to be fetched, and this server fetches nothing for a model.
        raise ModelError("The model answered with an image that is not in the answer itself.")
    return _decoded(data), media_type


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ModelError("The model answered with media that cannot be read.", code="model_stream_broken") from error


def _as_wave(samples: bytes) -> bytes:
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_SAMPLES_PER_S)
        file.writeframes(samples)
    return whole.getvalue()
