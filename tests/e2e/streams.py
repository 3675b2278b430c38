"""Server-sent events as a client reads them, and the fold of a stream into an interaction. Written from the wire's
description alone, so that it can disagree with the server. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = "[DONE]"


def frames(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Event names and data of the frames in a stream, as they become complete. Each has one line of data."""
    buffer = b""
    for piece in pieces:
        buffer += piece
        while b"\n\n" in buffer:
            frame, _, buffer = buffer.partition(b"\n\n")
            lines = frame.decode().split("\n")
            if all(line.startswith(":") for line in lines):
                continue
            name, data = lines
            assert name.startswith("event: "), frame
            assert data.startswith("data: "), frame
            yield name[7:], data[6:]
    assert buffer == b"", f"the stream ends within a frame: {buffer!r}"


def events(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come; the end marker ends it."""
    for name, data in frames(pieces):
        if data == DONE:
            assert name == "done"
            return
        event = json.loads(data)
        assert event["event_type"] == name
        yield event


def fold(stream: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The steps of a stream and the frame of its interaction, as a client puts them together."""
    steps: dict[int, dict[str, Any]] = {}
    arguments: dict[int, str] = {}
    frame: dict[str, Any] = {}
    open_index: int | None = None
    for event in stream:
        match event["event_type"]:
            case "interaction.created" | "interaction.completed":
                frame |= event["interaction"]
            case "interaction.status_update":
                frame["status"] = event["status"]
            case "error":
                frame["errors"] = [event["error"]]
            case "step.start":
                assert open_index is None, "steps are interleaved"
                open_index = event["index"]
                assert open_index == len(steps), "indices have a gap"
                steps[open_index] = dict(event["step"])
            case "step.delta":
                assert event["index"] == open_index
                _add(steps[event["index"]], event["delta"], arguments, event["index"])
            case "step.stop":
                assert event["index"] == open_index
                if open_index in arguments:
                    steps[open_index]["arguments"] = json.loads(arguments[open_index])
                open_index = None
    assert open_index is None, "a step is left open"
    return list(steps.values()), frame


def _add(step: dict[str, Any], delta: dict[str, Any], arguments: dict[int, str], index: int) -> None:
    rest = {name: value for name, value in delta.items() if name != "type"}
    match delta["type"]:
        case "text":
            content = step.setdefault("content", [])
            if not content or content[-1]["type"] != "text":
                content.append({"type": "text", "text": ""})
            content[-1]["text"] += delta["text"]
        case "image":
            step.setdefault("content", []).append(delta)
        case "thought_summary":
            summary = step.setdefault("summary", [])
            if not summary:
                summary.append({"type": "text", "text": ""})
            summary[-1]["text"] += delta["content"]["text"]
        case "arguments_delta":
            arguments[index] = arguments.get(index, "") + delta["arguments"]
        case _:
            step.update(rest)
