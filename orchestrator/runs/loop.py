"""The agent loop: model call, tool calls, model call …, until the model is done or a limit is reached.

Everything it needs to know where it stands is in the log, so it can begin at any point of it. A tool call is written
before it is executed, its result before the next model call (design 2, rule 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from orchestrator.agents.prompt import build_system
from orchestrator.agents.registry import AgentDefinition
from orchestrator.clock import Clock, rfc3339
from orchestrator.errors import CorralError, LeaseLost
from orchestrator.models.port import ModelProvider, ModelRequest
from orchestrator.policy.limits import Limits
from orchestrator.runs.context import read_request
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.turn import Turn
from orchestrator.store.port import InteractionRow
from orchestrator.tools.mediator import Mediator, ToolCall
from orchestrator.tools.port import ToolResult
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire import events
from orchestrator.wire.base import encode_json
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.interactions import Interaction, InteractionError, Status
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    Step,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Brain:
    """Which model a run asks, as which agent."""

    agent: AgentDefinition
    model: str
    provider: ModelProvider


class Loop:
    """One run."""

    def __init__(
        self,
        row: InteractionRow,
        history: Sequence[Step],
        brain: Brain,
        toolbox: Toolbox,
        mediator: Mediator,
        recorder: Recorder,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._row = row
        self._request = read_request(row)
        self._history = list(history)
        self._brain = brain
        self._toolbox = toolbox
        self._mediator = mediator
        self._recorder = recorder
        self._limits = limits
        self._clock = clock
        self._turn: Turn | None = None

    async def run(self) -> Status:
        """Runs to an end and writes it; returns the status that was written.

        Raises:
            LeaseLost, StoreError: nothing more can be written.
            CancelledError: whoever cancelled decides what is written, see `cancelled` and `interrupted`.
        """
        self._recorder.note("run.started", turns=self._recorder.journal["turn.ended"])
        try:
            async with asyncio.timeout(self._limits.run_timeout_s):
                status = await self._go()
        except TimeoutError:
            self._close("the interaction took longer than it may")
            status = "incomplete"
        except LeaseLost:
            raise
        except CorralError as error:
            log.warning("run_failed", interaction_id=self._row.id, code=error.code, reason=error.message)
            self._close(error.message)
            return await self._finish("failed", InteractionError(code=error.code, message=error.message))
        return await self._finish(status)

    async def cancelled(self) -> Status:
        """Writes the end of a run that was cancelled on request, unless its own end came first; returns the status."""
        self._close("cancelled")
        return await self._finish("cancelled")

    async def failed(self, error: InteractionError) -> Status:
        """Writes the end of a run that broke for a reason outside of it, as `cancelled` does."""
        self._close(error.message)
        return await self._finish("failed", error)

    async def _go(self) -> Status:
        await self._take_up()
        while True:
            if self._is_spent():
                return "incomplete"
            turn = Turn(self._recorder, self._toolbox)
            self._turn = turn
            calls = await turn.play(self._brain.provider, self._model_request())
            self._turn = None
            if not calls:
                return "completed"
            for call in calls:
                await self._carry_out(call)

    async def _take_up(self) -> None:
        """Goes on where an earlier holder of this run was lost: its calls without a result come first.

        A call with the same id is the same call: if the guest has it, it is followed and not repeated. Calls of a turn
        that did not end were never made; the turn is asked again.
        """
        for index, kind in self._recorder.folder.open_types.items():
            if kind == "code_execution_call":
                self._recorder.delta(index, events.CodeExecutionCallDelta(arguments=CodeArguments(code="")))
            self._recorder.end(index)
        for step in self._unanswered():
            name = "code_execution" if isinstance(step, CodeExecutionCall) else step.name
            arguments = step.arguments.model_dump() if isinstance(step, CodeExecutionCall) else step.arguments
            if step.id in self._recorder.called:
                await self._carry_out(ToolCall(step.id, name, encode_json(arguments).decode()))
            else:
                self._recorder.whole(_no_result(step, "the model's turn was interrupted"))

    def _unanswered(self) -> list[CodeExecutionCall | FunctionCall]:
        steps = self._recorder.folder.steps
        answered = {step.call_id for step in steps if isinstance(step, CodeExecutionResult | FunctionResult)}
        return [
            step for step in steps if isinstance(step, CodeExecutionCall | FunctionCall) and step.id not in answered
        ]

    def _is_spent(self) -> bool:
        if self._recorder.journal["turn.ended"] >= self._limits.max_turns:
            return True
        config = self._request.agent_config
        budget = config.max_total_tokens if isinstance(config, AntigravityConfig) else None
        usage = self._recorder.usage
        spent = usage.total_input_tokens + usage.total_output_tokens + usage.total_thought_tokens
        return budget is not None and spent - usage.total_cached_tokens >= budget

    def _model_request(self) -> ModelRequest:
        facts = {}
        if self._row.environment_id is not None:
            facts = {"working directory": "/workspace", "network": "none", "user": "agent, without root"}
        return ModelRequest(
            model=self._brain.model,
            system=build_system(self._brain.agent, self._request.system_instruction, facts),
            history=(*self._history, *self._recorder.folder.steps),
            tools=self._toolbox.specs(),
            turn=self._recorder.journal["turn.ended"],
        )

    async def _carry_out(self, call: ToolCall) -> None:
        result = await self._mediator.carry_out(call)
        self._recorder.whole(self._result_step(call, result))
        await self._recorder.flush()
        self._mediator.acknowledge(call)

    def _result_step(self, call: ToolCall, result: ToolResult) -> Step:
        tool = self._toolbox.find(call.name)
        if tool is not None and tool.is_code:
            return CodeExecutionResult(call_id=call.id, result=result.content, is_error=result.is_error)
        return FunctionResult(call_id=call.id, name=call.name, result=result.content, is_error=result.is_error)

    def _close(self, reason: str) -> None:
        """Leaves no step open and no call without a result: a call without one would be the client's to answer."""
        if self._turn is not None:
            self._turn.close()
            self._turn = None
        for step in self._unanswered():
            self._recorder.whole(_no_result(step, reason))

    async def _finish(self, status: Status, error: InteractionError | None = None) -> Status:
        if (ended := self._recorder.ended) is not None:
            # A cancel that comes while the end is being written changes nothing: a run ends once.
            await self._recorder.flush()
            return ended
        self._recorder.note("run.ended", status=status)
        if error is not None:
            self._recorder.emit(events.ErrorEvent(error=error))
        interaction = Interaction(
            id=self._row.id,
            status=status,
            agent=self._row.agent,
            created=rfc3339(self._row.created),
            updated=rfc3339(self._clock.now()),
            environment_id=self._row.environment_id,
            usage=self._recorder.usage,
            errors=[error] if error is not None else None,
        )
        self._recorder.emit(events.InteractionCompleted(interaction=interaction), status=status)
        await self._recorder.flush()
        return status


def _no_result(call: CodeExecutionCall | FunctionCall, reason: str) -> Step:
    text = f"[no result: {reason}]"
    if isinstance(call, CodeExecutionCall):
        return CodeExecutionResult(call_id=call.id, result=text, is_error=True)
    return FunctionResult(call_id=call.id, name=call.name, result=text, is_error=True)
