from __future__ import annotations

from orchestrator.models.port import ModelProvider, ModelRequest
from orchestrator.models.scripted import ScriptedModel
from orchestrator.wire.content import TextContent
from orchestrator.wire.steps import UserInput
from tests.conformance.model_suite import ModelSuite


def play(script: str) -> ModelRequest:
    text = f"Please.\n```script\nturns:\n{script}\n```\n"
    return ModelRequest(
        model="scripted", system="", history=(UserInput(content=[TextContent(text=text)]),), tools=(), turn=0
    )


class TestScriptedModel(ModelSuite):
    def provider(self) -> ModelProvider:
        return ScriptedModel()

    def says(self) -> ModelRequest:
        return play(f"  - text: {'word ' * 30}\n    chunk: 10")

    def calls_two(self) -> ModelRequest:
        call = "{tool: code_execution, arguments: {language: bash, code: %s}}"
        return play(f"  - calls:\n    - {call % 'pwd'}\n    - " + call % r'"echo \"ä\n\""' + "\n    chunk: 3")

    def fails(self, *, retryable: bool) -> ModelRequest:
        return play(f"  - error: {{code: {'model_overloaded' if retryable else 'model_auth'}}}")

    def breaks(self) -> ModelRequest:
        return play("  - text: abcdef\n    chunk: 2\n    error: {code: model_stream_broken}")

    def waits(self) -> ModelRequest:
        return play("  - text: late\n    sleep_ms: 20000")
