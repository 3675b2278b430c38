"""Model providers on loopback: real HTTP, real server-sent events, in the formats of Gemini, OpenAI chat and Anthropic.

The name of the model that is asked for decides what comes: `replies` has an answer or a fault for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INPUT, CACHED, OUTPUT, THOUGHT = 100, 40, 30, 12
"""Tokens that every answer is said to have taken; input with what was cached, output without thoughts."""


@dataclass(frozen=True)
class Answer:
    """What a model says: thoughts, then text in pieces, then calls, whose arguments come in pieces where they can."""

    thought: str = ""
    signature: str = ""
    """Of the thought (Anthropic), or of the first call or the text (Gemini); base64."""
    redacted: str = ""
    text: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    """Base64 of each PNG, and what signed it (Gemini); not of Anthropic, whose models give none."""
    after: tuple[str, ...] = ()
    """Text behind the images."""
    sound: tuple[tuple[str, str], ...] = ()
    """Pieces of a transcript and base64 of the samples (OpenAI)."""
    details: tuple[dict[str, Any], ...] = ()
    """Thoughts as OpenRouter has them."""
    calls: tuple[tuple[str, str], ...] = ()
    """Name and JSON text of the arguments."""
    stop: str = ""
    """The format's own word for why it ended; the usual one if empty."""
    usage: Mapping[str, Any] | None = None
    """The format's own words for what it took; the usual ones if None, and nothing is said if empty."""


@dataclass(frozen=True)
class Fault:
    """An answer with an HTTP error; the three formats word it differently."""

    status: int
    code: str
    message: str = "It did not work."
    retry_after: str = ""


class RateLimited(Fault):
    def __init__(self, retry_after: str = "") -> None:
        super().__init__(429, "rate_limit_exceeded", "Slow down.", retry_after)


class Broken(Fault):
    def __init__(self) -> None:
        super().__init__(500, "internal_error", "Oops.")


class Overloaded(Fault):
    def __init__(self) -> None:
        super().__init__(529, "overloaded_error", "Overloaded.")


class WrongKey(Fault):
    """Says the key in its message, as careless gateways do."""

    def __init__(self, key: str) -> None:
        super().__init__(401, "invalid_api_key", f"Incorrect key {key} provided.")


class TooLong(Fault):
    def __init__(self) -> None:
        message = "prompt is too long: 300000 tokens > 200000 maximum context length"
        super().__init__(400, "context_length_exceeded", message)


class BadRequest(Fault):
    def __init__(self) -> None:
        super().__init__(400, "invalid_request_error", "'temperature' is too hot.")


@dataclass(frozen=True)
class Cut:
    """The connection is lost after so many frames of the answer."""

    answer: Answer
    frames: int


@dataclass(frozen=True)
class Ended:
    """The stream ends in good order after so many frames, but the answer has no end."""

    answer: Answer
    frames: int


@dataclass(frozen=True)
class Slow:
    """The answer begins after so long."""

    seconds: float


@dataclass(frozen=True)
class Garbage:
    """Frames that are no JSON."""


class Turns:
    """Another reply to each call."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)

    def next(self) -> Reply:
        return self._replies.pop(0)


Reply = Answer | Fault | Cut | Ended | Slow | Garbage


class ModelServer(ABC):
    """One provider. `url` is what `base_url` must be; `requests` is what was asked, as JSON."""

    kind = ""

    def __init__(self, replies: Mapping[str, Reply | Turns]) -> None:
        self.replies = dict(replies)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self.is_strict = True
        """Whether `problems` are refused."""
        self.may_go_on: asyncio.Event | None = None
        """Where a test sets one, an answer stops before its last frame until the event is set."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._head(reader):
                path, headers = head
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))))
                self.headers.append(headers)
                self.requests.append(body)
                reply = self.replies[self.model(path, body)]
                reply = reply.next() if isinstance(reply, Turns) else reply
                if self.is_strict and (problem := next(self.problems(body), "")):
                    reply = Fault(400, "invalid_request_error", problem)
                if not await self._reply(reply, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _head(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
        line = await reader.readline()
        if not line:
            return None
        headers = {}
        while (header := (await reader.readline()).decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        return line.split()[1].decode(), headers

    async def _reply(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if isinstance(reply, Fault):
            content = json.dumps(self.error(reply)).encode()
            again = f"retry-after: {reply.retry_after}\r\n" if reply.retry_after else ""
            head = f"HTTP/1.1 {reply.status} X\r\ncontent-type: application/json\r\n{again}"
            writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
            return True
        if isinstance(reply, Slow):
            await asyncio.sleep(reply.seconds)
            reply = Answer(text=("late",))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if isinstance(reply, Garbage):
            frames = ["data: {this is no JSON\n\n"]
        else:
            answer = reply if isinstance(reply, Answer) else reply.answer
            frames = list(self.frames(answer))
            if not isinstance(reply, Answer):
                frames = frames[: reply.frames]
        for frame in frames:
            if self.may_go_on is not None and frame is frames[-1]:
                await self.may_go_on.wait()
            content = frame.encode()
            writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        if isinstance(reply, Cut):
            await asyncio.sleep(0.05)
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    @abstractmethod
    def model(self, path: str, body: dict[str, Any]) -> str: ...

    @abstractmethod
    def frames(self, answer: Answer) -> Iterator[str]: ...

    @abstractmethod
    def problems(self, body: dict[str, Any]) -> Iterator[str]:
        """Why the real one would refuse the request with 400, as far as these tests can send such."""

    @abstractmethod
    def error(self, fault: Fault) -> Any: ...


def _data(body: Any) -> str:
    return f"data: {json.dumps(body)}\n\n"


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _halves(text: str) -> Iterator[str]:
    yield text[: len(text) // 2]
    yield text[len(text) // 2 :]


class OpenAIServer(ModelServer):
    kind = "openai"

    @property
    def url(self) -> str:
        return super().url + "/v1"

    def model(self, path: str, body: dict[str, Any]) -> str:
        assert path == "/v1/chat/completions"
        return str(body["model"])

    def frames(self, answer: Answer) -> Iterator[str]:
        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            known = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            return _data({**known, "choices": [choice], **more})

        if answer.thought:
            for piece in _halves(answer.thought):
                yield chunk({"role": "assistant", "reasoning_content": piece})
        for detail in answer.details:
            yield chunk({"role": "assistant", "content": "", "reasoning_details": [detail]})
        for piece in answer.text:
            yield chunk({"role": "assistant", "content": piece})
        for image, _ in answer.images:
            url = {"url": f"data:image/png;base64,{image}"}
            yield chunk({"role": "assistant", "content": "", "images": [{"type": "image_url", "image_url": url}]})
        for piece in answer.after:
            yield chunk({"content": piece})
        for transcript, data in answer.sound:
            yield chunk({"audio": {"id": "audio_1", "transcript": transcript}})
            yield chunk({"audio": {"data": data}})
        for index, (name, _) in enumerate(answer.calls):
            function = {"name": name, "arguments": ""}
            yield chunk({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function", "function": function}]})
        # All calls grow side by side: the format allows it.
        for half in range(2):
            for index, (_, arguments) in enumerate(answer.calls):
                piece = list(_halves(arguments))[half]
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, answer.stop or ("tool_calls" if answer.calls else "stop"))
        usage = {
            "prompt_tokens": INPUT,
            "completion_tokens": OUTPUT + THOUGHT,
            "total_tokens": INPUT + OUTPUT + THOUGHT,
            "prompt_tokens_details": {"cached_tokens": CACHED},
            "completion_tokens_details": {"reasoning_tokens": THOUGHT},
        }
        if answer.usage != {}:
            yield chunk({}, None, choices=[], usage=answer.usage or usage)
        yield "data: [DONE]\n\n"

    def problems(self, body: dict[str, Any]) -> Iterator[str]:
        if not body.get("tools") and ("tools" in body or "tool_choice" in body):
            yield "'tool_choice' is only allowed when 'tools' are specified."
        open_ids: set[str] = set()
        for message in body["messages"]:
            if message["role"] == "tool":
                if message["tool_call_id"] not in open_ids:
                    yield "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
                open_ids.discard(message["tool_call_id"])
                continue
            if open_ids:
                yield f"tool_call_ids did not have response messages: {sorted(open_ids)}"
            for call in message.get("tool_calls") or ():
                open_ids.add(call["id"])
                if not _NAME.fullmatch(call["function"]["name"]):
                    yield "Invalid 'function.name': string does not match pattern."
                if not isinstance(json.loads(call["function"]["arguments"]), dict):
                    yield "Invalid 'function.arguments'."
            if message.get("content") is None and not message.get("tool_calls"):
                yield "Invalid value for 'content': expected a string, got null."
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                if part["type"] not in ("text", "image_url", "input_audio", "file"):
                    yield f"Invalid value: {part['type']!r}."

    def error(self, fault: Fault) -> Any:
        return {"error": {"message": fault.message, "type": "error", "code": fault.code, "param": None}}


class AnthropicServer(ModelServer):
    kind = "anthropic"

    def model(self, path: str, body: dict[str, Any]) -> str:
        assert path.startswith("/v1/messages")
        return str(body["model"])

    def frames(self, answer: Answer) -> Iterator[str]:
        def event(kind: str, **fields: Any) -> str:
            return f"event: {kind}\n" + _data({"type": kind, **fields})

        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        if answer.thought:
            deltas: list[dict[str, Any]] = [
                {"type": "thinking_delta", "thinking": piece} for piece in _halves(answer.thought)
            ]
            deltas.append({"type": "signature_delta", "signature": answer.signature})
            blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
        if answer.redacted:
            blocks.append(({"type": "redacted_thinking", "data": answer.redacted}, []))
        if answer.text:
            blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": t} for t in answer.text]))
        for index, (name, arguments) in enumerate(answer.calls):
            shell = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
            blocks.append((shell, [{"type": "input_json_delta", "partial_json": p} for p in _halves(arguments)]))
        usage = {
            "input_tokens": INPUT - CACHED,
            "cache_read_input_tokens": CACHED,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        }
        last = {"output_tokens": OUTPUT}
        if answer.usage is not None:
            usage = last = dict(answer.usage)
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
        yield event("message_start", message={**message, "stop_reason": None, "stop_sequence": None, "usage": usage})
        for index, (shell, deltas) in enumerate(blocks):
            yield event("content_block_start", index=index, content_block=shell)
            for delta in deltas:
                yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        stop = answer.stop or ("tool_use" if answer.calls else "end_turn")
        yield event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=last)
        yield event("message_stop")

    def problems(self, body: dict[str, Any]) -> Iterator[str]:
        open_ids: set[str] = set()
        for message in body["messages"]:
            blocks = message["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            if any(block["type"] in ("tool_use", "tool_result") for block in blocks) and not body.get("tools"):
                yield "Requests which have `tool_use` or `tool_result` blocks in `messages` must define tools."
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if set(results) != open_ids or [block["type"] for block in blocks[: len(results)]].count("text"):
                yield f"`tool_use` ids were found without `tool_result` blocks immediately after: {sorted(open_ids)}"
            open_ids = {block["id"] for block in blocks if block["type"] == "tool_use"}
            for block in blocks:
                if block["type"] == "text" and not block["text"]:
                    yield "text content blocks must be non-empty"
                if block["type"] == "tool_use" and not (_NAME.fullmatch(block["name"]) and block["input"] is not None):
                    yield "tool_use: name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"
                if message["role"] == "assistant" and block["type"] in ("image", "document"):
                    yield "assistant messages cannot have media"
        if body["messages"][0]["role"] != "user":
            yield 'messages: first message must use the "user" role'

    def error(self, fault: Fault) -> Any:
        kinds = {429: "rate_limit_error", 401: "authentication_error", 400: "invalid_request_error"}
        kinds |= {500: "api_error", 529: "overloaded_error"}
        return {"type": "error", "error": {"type": kinds[fault.status], "message": fault.message}}


class GeminiServer(ModelServer):
    kind = "gemini"

    def model(self, path: str, body: dict[str, Any]) -> str:
        name, _, method = path.partition("/models/")[2].partition(":")
        assert method.startswith("streamGenerateContent")
        return name

    def frames(self, answer: Answer) -> Iterator[str]:
        def chunk(*parts: dict[str, Any], finish: str = "", **more: Any) -> str:
            candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
            if finish:
                candidate["finishReason"] = finish
            return _data({"candidates": [candidate], "responseId": "r1", "modelVersion": "m", **more})

        for piece in _halves(answer.thought) if answer.thought else ():
            yield chunk({"text": piece, "thought": True})
        for piece in answer.text:
            yield chunk({"text": piece})
        for image, signature in answer.images:
            signed = {"thoughtSignature": signature} if signature else {}
            yield chunk({"inlineData": {"mimeType": "image/png", "data": image}, **signed})
        for piece in answer.after:
            yield chunk({"text": piece})
        for index, (name, arguments) in enumerate(answer.calls):
            signed = {"thoughtSignature": answer.signature} if answer.signature and not index else {}
            try:
                read = dict(json.loads(arguments))
            except (TypeError, ValueError):
                yield chunk(finish="MALFORMED_FUNCTION_CALL")  # it looks at its own calls, and tells no such one
                return
            yield chunk({"functionCall": {"name": name, "args": read}, **signed})
        if answer.signature and not answer.calls:
            yield chunk({"text": "", "thoughtSignature": answer.signature})
        usage = {
            "promptTokenCount": INPUT,
            "cachedContentTokenCount": CACHED,
            "candidatesTokenCount": OUTPUT,
            "thoughtsTokenCount": THOUGHT,
            "totalTokenCount": INPUT + OUTPUT + THOUGHT,
        }
        told = usage if answer.usage is None else answer.usage
        yield chunk(finish=answer.stop or "STOP", **({"usageMetadata": told} if told else {}))

    def problems(self, body: dict[str, Any]) -> Iterator[str]:
        if "toolConfig" in body and not any("functionDeclarations" in tool for tool in body.get("tools") or ()):
            yield "Function calling config is set without function_declarations."
        calls = 0
        for content in body["contents"]:
            results = sum("functionResponse" in part for part in content["parts"])
            if results != calls:
                yield "The number of function response parts must equal the number of function call parts of the turn."
            calls = sum("functionCall" in part for part in content["parts"])
            if not content["parts"]:
                yield "contents.parts must not be empty."

    def error(self, fault: Fault) -> Any:
        words = {429: "RESOURCE_EXHAUSTED", 401: "UNAUTHENTICATED", 400: "INVALID_ARGUMENT", 500: "INTERNAL"}
        word = words.get(fault.status, "UNAVAILABLE")
        message = fault.message
        if isinstance(fault, TooLong):
            message = "The input token count (300000) exceeds the maximum number of tokens allowed (200000)."
        return {"error": {"code": fault.status, "message": message, "status": word}}


SERVERS = {server.kind: server for server in (GeminiServer, OpenAIServer, AnthropicServer)}
