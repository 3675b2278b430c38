"""Answers that must have a form: which one a request asks for, and what a model is told of those that did not have it.
Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import InvalidRequest
from orchestrator.models.port import Correction
from orchestrator.policy.schemas import AnswerSchema
from orchestrator.runs.recorder import Refused
from orchestrator.wire.content import TextContent
from orchestrator.wire.generation import TextFormat
from orchestrator.wire.interactions import InteractionRequest
from orchestrator.wire.steps import ModelOutput, Step

_JSON = "application/json"
_TELL = (
    "That answer does not have the form that was asked for: {problem}. "
    "Answer again, with the JSON document and nothing else."
)


def answer_schema(request: InteractionRequest) -> AnswerSchema | None:
    """What the final answer of a run must be; None: any text.

    Raises:
        InvalidRequest: names the field whose schema cannot be used.
    """
    for index, form in enumerate(request.response_format or ()):
        if isinstance(form, TextFormat) and (form.json_schema is not None or form.mime_type == _JSON):
            try:
                return AnswerSchema(form.json_schema)
            except InvalidRequest as error:
                message = f"Invalid value at 'response_format[{index}].schema': {error.message}."
                raise InvalidRequest(message) from error
    return AnswerSchema(None) if request.response_mime_type == _JSON else None


def with_refusals(steps: Sequence[Step], refused: Sequence[Refused]) -> list[Step]:
    """A run's steps as its model is to see them: with the refused answers, each followed by what was wrong."""
    seen: list[Step] = []
    done = 0
    for each in refused:
        seen += steps[done : each.at]
        done = each.at
        if each.text:
            seen.append(ModelOutput(content=[TextContent(text=each.text)]))
        seen.append(Correction(content=[TextContent(text=_TELL.format(problem=each.problem))]))
    return [*seen, *steps[done:]]
