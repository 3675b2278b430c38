"""Steps to messages of pydantic-ai: the conversation as a provider reads it. Pure; imports `wire`, `models.port` and
`pydantic_ai.messages`, so it is imported only when a model is asked.

User inputs and results side by side make one request, outputs, thoughts and calls side by side one response. What a
provider signed goes back to it where it was (`models.signatures`); thoughts that another sort of provider signed are
left out, since it would refuse them. Media that a model answered with are shown to it by the user, where its format has
no place for them in answers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as RequestMessage

from orchestrator.models.media import sendable
from orchestrator.models.signatures import Signature, unwrapped
from orchestrator.models.vendors import GEMINI
from orchestrator.wire.content import Content, TextContent
from orchestrator.wire.steps import (
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    McpServerToolCall,
    McpServerToolResult,
    ModelOutput,
    Step,
    Thought,
    ToolSearchCall,
    ToolSearchResult,
    UrlContextCall,
    UrlContextResult,
    UserInput,
)

REDACTED = "redacted"
"""The place of what Anthropic signs of a thought that it does not show."""
_PYDANTIC_REDACTED = "redacted_thinking"
_SIGNED = "thought_signature"
_OF_THOUGHT = {"id": str, "signature": str, "provider_details": dict}
_OF_CALL = {"provider_details": dict}
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS = 64
_OWN_MEDIA = "(From your own last answer:)"
_NOTHING = "(nothing)"
"""Providers refuse inputs without any text."""

_AnyCall = FunctionCall | CodeExecutionCall | GoogleSearchCall | UrlContextCall | McpServerToolCall | ToolSearchCall


def messages_of(history: Iterable[Step], kind: str, *, system: str = "", model: str = "") -> list[ModelMessage]:
    """The conversation in the format `kind`: `gemini`, `openai`, `anthropic`, or one of a provider of its own.

    `system` is the name that pydantic-ai has for what the provider signed; `model` is what refusals name.

    Raises:
        ModelError: a step holds what the model does not take (`model_bad_request`).
    """
    writer = _Writer(kind, system or kind, model)
    for step in history:
        writer.add(step)
    return writer.finish()


class _Writer:
    def __init__(self, kind: str, system: str, model: str) -> None:
        self._kind = kind
        self._system = system
        self._model = model
        self._messages: list[ModelMessage] = []
        self._request: list[ModelRequestPart] = []
        self._response: list[ModelResponsePart] = []
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._for_call: str | None = None
        self._for_text: str | None = None
        self._owed: list[UserContent] = []

    def add(self, step: Step) -> None:
        match step:
            case UserInput():
                self._say(UserPromptPart(self._prompt(step.content)))
            case ModelOutput():
                self._end_request()  # what is owed after this answer is not part of what came before
                self._answer(*self._output(step.content))
            case Thought():
                self._answer(*self._thought(step))
            case FunctionCall() | McpServerToolCall():
                self._call(step, step.name, step.arguments)
            case CodeExecutionCall() | GoogleSearchCall() | UrlContextCall() | ToolSearchCall():
                self._call(step, step.type.removesuffix("_call"), step.arguments.model_dump())
            case FunctionResult() | CodeExecutionResult() | McpServerToolResult():
                self._result(step.call_id, self._returned(step.result), step.is_error)
            case GoogleSearchResult() | UrlContextResult() | ToolSearchResult():
                found = [each.model_dump(mode="json", exclude_none=True) for each in step.result]
                self._result(step.call_id, json.dumps(found, ensure_ascii=False), step.is_error)

    def finish(self) -> list[ModelMessage]:
        self._end_request()
        self._end_response()
        return self._messages

    def _say(self, part: ModelRequestPart) -> None:
        self._end_response()
        if isinstance(part, UserPromptPart):
            self._show_owed()
        self._request.append(part)

    def _show_owed(self) -> None:
        """Not before the results of the answer's calls: they have to come first."""
        if self._owed:
            self._request.append(UserPromptPart([_OWN_MEDIA, *self._owed]))
            self._owed = []

    def _answer(self, *parts: ModelResponsePart) -> None:
        self._end_request()
        self._response += parts

    def _end_request(self) -> None:
        if self._request:
            self._show_owed()
            self._messages.append(RequestMessage(parts=self._request))
            self._request = []

    def _end_response(self) -> None:
        if self._for_text is not None:
            self._response.append(self._text(""))
        self._for_call = None
        if self._response:
            self._messages.append(ModelResponse(parts=self._response, provider_name=self._system))
            self._response = []

    def _output(self, content: Sequence[Content]) -> Iterable[ModelResponsePart]:
        for block in content:
            if not isinstance(block, TextContent):
                medium = self._binary(block)
                if self._kind in GEMINI:
                    yield FilePart(medium)
                else:
                    self._owed.append(medium)
            elif block.text:
                yield self._text(block.text)

    def _text(self, text: str) -> TextPart:
        signed, self._for_text = self._for_text, None
        return TextPart(text, **self._signed(signed))

    def _thought(self, step: Thought) -> Iterable[ModelResponsePart]:
        signature = unwrapped(step.signature)
        text = "".join(block.text for block in step.summary or () if isinstance(block, TextContent))
        if signature is not None and signature.kind not in ("", self._kind):
            return
        match self._kind:
            case kind if kind in GEMINI:
                yield from self._gemini_thought(text, signature)
            case "anthropic" if signature is not None and signature.kind and signature.raw:
                redacted = _PYDANTIC_REDACTED if signature.place == REDACTED else None
                yield ThinkingPart(text, id=redacted, signature=signature.raw, provider_name=self._system)
            case "openai" if signature is not None and signature.kind:
                if signature.place == "call":
                    self._for_call = signature.raw
                    return
                raw = signature.raw or None
                yield ThinkingPart(text, id=signature.place, signature=raw, provider_name=self._system)
            case kind if kind not in ("openai", "anthropic") and signature is not None and signature.kind:
                if signature.place == "call":
                    self._for_call = signature.raw
                else:
                    yield ThinkingPart(text, provider_name=self._system, **_fields(signature.raw, _OF_THOUGHT))

    def _gemini_thought(self, text: str, signature: Signature | None) -> Iterable[ModelResponsePart]:
        raw = signature.raw if signature is not None and _is_base64(signature.raw) else None
        place = signature.place if signature is not None else ""
        if place == "thought":
            yield ThinkingPart(text, **self._signed(raw))
            return
        if text:
            yield ThinkingPart(text)
        if raw is None:
            return
        last = self._response[-1] if self._response and not text else None
        if place == "empty":
            yield TextPart("", **self._signed(raw))
        elif place == "media":
            if isinstance(medium := self._response[-1] if self._response else None, FilePart):
                medium.provider_name, medium.provider_details = self._system, {_SIGNED: raw}
        elif place != "text":
            self._for_call = raw
        elif isinstance(last, TextPart) and last.provider_details is None:
            last.provider_name, last.provider_details = self._system, {_SIGNED: raw}
        else:
            self._for_text = raw

    def _signed(self, raw: str | None) -> dict[str, Any]:
        if raw is None:
            return {}
        return {"provider_name": self._system, "provider_details": {_SIGNED: raw}}

    def _call(self, step: _AnyCall, name: str, arguments: dict[str, Any]) -> None:
        own = unwrapped(step.signature)
        raw = own.raw if own is not None and own.kind in ("", self._kind) else self._for_call
        self._for_call = None
        details: dict[str, Any] = {}
        if raw is not None and self._kind in GEMINI:
            details = self._signed(raw) if _is_base64(raw) else {}
        elif raw is not None and self._kind == "openai":
            extra = _object(raw)
            details = {"provider_name": self._system, "provider_details": {"extra_content": extra}} if extra else {}
        elif raw is not None and self._kind != "anthropic":
            details = {"provider_name": self._system, **_fields(raw, _OF_CALL)}
        if self._kind not in GEMINI:
            # Models call what is not there, and providers refuse to read such names again.
            name = _UNSAFE_IN_NAME.sub("_", name)[:_NAME_CHARS] or "_"
        self._names[step.id] = name
        self._answer(ToolCallPart(name, arguments, self._id(step.id), **details))

    def _result(self, call_id: str, content: Any, is_error: bool) -> None:
        outcome: Any = "failed" if is_error else "success"
        name = self._names.get(call_id, "unknown")
        self._say(ToolReturnPart(name, content, self._id(call_id), outcome=outcome))

    def _id(self, given: str) -> str:
        """Ids of conversations that were held elsewhere may have any form; providers insist on theirs."""
        if given not in self._ids:
            self._ids[given] = given if _SAFE_ID.fullmatch(given) else f"call_{len(self._ids)}"
        return self._ids[given]

    def _prompt(self, content: Sequence[Content]) -> str | list[UserContent]:
        blocks: list[UserContent] = [
            block.text if isinstance(block, TextContent) else self._binary(block)
            for block in content
            if not isinstance(block, TextContent) or block.text
        ]
        if not blocks:
            return _NOTHING
        only = blocks[0]
        return only if len(blocks) == 1 and isinstance(only, str) else blocks

    def _returned(self, result: str | dict[str, Any] | Sequence[Content]) -> Any:
        if isinstance(result, str | dict):
            return result
        blocks = [block.text if isinstance(block, TextContent) else self._binary(block) for block in result]
        texts = [block for block in blocks if isinstance(block, str)]
        return "".join(texts) if len(texts) == len(blocks) else blocks

    def _binary(self, block: Content) -> BinaryContent:
        data, media_type = sendable(block, self._kind, self._model)
        return BinaryContent(data, media_type=media_type)


def _object(raw: str) -> dict[str, Any] | None:
    """Signatures pass through clients: what is no object any more is left out."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fields(raw: str, known: Mapping[str, type]) -> dict[str, Any]:
    given = _object(raw) or {}
    return {name: given[name] for name, kind in known.items() if isinstance(given.get(name), kind)}


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
