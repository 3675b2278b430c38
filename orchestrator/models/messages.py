"""Steps to messages of pydantic-ai: the conversation as a provider reads it. Pure; imports `wire`, `models.port` and
`pydantic_ai.messages`, so it is imported only when a model is asked.

User inputs and results side by side make one request, outputs, thoughts and calls side by side one response. What a
provider signed goes back to it where it was (`models.signatures`); thoughts that another sort of provider signed are
left out, since it would refuse them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
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

from orchestrator.errors import ModelError
from orchestrator.models.signatures import Signature, unwrapped
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

SYSTEMS = {"gemini": "google", "openai": "openai", "anthropic": "anthropic"}
"""Sort of provider to the name that pydantic-ai has for what such a provider signed."""
REDACTED = "redacted"
"""The place of what Anthropic signs of a thought that it does not show."""
_PYDANTIC_REDACTED = "redacted_thinking"
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NOTHING = "(nothing)"
"""Providers refuse inputs without any text."""

_AnyCall = FunctionCall | CodeExecutionCall | GoogleSearchCall | UrlContextCall | McpServerToolCall | ToolSearchCall


def messages_of(history: Iterable[Step], kind: str) -> list[ModelMessage]:
    """The conversation for a provider of the sort `kind`: `gemini`, `openai` or `anthropic`.

    Raises:
        ModelError: a step holds what no model takes (`model_bad_request`).
    """
    writer = _Writer(kind)
    for step in history:
        writer.add(step)
    return writer.finish()


class _Writer:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._system = SYSTEMS[kind]
        self._messages: list[ModelMessage] = []
        self._request: list[ModelRequestPart] = []
        self._response: list[ModelResponsePart] = []
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._for_call: str | None = None
        self._for_text: str | None = None

    def add(self, step: Step) -> None:
        match step:
            case UserInput():
                self._say(UserPromptPart(_prompt(step.content)))
            case ModelOutput():
                self._answer(*self._output(step.content))
            case Thought():
                self._answer(*self._thought(step))
            case FunctionCall() | McpServerToolCall():
                self._call(step, step.name, step.arguments)
            case CodeExecutionCall() | GoogleSearchCall() | UrlContextCall() | ToolSearchCall():
                self._call(step, step.type.removesuffix("_call"), step.arguments.model_dump())
            case FunctionResult() | CodeExecutionResult() | McpServerToolResult():
                self._result(step.call_id, _returned(step.result), step.is_error)
            case GoogleSearchResult() | UrlContextResult() | ToolSearchResult():
                found = [each.model_dump(mode="json", exclude_none=True) for each in step.result]
                self._result(step.call_id, json.dumps(found, ensure_ascii=False), step.is_error)

    def finish(self) -> list[ModelMessage]:
        self._end_request()
        self._end_response()
        return self._messages

    def _say(self, part: ModelRequestPart) -> None:
        self._end_response()
        self._request.append(part)

    def _answer(self, *parts: ModelResponsePart) -> None:
        self._end_request()
        self._response += parts

    def _end_request(self) -> None:
        if self._request:
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
                yield FilePart(_binary(block))
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
            case "gemini":
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
        elif place != "text":
            self._for_call = raw
        elif isinstance(last, TextPart) and last.provider_details is None:
            signed = self._signed(raw)
            last.provider_name, last.provider_details = signed["provider_name"], signed["provider_details"]
        else:
            self._for_text = raw

    def _signed(self, raw: str | None) -> dict[str, Any]:
        if raw is None:
            return {}
        return {"provider_name": self._system, "provider_details": {"thought_signature": raw}}

    def _call(self, step: _AnyCall, name: str, arguments: dict[str, Any]) -> None:
        own = unwrapped(step.signature)
        raw = own.raw if own is not None and own.kind in ("", self._kind) else self._for_call
        self._for_call = None
        details: dict[str, Any] = {}
        if raw is not None and self._kind == "gemini" and _is_base64(raw):
            details = self._signed(raw)
        elif raw is not None and self._kind == "openai":
            details = {"provider_name": self._system, "provider_details": {"extra_content": json.loads(raw)}}
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


def _prompt(content: Sequence[Content]) -> str | list[UserContent]:
    blocks: list[UserContent] = [
        block.text if isinstance(block, TextContent) else _binary(block)
        for block in content
        if not isinstance(block, TextContent) or block.text
    ]
    if not blocks:
        return _NOTHING
    only = blocks[0]
    return only if len(blocks) == 1 and isinstance(only, str) else blocks


def _returned(result: str | dict[str, Any] | Sequence[Content]) -> Any:
    if isinstance(result, str | dict):
        return result
    blocks = [block.text if isinstance(block, TextContent) else _binary(block) for block in result]
    texts = [block for block in blocks if isinstance(block, str)]
    return "".join(texts) if len(texts) == len(blocks) else blocks


def _binary(block: Content) -> BinaryContent:
    data = None if isinstance(block, TextContent) else block.content
    if isinstance(block, TextContent) or data is None or block.mime_type is None:
        raise ModelError("models take media as data, not by address", code="model_bad_request")
    return BinaryContent(data, media_type=block.mime_type)


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
