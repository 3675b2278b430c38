"""The agent loop: model call, tool calls, model call …, until the model is done, a limit is reached or the client is to
answer a call of a function of its own.

Everything it needs to know where it stands is in the log, so it can begin at any point of it. A tool call is written
before it is executed, its result before the next model call (design 2, rule 2).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator import moments
from orchestrator.agents.prompt import build_system
from orchestrator.agents.registry import AgentDefinition
from orchestrator.models.port import ModelProvider, ModelRequest
from orchestrator.policy.limits import Limits
from orchestrator.runs.context import History
from orchestrator.runs.ending import Ending
from orchestrator.runs.recorder import Recorder
from orchestrator.runs.turn import Turn
from orchestrator.tools.mediator import Begun, Mediator, ToolCall
from orchestrator.tools.port import ToolResult
from orchestrator.tools.toolbox import Toolbox
from orchestrator.wire.base import encode_json
from orchestrator.wire.interactions import InteractionRequest, Status
from orchestrator.wire.steps import (
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionResult,
    Step,
)


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
        request: InteractionRequest,
        history: History,
        brain: Brain,
        toolbox: Toolbox,
        mediator: Mediator,
        recorder: Recorder,
        ending: Ending,
        limits: Limits,
        *,
        has_environment: bool,
        spent_s: float = 0.0,
    ) -> None:
        self._request = request
        self._history = history
        self._brain = brain
        self._toolbox = toolbox
        self._mediator = mediator
        self._recorder = recorder
        self._limits = limits
        self._ending = ending
        self._has_environment = has_environment
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
                status = await self._go()
        except TimeoutError:
            return await self._ending.write("incomplete", "the interaction took longer than it may")
        else:
            status = await self._ending.write(status)
            if status == "requires_action":
                moments.passed("run.waiting")
            return status
        finally:
            await self._recorder.settle()

    async def _go(self) -> Status:
        await self._take_up()
        if self._recorder.is_answered:
            return "completed"
        while True:
            if self._recorder.unanswered:
                return "requires_action"  # all that is left open is the client's
            if self._is_spent():
                return "incomplete"
            turn = Turn(self._recorder, self._toolbox)
            moments.passed("turn.asked")
            try:
                calls = await turn.play(self._brain.provider, self._model_request())
            finally:
                turn.close()
            if not calls:
                return "completed"
            for call in calls:
                if not self._mediator.is_clients(call):
                    await self._carry_out(call)

    async def _take_up(self) -> None:
        """Goes on where an earlier holder of this run was lost: its calls without a result come first.

        A call with the same id is the same call: if the guest has it, it is followed and not repeated. Calls of a turn
        that did not end were never made; the turn is asked again.
        """
        self._ending.close_steps()
        for step in self._recorder.unanswered:
            if step.id in self._recorder.called:
                name = "code_execution" if isinstance(step, CodeExecutionCall) else step.name
                arguments = step.arguments.model_dump() if isinstance(step, CodeExecutionCall) else step.arguments
                sent = self._recorder.unshown.get(step.id)
                call = ToolCall(step.id, name, encode_json(arguments).decode() if sent is None else sent)
                if self._mediator.is_clients(call):
                    continue
                await self._carry_out(call, self._recorder.begun.get(step.id))
            else:
                self._ending.answer(step, "the model's turn was interrupted")

    def _is_spent(self) -> bool:
        if self._recorder.journal["turn.ended"] >= self._limits.max_turns:
            return True
        budget = self._request.token_budget
        usage = self._recorder.usage
        spent = usage.total_input_tokens + usage.total_output_tokens + usage.total_thought_tokens
        return budget is not None and spent - usage.total_cached_tokens >= budget

    def _model_request(self) -> ModelRequest:
        facts = {}
        if self._has_environment:
            facts = {"working directory": "/workspace", "network": "none", "user": "agent, without root"}
        return ModelRequest(
            model=self._brain.model,
            system=build_system(self._brain.agent, self._request.system_instruction, facts),
            history=(*self._history.steps, *self._recorder.folder.steps),
            tools=self._toolbox.specs(),
            turn=self._history.turns + self._recorder.journal["turn.ended"],
        )

    async def _carry_out(self, call: ToolCall, begun: Begun | None = None) -> None:
        result = await self._mediator.carry_out(call, begun)
        self._recorder.whole(self._result_step(call, result))
        moments.passed("result.queued")
        await self._recorder.flush()
        moments.passed("result.stored")
        self._mediator.acknowledge(call)
        moments.passed("call.acknowledged")

    def _result_step(self, call: ToolCall, result: ToolResult) -> Step:
        if self._toolbox.is_code(call.name):
            return CodeExecutionResult(call_id=call.id, result=result.content, is_error=result.is_error)
        return FunctionResult(call_id=call.id, name=call.name, result=result.content, is_error=result.is_error)
