"""The agent loop: model call, tool calls, model call …, until the model is done, a limit is reached or the client is to
answer a call of a function of its own.

Everything it needs to know where it stands is in the log, so it can begin at any point of it. A tool call is written
before it is executed, its result before the next model call (design 2, rule 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator import moments
from orchestrator.agents.guidance import Guidance
from orchestrator.agents.prompt import build_system
from orchestrator.agents.registry import AgentDefinition
from orchestrator.errors import ModelError
from orchestrator.models.port import ModelProvider, ModelRequest
from orchestrator.policy.limits import Limits
from orchestrator.runs.answers import answer_schema
from orchestrator.runs.context import History
from orchestrator.runs.ending import Ending
from orchestrator.runs.loose_ends import break_turn, close_steps
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.repeats import TOLD_FROM, failures_alike, told
from orchestrator.runs.turn import Turn
from orchestrator.runs.window import Window
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tools.forms import AnyResult, arguments_of, result_step, tool_of
from orchestrator.tools.mediator import Begun, Mediator, ToolCall
from orchestrator.tools.rendering import with_last_line
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.base import encode_json
from orchestrator.wire.interactions import InteractionError, InteractionRequest, Status

_BAD_ANSWER = "answer_not_valid"
_INLINE_CHARS = 64 * 1024
"""Longer answers are looked at in a thread."""


@dataclass(frozen=True, slots=True)
class Brain:
    """Which model a run asks, as which agent."""

    agent: AgentDefinition
    model: str
    provider: ModelProvider
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run is to end."""

    status: Status
    why: InteractionError | None = None
    """For an end that is no failure and came early all the same."""


class Loop:
    """One run."""

    def __init__(
        self,
        request: InteractionRequest,
        history: History,
        brain: Brain,
        toolbox: Toolbox,
        mediator: Mediator,
        recorder: Recorder,
        ending: Ending,
        limits: Limits,
        *,
        facts: Mapping[str, str],
        read_guidance: Callable[[], Awaitable[Guidance]] | None = None,
        spent_s: float = 0.0,
    ) -> None:
        """`read_guidance` reads what the environment tells its agents; None: there is nothing."""
        self._request = request
        self._schema = answer_schema(request)
        self._generation = request.generation_config
        self._history = history
        self._brain = brain
        self._toolbox = toolbox
        self._mediator = mediator
        self._recorder = recorder
        self._limits = limits
        limit_tokens = brain.provider.context_limit_tokens or limits.context_limit_tokens
        self._window = Window(history, recorder, limit_tokens, brain.metrics)
        self._ending = ending
        self._facts = facts
        self._read_guidance = read_guidance
        self.spent_s = spent_s
        """How long the run had been worked on before."""

    async def run(self) -> Status:
        """Runs to an end and writes it; returns the status that was written.

        Raises:
            LeaseLost, StoreError: nothing more can be written. ModelError, SandboxError: it cannot go on.
            CancelledError: whoever cancelled decides what is written.
        """
        is_first = not self._recorder.journal["run.started"]
        self._recorder.note("run.started", turns=self._recorder.journal["turn.ended"])
        if not is_first:
            moments.passed("run.taken_up")
        left_s = self._limits.run_timeout_s - self.spent_s
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                if left_s <= 0:
                    raise TimeoutError
                outcome = await self._go()
        except TimeoutError:
            why = _why("run_timeout", f"the interaction may take {self._limits.run_timeout_s:g} s")
            return await self._ending.write("incomplete", why=why)
        else:
            status = await self._ending.write(outcome.status, why=outcome.why)
            if status == "requires_action":
                moments.passed("run.waiting")
            return status
        finally:
            await self._recorder.settle()

    async def _go(self) -> _Outcome:
        await self._take_up()
        await self._learn()
        while True:
            if self._recorder.is_answered and (outcome := await self._look_at_answer()):
                return outcome
            if self._recorder.unanswered:
                return _Outcome("requires_action")  # all that is left open is the client's
            if (why := self._spent()) is not None:
                return _Outcome("incomplete", why)
            turn = Turn(
                self._recorder,
                self._toolbox,
                holds_answer=self._schema is not None,
                hides_thoughts=self._generation is not None and self._generation.thinking_summaries == "none",
                metrics=self._brain.metrics,
            )
            request = await self._request_that_fits()
            moments.passed("turn.asked")
            try:
                calls = await turn.play(
                    self._brain.provider, request, reckoned_tokens=self._window.reckoned_tokens(request)
                )
            except ModelError as error:
                if error.code != "model_context_exceeded" or not await self._narrowed(request):
                    raise
                continue
            finally:
                turn.close()
            for call in calls:
                if not self._mediator.is_clients(call):
                    await self._carry_out(call)

    async def _look_at_answer(self) -> _Outcome | None:
        """What the last turn, which made no call, means for the run; None: its answer is refused and it is asked again.

        Raises:
            ModelError: it was asked often enough.
        """
        held, is_cut = self._recorder.held, self._recorder.is_cut
        if held is not None and self._schema is not None:
            read = self._schema.read
            text, fault = read(held) if len(held) < _INLINE_CHARS else await asyncio.to_thread(read, held)
            may_refuse = self._recorder.held_at is None and self._recorder.asked_again < self._limits.max_asked_again
            if fault and not is_cut and may_refuse:
                self._recorder.note("answer.refused", text=held, problem=fault)
                await self._recorder.flush()
                return None
            self._recorder.show_held(text)
            if fault and not is_cut:
                raise ModelError(f"The answer does not have the form of 'response_format': {fault}.", code=_BAD_ANSWER)
        if is_cut:
            return _Outcome("incomplete", _why("max_output_tokens", "the model has said as much as it may"))
        return _Outcome("completed")

    async def _take_up(self) -> None:
        """Goes on where an earlier holder of this run was lost: its calls without a result come first.

        A call with the same id is the same call: if the guest has it, it is followed and not repeated. Calls of a turn
        that did not end were never made; the turn is asked again.
        """
        if self._recorder.transcript.is_in_turn:
            break_turn(self._recorder)
        elif self._recorder.held_at is None:
            close_steps(self._recorder)  # an answer that was being shown is shown to its end
        for step in self._recorder.unanswered:
            sent = self._recorder.unshown.get(step.id)
            shown = encode_json(arguments_of(step)).decode()
            call = ToolCall(step.id, tool_of(step), shown if sent is None else sent)
            if not self._mediator.is_clients(call):
                await self._carry_out(call, self._recorder.begun.get(step.id))

    async def _learn(self) -> None:
        """Reads what the environment tells. Once: all turns of a run are told the same, whoever asks for them."""
        is_begun = self._recorder.journal["turn.started"] or self._recorder.journal["context.read"]
        if self._read_guidance is not None and not is_begun and (found := await self._read_guidance()):
            self._recorder.note("context.read", **found.dump())
            await self._recorder.flush()

    def _spent(self) -> InteractionError | None:
        """What there is no more of, if anything."""
        if self._recorder.journal["turn.ended"] >= self._limits.max_turns:
            return _why("max_turns", f"the agent may ask its model {self._limits.max_turns} times")
        times = self._repeats()
        if times >= self._limits.max_repeats:
            return _why("repeated_failure", f"the same call failed {times} times and nothing worked in between")
        budget = self._request.token_budget or self._brain.agent.token_budget
        usage = self._recorder.usage
        if budget is not None and usage.total_tokens - usage.total_cached_tokens >= budget:
            return _why("max_total_tokens", f"the budget of {budget} tokens is used up")
        return None

    def _repeats(self) -> int:
        """How often the latest call has failed in a row."""
        steps = self._recorder.folder.steps
        last = next((step.call_id for step in reversed(steps) if isinstance(step, AnyResult)), None)
        return 0 if last is None else failures_alike(steps, last)

    async def _request_that_fits(self) -> ModelRequest:
        request = self._model_request()
        if await self._window.fit(self._brain.provider, request):
            request = self._model_request()
        return request

    async def _narrowed(self, request: ModelRequest) -> bool:
        """Whether the conversation could be shortened that the provider has refused as too long."""
        self._window.exceeded(request)
        return await self._window.fit(self._brain.provider, request)

    def _model_request(self) -> ModelRequest:
        schema = None if self._schema is None else self._schema.schema or True
        return ModelRequest(
            model=self._brain.model,
            system=build_system(
                self._brain.agent, self._request.system_instruction, self._facts, schema, self._recorder.guidance
            ),
            history=self._window.steps(),
            tools=self._toolbox.specs(),
            turn=self._history.turns + self._recorder.journal["turn.ended"] - self._recorder.journal["answer.refused"],
            asked_again=self._recorder.asked_again,
            generation=self._generation,
            answer_schema=schema,
        )

    async def _carry_out(self, call: ToolCall, begun: Begun | None = None) -> None:
        result = await self._mediator.carry_out(call, begun)
        if result.is_error and (times := failures_alike(self._recorder.folder.steps, call.id) + 1) >= TOLD_FROM:
            result = with_last_line(result, told(times))
        form = self._toolbox.form_of(call.name)
        shown = {} if form is None else form.shown(call.arguments).model_dump()
        self._recorder.whole(result_step(form, call.name, call.id, shown, result))
        moments.passed("result.queued")
        await self._recorder.flush()
        moments.passed("result.stored")
        self._mediator.acknowledge(call)
        moments.passed("call.acknowledged")


def _why(code: str, message: str) -> InteractionError:
    return InteractionError(code=code, message=message)
