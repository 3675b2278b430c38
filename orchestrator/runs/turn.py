"""One turn: a model call whose events become steps of the log as they come."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from abc import ABC, abstractmethod
from dataclasses import replace

import structlog

from orchestrator import ids, moments
from orchestrator.errors import ModelError
from orchestrator.models.port import (
    CallDelta,
    CallStart,
    MediaOutput,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    ThoughtSignature,
    TurnEnd,
)
from orchestrator.runs.loose_ends import break_turn
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.retries import attempts
from orchestrator.runs.usage import counts_of, wire_usage
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.forms import Form, shows
from orchestrator.tools.mediator import ToolCall
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire import events
from orchestrator.wire.content import TextContent
from orchestrator.wire.interactions import Usage
from orchestrator.wire.steps import ModelOutput

log = structlog.get_logger(__name__)


class Turn:
    """Plays one model call into the log and gathers the tool calls it makes."""

    def __init__(
        self,
        recorder: Recorder,
        toolbox: Toolbox,
        *,
        metrics: Metrics,
        holds_answer: bool = False,
        hides_thoughts: bool = False,
    ) -> None:
        """`holds_answer`: text is shown when a call follows it; the last text is left to whoever looks at its form.
        `hides_thoughts`: of thoughts only what the provider needs again is kept.
        """
        self._recorder = recorder
        self._toolbox = toolbox
        self._metrics = metrics
        self._holds_answer = holds_answer
        self._hides_thoughts = hides_thoughts
        self._held: list[str] = []
        self._open: _OpenStep | None = None
        self._calls: list[ToolCall] = []
        self._has_shown = False
        self._reckoned_tokens = 0

    async def play(self, provider: ModelProvider, request: ModelRequest, *, reckoned_tokens: int = 0) -> list[ToolCall]:
        """The calls that the model made, in order; none if it is done. Everything is durable on return.

        `reckoned_tokens`: what the request is thought to have, to be compared with what the provider counts.

        A failure that may pass is tried again, as `runs.retries` has it. What was shown by then stays, as steps that
        are marked, and the model is asked as if it had said nothing.

        Raises:
            ModelError: the provider failed for good.
        """
        self._reckoned_tokens = reckoned_tokens
        await attempts(functools.partial(self._attempt, provider, request), self._note_failure, self._break_off)
        await self._recorder.flush()
        moments.passed("turn.stored")
        return self._calls

    def close(self, step_usage: Usage | None = None) -> None:
        """Ends a step that was left open: the turn is over, the run was cancelled, or the model broke off."""
        if self._open is not None:
            self._open.close(step_usage)
            self._open = None

    async def _attempt(self, provider: ModelProvider, request: ModelRequest, number: int) -> None:
        self._held.clear()
        reckoned = {"reckoned_tokens": self._reckoned_tokens} if self._reckoned_tokens else {}
        self._recorder.note("turn.started", turn=request.turn, attempt=number, model=request.model, **reckoned)
        with self._metrics.model_call(request.model) as call:
            async with contextlib.aclosing(provider.stream(replace(request, attempt=number))) as stream:
                async for event in stream:
                    if isinstance(event, TurnEnd):
                        self._end(event)
                        call.took(counts_of(event.usage), event.usage.cost_usd)
                        return
                    self._take(event)
                    await (self._recorder.flush() if isinstance(event, MediaOutput) else self._recorder.breathe())
                    # A model that has everything ready must not keep other runs and readers waiting.
                    await asyncio.sleep(0)
            raise ModelError("the model's answer broke off", code="model_stream_broken", retryable=True)

    def _end(self, event: TurnEnd) -> None:
        if self._calls:
            self._show_held()
        own = wire_usage(event.usage)
        self._recorder.usage = self._recorder.usage.plus(own)
        # Providers tell what a whole call took: the last of its steps has it.
        untold = own if self._recorder.untold is None else self._recorder.untold.plus(own)
        left = {} if self._open is not None else {"untold": untold.model_dump(exclude_defaults=True)}
        self.close(untold)
        usage = self._recorder.usage.model_dump(exclude_defaults=True)
        # A later holder of the run must see what the model sent, also where a step cannot show it.
        held = {"held": "".join(self._held)} if self._holds_answer and not self._calls else {}
        cut = {"is_cut": True} if event.is_cut else {}
        unshown = {
            call.id: call.arguments
            for call in self._calls
            if not shows(self._toolbox.form_of(call.name), call.arguments)
        }
        calls = [call.id for call in self._calls]
        counted = {"counted_tokens": own.total_input_tokens} if own.total_input_tokens else {}
        self._recorder.note("turn.ended", calls=calls, usage=usage, unshown=unshown, **left, **held, **cut, **counted)

    def _show_held(self) -> None:
        """There is a call beside it, so it is not the answer."""
        if text := "".join(self._held):
            self.close()
            self._recorder.whole(ModelOutput(content=[TextContent(text=text)]))
        self._held.clear()

    def _take(self, event: ModelEvent) -> None:
        if isinstance(event, TextDelta) and self._holds_answer:
            self.close()
            self._held.append(event.text)
            return
        if isinstance(event, ThoughtDelta) and self._hides_thoughts:
            return
        if not self._has_shown:
            self._has_shown = True
            moments.passed("turn.shown")
        if isinstance(event, CallStart):
            self._show_held()
            self.close()
            form = self._toolbox.form_of(event.name)
            self._open = _OpenCall(self._recorder, event) if form is None else _OpenWholeCall(self._recorder, form)
            self._calls.append(ToolCall(self._open.call_id, event.name, ""))
        elif isinstance(event, CallDelta):
            if self._open is None or not self._open.call_id:
                raise ModelError("the model sent arguments without a call", code="model_bad_stream")
            self._open.add(event)
            call = self._calls[-1]
            self._calls[-1] = ToolCall(call.id, call.name, call.arguments + event.arguments)
        elif self._open is None or not self._open.fits(event):
            self.close()
            is_said = isinstance(event, TextDelta | MediaOutput)
            self._open = _OpenOutput(self._recorder) if is_said else _OpenThought(self._recorder)
            self._open.add(event)
        else:
            self._open.add(event)

    def _break_off(self) -> None:
        if self._has_shown:
            self._open, self._calls, self._has_shown = None, [], False
            break_turn(self._recorder)

    def _note_failure(self, error: ModelError, number: int) -> None:
        asked = {} if error.retry_after_s is None else {"retry_after_s": error.retry_after_s}
        self._recorder.note("turn.failed", code=error.code, message=error.message, **asked)
        log.warning("model_call_failed", code=error.code, attempt=number + 1, **asked)


class _OpenStep(ABC):
    """A step that is being streamed."""

    call_id = ""

    def __init__(self, recorder: Recorder, shell: dict[str, object]) -> None:
        self._recorder = recorder
        self._index = recorder.begin(shell)

    def fits(self, _event: ModelEvent) -> bool:
        """Whether the event goes on with this step."""
        return False

    @abstractmethod
    def add(self, event: ModelEvent) -> None:
        """Queues a piece of it."""

    def close(self, step_usage: Usage | None = None) -> None:
        self._recorder.end(self._index, step_usage)


class _OpenOutput(_OpenStep):
    """Texts and media, in the order in which they come."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder, {"type": "model_output"})

    def fits(self, event: ModelEvent) -> bool:
        return isinstance(event, TextDelta | MediaOutput)

    def add(self, event: ModelEvent) -> None:
        if isinstance(event, TextDelta):
            self._recorder.delta(self._index, events.TextDelta(text=event.text))
        elif isinstance(event, MediaOutput):
            self._recorder.delta(self._index, event.content)


class _OpenThought(_OpenStep):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder, {"type": "thought"})
        self._is_signed = False

    def fits(self, event: ModelEvent) -> bool:
        return isinstance(event, ThoughtDelta | ThoughtSignature) and not self._is_signed

    def add(self, event: ModelEvent) -> None:
        if isinstance(event, ThoughtSignature):
            self._is_signed = True
            self._recorder.delta(self._index, events.ThoughtSignatureDelta(signature=event.signature))
        elif isinstance(event, ThoughtDelta):
            self._recorder.delta(self._index, events.ThoughtSummaryDelta(content=TextContent(text=event.text)))


class _OpenCall(_OpenStep):
    """A function call: its arguments are streamed."""

    def __init__(self, recorder: Recorder, start: CallStart) -> None:
        self.call_id = ids.new_call_id()
        super().__init__(recorder, {"type": "function_call", "id": self.call_id, "name": start.name, "arguments": {}})

    def add(self, event: ModelEvent) -> None:
        if isinstance(event, CallDelta):
            self._recorder.delta(self._index, events.ArgumentsDelta(arguments=event.arguments))


class _OpenWholeCall(_OpenStep):
    """A call whose arguments the wire has as one object."""

    def __init__(self, recorder: Recorder, form: Form) -> None:
        self.call_id = ids.new_call_id()
        super().__init__(recorder, {"type": form.call_type, "id": self.call_id})
        self._form = form
        self._arguments: list[str] = []

    def add(self, event: ModelEvent) -> None:
        if isinstance(event, CallDelta):
            self._arguments.append(event.arguments)

    def close(self, step_usage: Usage | None = None) -> None:
        self._recorder.delta(self._index, self._form.delta(self._form.shown("".join(self._arguments))))
        super().close(step_usage)
