"""Answers that must have a form: which one a request asks for. Pure."""

from __future__ import annotations

from orchestrator.errors import InvalidRequest
from orchestrator.policy.schemas import AnswerSchema
from orchestrator.wire.generation import TextFormat
from orchestrator.wire.interactions import InteractionRequest

_JSON = "application/json"


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
