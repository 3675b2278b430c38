"""The scripted model: plays what the last user input asks for, without tokens, network or chance.

The embedded default, and the way to test agents. It reads its program from the last `user_input` (`models.script` has
the grammar) and knows which turn to play from the request alone, so that it keeps nothing between calls: crashes,
retries and compaction use up no turns.

* a `script` block: model call number n plays turn n; when the turns are used up it says "Script finished.";
* else every `python` and `bash` block runs as a `code_execution` call, one per turn, then the results are reported;
* else it says that no model is configured, and how to set one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from orchestrator.errors import ModelError
from orchestrator.models.media import block_of
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    Correction,
    MediaOutput,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    TurnEnd,
    Usage,
)
from orchestrator.models.script import ERROR_CODES, Call, CodeBlock, Turn, parse
from orchestrator.wire.content import Content, TextContent
from orchestrator.wire.generation import GenerationConfig
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
    UrlContextCall,
    UrlContextResult,
    UserInput,
)

FINISHED = "Script finished."
NO_MODEL = """\
No model is configured, so this is Corral's scripted model. It can do what you write out:

- put Python or shell code into fenced `python` or `bash` blocks, and it runs them in the sandbox, in order;
- put a fenced `script` block with `turns:` to play a whole agent run.

For a real model, set `model = "provider:model"` in corral.toml, or the variable CORRAL_MODEL, and start the server
again. `corral doctor` lists the providers that are there.
"""
_LAST = "{{last}}"
_CHARS_PER_TOKEN = 4
"""The usual rule of thumb for English: where a turn states no usage, tokens are characters by this, rounded up."""
_INLINE_PARSE_CHARS = 16_384
"""Longer programs are parsed in a thread, and at every turn anew: PyYAML takes about a millisecond per kilobyte."""
_REPORT_CHARS = 4_000
"""How much of one block's output the report repeats, from its end: results matter more than beginnings."""


_parse_short = lru_cache(maxsize=256)(parse)
"""The program of a short text, which every turn of a run asks for again. Keeps at most 4 MiB of texts."""


class ScriptedModel(ModelProvider):
    """Plays scripts. Has no state; one object serves all runs."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        if request.purpose == "compaction":
            turn = Turn(text=_summary(request.history))
        else:
            turn = await self._turn(request)
        if turn.sleep_ms:
            await asyncio.sleep(turn.sleep_ms / 1000)
        fault = turn.error if turn.error is not None and request.attempt < turn.error.times else None
        # A stream that breaks does so as late as it can: all is said, only the end is missing.
        if fault is not None and fault.code != "model_stream_broken":
            raise ModelError(fault.message, code=fault.code, retryable=ERROR_CODES[fault.code])
        turn, is_cut = _within(turn, request.generation)
        for event in _events(turn):
            # A turn in many chunks must not keep other tasks waiting.
            await asyncio.sleep(0)
            yield event
        if fault is not None:
            raise ModelError(fault.message, code=fault.code, retryable=ERROR_CODES[fault.code])
        yield TurnEnd(turn.usage if turn.usage is not None else _estimate(request, turn), is_cut)

    async def _turn(self, request: ModelRequest) -> Turn:
        begin = max((at for at, step in enumerate(request.history) if _is_program(step)), default=None)
        if begin is None:
            return Turn(text=NO_MODEL)
        text = _text(request.history[begin])
        if len(text) > _INLINE_PARSE_CHARS:
            program = await asyncio.to_thread(parse, text)
        else:
            program = _parse_short(text)
        if program.turns is not None:
            if request.turn >= len(program.turns):
                return Turn(text=FINISHED)
            return _filled(_asked_again(program.turns[request.turn], request.asked_again), request.history)
        if not program.blocks:
            return Turn(text=NO_MODEL)
        if request.turn < len(program.blocks):
            return Turn(calls=(_as_call(program.blocks[request.turn]),))
        return Turn(text=_report(program.blocks, request.history[begin + 1 :]))


def _asked_again(turn: Turn, times: int) -> Turn:
    if not times or not turn.again:
        return turn
    return replace(turn, text=turn.again[min(times, len(turn.again)) - 1])


def _within(turn: Turn, generation: GenerationConfig | None) -> tuple[Turn, bool]:
    """The turn as far as it may be said, and whether something is missing. Calls are whole or not made at all."""
    if generation is None:
        return turn, False
    text = turn.text
    for end in generation.stop_sequences or ():
        text = text.partition(end)[0] if end else text
    limit = generation.max_output_tokens
    if limit is not None and len(text) > limit * _CHARS_PER_TOKEN:
        return replace(turn, text=text[: limit * _CHARS_PER_TOKEN], image="", calls=()), True
    return replace(turn, text=text), False


def _events(turn: Turn) -> Iterator[ModelEvent]:
    for piece in _pieces(turn.thought, turn.chunk):
        yield ThoughtDelta(piece)
    for piece in _pieces(turn.text, turn.chunk):
        yield TextDelta(piece)
    if turn.image:
        yield MediaOutput(block_of(turn.image, "image/png"))
    for call in turn.calls:
        yield CallStart(call.tool)
        for piece in _pieces(_json(call.arguments), turn.chunk):
            yield CallDelta(piece)


def _pieces(text: str, chunk: int) -> Iterator[str]:
    size = chunk or len(text) or 1
    return (text[at : at + size] for at in range(0, len(text), size))


def _filled(turn: Turn, history: Sequence[Step]) -> Turn:
    """The turn with every `{{last}}` replaced. Looks for the latest result only if one is asked for."""
    if _LAST not in turn.text and not any(_mentions_last(call.arguments) for call in turn.calls):
        return turn
    last = next((_text(step) for step in reversed(history) if _is_result(step)), "")
    calls = tuple(Call(call.tool, _fill(call.arguments, last)) for call in turn.calls)
    return replace(turn, text=turn.text.replace(_LAST, last), calls=calls)


def _mentions_last(value: Any) -> bool:
    if isinstance(value, str):
        return _LAST in value
    if isinstance(value, dict):
        return any(_mentions_last(item) for item in value.values())
    return isinstance(value, list) and any(_mentions_last(item) for item in value)


def _fill(value: Any, last: str) -> Any:
    if isinstance(value, str):
        return value.replace(_LAST, last)
    if isinstance(value, dict):
        return {name: _fill(item, last) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, last) for item in value]
    return value


def _as_call(block: CodeBlock) -> Call:
    return Call("code_execution", {"language": block.language, "code": block.code})


def _report(blocks: Sequence[CodeBlock], since: Sequence[Step]) -> str:
    results = [step for step in since if isinstance(step, CodeExecutionResult | FunctionResult)]
    failed = sum(step.is_error for step in results)
    lines = [f"Ran {len(results)} of {len(blocks)} code blocks" + (f", {failed} failed." if failed else ".")]
    for number, (block, result) in enumerate(zip(blocks, results, strict=False), start=1):
        output = _text(result).rstrip("\n")
        dropped = len(output) - _REPORT_CHARS
        if dropped > 0:
            output = f"[{dropped} characters before this are left out]\n{output[-_REPORT_CHARS:]}"
        verdict = " (failed)" if result.is_error else ""
        lines.append(f"\n{number}. {block.language}{verdict}:")
        # The fence must be longer than any in the output, or the output could end it.
        fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", output)), default=2))
        lines.append(f"{fence}\n{output}\n{fence}" if output else "no output")
    return "\n".join(lines) + "\n"


def _summary(history: Sequence[Step]) -> str:
    calls = sum(isinstance(step, FunctionCall | CodeExecutionCall | McpServerToolCall) for step in history)
    return f"Earlier in this conversation: {len(history)} steps, {calls} of them tool calls."


def _estimate(request: ModelRequest, turn: Turn) -> Usage:
    read = len(request.system) + sum(len(_text(step)) for step in request.history)
    said = len(turn.text) + sum(len(call.tool) + len(_json(call.arguments)) for call in turn.calls)
    return Usage(input_tokens=_tokens(read), output_tokens=_tokens(said), thought_tokens=_tokens(len(turn.thought)))


def _tokens(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def _is_program(step: Step) -> bool:
    return isinstance(step, UserInput) and not isinstance(step, Correction)


def _is_result(step: Step) -> bool:
    return isinstance(
        step, CodeExecutionResult | FunctionResult | McpServerToolResult | GoogleSearchResult | UrlContextResult
    )


def _text(step: Step) -> str:
    """What a step says, as text; images count for nothing."""
    match step:
        case UserInput() | ModelOutput():
            return _joined(step.content, "\n")
        case Thought():
            return _joined(step.summary or [], "\n")
        case FunctionResult() | CodeExecutionResult() | McpServerToolResult():
            return _result_text(step.result)
        case CodeExecutionCall():
            return step.arguments.code
        case FunctionCall() | McpServerToolCall():
            return step.name + _json(step.arguments)
        case GoogleSearchCall() | UrlContextCall():
            return _json(step.arguments.model_dump())
        case GoogleSearchResult() | UrlContextResult():
            return _json([each.model_dump(exclude_none=True) for each in step.result])
    return ""


def _result_text(result: str | dict[str, Any] | Sequence[Content]) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        return _json(result)
    return _joined(result, "")


def _joined(content: Sequence[Content], between: str) -> str:
    return between.join(block.text for block in content if isinstance(block, TextContent))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
