"""How a conversation is shortened so that its model can still read it. Pure: steps in, steps out; the log stays whole.

Cheapest first. Of old results only the ends are kept, of old media nothing; if that is not enough, what is old is
summarised. What stays as it is: the latest turns, and the last thing that the user said. A call never goes without its
result, and no thought without what it led to: a conversation is only cut where a turn begins.

Between two shortenings the conversation only grows at its end, so that providers can reuse what they cached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from orchestrator.models.port import Correction
from orchestrator.tools.forms import AnyCall, AnyResult, arguments_of, tool_of
from orchestrator.wire.base import encode_json
from orchestrator.wire.content import Content, TextContent
from orchestrator.wire.steps import (
    GoogleSearchResult,
    McpServerToolCall,
    McpServerToolResult,
    ModelOutput,
    Step,
    Thought,
    ToolSearchCall,
    ToolSearchResult,
    UrlContextResult,
    UserInput,
)

_BYTES_PER_TOKEN = 4
"""Of UTF-8: the usual rule for English, and near the truth for other scripts, whose characters have more bytes."""
_STEP_TOKENS = 8
_MEDIUM_TOKENS = 1_500
"""About what providers count for an image, or a page of a document."""
_KEPT_SHARE = 0.3
"""Of the limit: the latest turns, which stay as they are."""
_ELIDED_SHARE = 0.6
"""If eliding brings a conversation below this much of its limit, nothing needs to be summarised yet."""
_RESULT_SHARE = 0.25
"""Of the limit: the most that one result may take, old or new."""
_SUMMARY_SHARE = 0.1
_GAIN_SHARE = 0.05
"""Of the limit: less is not worth a summary, which could be wanted again after every turn."""
_OLD_RESULT_BYTES = 400
_MAX_MEDIA = 40
"""Providers limit how many images a request may have; of more than this, half are left out."""
_PASSAGE_BYTES = 8_000
"""What a summariser reads of one step."""

Result = AnyResult | McpServerToolResult | ToolSearchResult
Call = AnyCall | McpServerToolCall | ToolSearchCall


class Summary(Correction):
    """Said by the server in place of what came before."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """How far a conversation is shortened. Places count its steps from the first."""

    begin: int = 0
    """What comes before is told by the summary."""
    elided: int = 0
    """Of results before this only the ends are told, and no media."""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a conversation that is too long."""

    shortened: Shortened
    """With the summary as it was."""
    to_summarise: tuple[Step, ...] = ()
    """The steps that its new summary has to tell, beside the earlier one; none: it stays."""


def tokens_of(steps: Sequence[Step]) -> int:
    """About how many tokens a model reads in them."""
    return sum(map(_step_tokens, steps))


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return -(-_size(text) // _BYTES_PER_TOKEN)


def media_of(steps: Sequence[Step]) -> int:
    """How many images and other media are in them."""
    return sum(not isinstance(block, TextContent) for step in steps for block in _blocks(step))


def told(steps: Sequence[Step], how: Shortened, limit_tokens: int) -> list[Step]:
    """The conversation as its model reads it."""
    most_bytes = int(limit_tokens * _RESULT_SHARE) * _BYTES_PER_TOKEN
    last_input = _last_input(steps)
    read: list[Step] = []
    if how.summary:
        read.append(Summary(content=[TextContent(text=f"[Summary of the conversation so far]\n{how.summary}")]))
    if how.begin and last_input is not None and last_input < how.begin:
        read.append(steps[last_input])
    for at, step in enumerate(steps[how.begin :], how.begin):
        if at < how.elided and at != last_input:
            read.append(_without_media(_with_ends(step, min(_OLD_RESULT_BYTES, most_bytes))))
        else:
            read.append(_with_ends(step, most_bytes))
    return read


def is_too_long(read: Sequence[Step], tokens: float, limit_tokens: int) -> bool:
    """Whether a conversation of about so many `tokens`, as its model would read it, must be shortened."""
    return tokens > limit_tokens or media_of(read) > _MAX_MEDIA


def plan(steps: Sequence[Step], how: Shortened, limit_tokens: int, fixed_tokens: int = 0, scale: float = 1.0) -> Plan:
    """How a conversation that is too long is to be shortened further; as it is if that would not gain much.

    `fixed_tokens` are what a request takes beside its steps. `scale` is by how much real tokens exceed what is reckoned
    here.
    """

    def size(shorter: Shortened) -> float:
        return (tokens_of(told(steps, shorter, limit_tokens)) + fixed_tokens) * scale

    before = size(how)
    kept = _kept_from(steps, how, int(limit_tokens * _KEPT_SHARE / scale), limit_tokens)
    elided = replace(how, elided=max(kept, how.elided))
    after = size(elided)
    gains = before - after >= limit_tokens * _GAIN_SHARE
    has_many_media = media_of(told(steps, how, limit_tokens)) > _MAX_MEDIA
    if after <= limit_tokens * _ELIDED_SHARE and elided != how and (gains or has_many_media):
        return Plan(elided)
    summarised = replace(elided, begin=max(kept, how.begin), summary="")
    after = size(summarised) + limit_tokens * _SUMMARY_SHARE
    if before - after < limit_tokens * _GAIN_SHARE:
        return Plan(how)
    to_tell = told(steps[: summarised.begin], replace(elided, summary=""), limit_tokens)
    return Plan(replace(summarised, summary=how.summary), tuple(to_tell))


def passages(steps: Sequence[Step], limit_tokens: int) -> list[str]:
    """The steps as texts for somebody who is to summarise them, each text of at most so many tokens."""
    pieces: list[list[str]] = [[]]
    room_bytes = limit_bytes = limit_tokens * _BYTES_PER_TOKEN
    for step in steps:
        text = _ends(_written(step), min(_PASSAGE_BYTES, limit_bytes))
        if pieces[-1] and _size(text) > room_bytes:
            pieces.append([])
            room_bytes = limit_bytes
        pieces[-1].append(text)
        room_bytes -= _size(text) + 2
    return ["\n\n".join(piece) for piece in pieces if piece]


def bounded_summary(text: str, limit_tokens: int) -> str:
    """A summary as long as one may be."""
    return _ends(text.strip(), int(limit_tokens * _SUMMARY_SHARE) * _BYTES_PER_TOKEN)


# where to cut


def _kept_from(steps: Sequence[Step], how: Shortened, room_tokens: int, limit_tokens: int) -> int:
    """Where the latest turns begin that stay as they are: as many as have room, and at least the last one."""
    as_read = [_with_ends(step, int(limit_tokens * _RESULT_SHARE) * _BYTES_PER_TOKEN) for step in steps[how.begin :]]
    sizes = list(accumulate(map(_step_tokens, reversed(as_read))))
    media = list(accumulate(media_of([step]) for step in reversed(as_read)))
    kept = len(steps)
    for at in _beginnings(steps, how.begin):
        place = len(steps) - at - 1
        has_room = sizes[place] <= room_tokens and media[place] <= _MAX_MEDIA // 2
        if kept < len(steps) and not has_room:
            break
        kept = at
    return kept if kept < len(steps) else how.begin


def _beginnings(steps: Sequence[Step], begin: int) -> Iterator[int]:
    """Where turns begin, the latest first: at what a user says, or a model after something else."""
    for at in range(len(steps) - 1, begin, -1):
        step, before = steps[at], steps[at - 1]
        if isinstance(step, Result):
            continue
        is_beginning = isinstance(step, UserInput) or isinstance(before, Result | UserInput)
        if is_beginning and not _is_amid_results(steps, at):
            yield at


def _is_amid_results(steps: Sequence[Step], at: int) -> bool:
    """Whether a call from before has its result only afterwards."""
    after = {step.call_id for step in steps[at:] if isinstance(step, Result)}
    if not after:
        return False
    return any(isinstance(step, Call) and step.id in after for step in steps[:at])


def _last_input(steps: Sequence[Step]) -> int | None:
    """Where the user last said something; a correction is the server's word."""
    places = range(len(steps) - 1, -1, -1)
    return next((at for at in places if type(steps[at]) is UserInput), None)


# sizes


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _step_tokens(step: Step) -> int:
    tokens = _STEP_TOKENS + sum(
        text_tokens(block.text) if isinstance(block, TextContent) else _MEDIUM_TOKENS for block in _blocks(step)
    )
    return tokens + -(-len(_data(step)) // _BYTES_PER_TOKEN)


def _blocks(step: Step) -> Sequence[Content]:
    """The content blocks of a step."""
    match step:
        case UserInput() | ModelOutput():
            return step.content
        case Thought():
            return step.summary or ()
    result = getattr(step, "result", None)
    if isinstance(result, str):
        return (TextContent(text=result),)
    if isinstance(result, list) and not isinstance(step, GoogleSearchResult | UrlContextResult | ToolSearchResult):
        return result
    return ()


def _data(step: Step) -> bytes:
    """What a step says that is no content: arguments, findings, signatures."""
    if isinstance(step, AnyCall):
        return encode_json(arguments_of(step))
    if isinstance(step, McpServerToolCall):
        return encode_json(step.arguments)
    if isinstance(step, GoogleSearchResult | UrlContextResult | ToolSearchResult):
        return encode_json([each.model_dump(mode="json", exclude_none=True) for each in step.result])
    if isinstance(step, Result) and isinstance(step.result, dict):
        return encode_json(step.result)
    if isinstance(step, Thought) and step.signature:
        return step.signature.encode("utf-8", "surrogatepass")
    return b""


# shorter steps


def _with_ends(step: Step, most_bytes: int) -> Step:
    """A result with its beginning and end, if it is longer; any other step as it is."""
    if not isinstance(step, Result):
        return step
    if isinstance(step, GoogleSearchResult | UrlContextResult | ToolSearchResult):
        return step
    result: Any = step.result
    if isinstance(result, dict):
        text = encode_json(result).decode()
        return step if _size(text) <= most_bytes else step.model_copy(update={"result": _ends(text, most_bytes)})
    if isinstance(result, str):
        shorter = _ends(result, most_bytes)
        return step if shorter is result else step.model_copy(update={"result": shorter})
    blocks: list[Content] = []
    room_bytes = most_bytes
    for block in result:
        if not isinstance(block, TextContent):
            blocks.append(block)
            continue
        text = _ends(block.text, max(room_bytes, 0))
        room_bytes -= _size(text)
        blocks.append(block if text is block.text else TextContent(text=text))
    return step if blocks == result else step.model_copy(update={"result": blocks})


def _without_media(step: Step) -> Step:
    if not isinstance(step, UserInput | ModelOutput | Result):
        return step
    blocks = _blocks(step)
    if all(isinstance(block, TextContent) for block in blocks):
        return step
    field = "content" if isinstance(step, UserInput | ModelOutput) else "result"
    shorter = [
        block if isinstance(block, TextContent) else TextContent(text=f"[{block.type} left out]") for block in blocks
    ]
    return step.model_copy(update={field: shorter})


def _ends(text: str, most_bytes: int) -> str:
    """The text itself, or its beginning and end around a line that says what is missing."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= most_bytes:
        return text
    half = most_bytes // 2
    head = data[:half].decode("utf-8", "ignore")
    tail = data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n[… {len(text) - len(head) - len(tail)} characters left out …]\n{tail}"


# for the summariser


def _written(step: Step) -> str:
    text = "\n".join(block.text if isinstance(block, TextContent) else f"[{block.type}]" for block in _blocks(step))
    match step:
        case Summary():
            return text
        case UserInput():
            return f"[user]\n{text}"
        case ModelOutput():
            return f"[agent]\n{text}"
        case Thought():
            return f"[agent thinks]\n{text}"
        case McpServerToolCall():
            return f"[call of {step.name}]\n{_data(step).decode()}"
        case ToolSearchCall():
            return f"[call of tool_search]\n{encode_json(step.arguments.model_dump()).decode()}"
    if isinstance(step, AnyCall):
        return f"[call of {tool_of(step)}]\n{_data(step).decode()}"
    verdict = "error" if getattr(step, "is_error", False) else "result"
    return f"[{verdict}]\n{text or _data(step).decode()}"
