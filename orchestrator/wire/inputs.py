"""The `input` of a request in all its forms, brought to a list of steps (reference, 2.4). No I/O.

    "text"                              one user_input
    {"type": "text", …}                 one user_input
    [content, content, …]               one user_input
    [step, step, …]                     as they are: answers to calls, which may also stand among the contents of a
                                        user_input, or a replayed conversation
    [{"role": …, "content": …}, …]      turns of the time before steps

A list is of one sort; mixtures are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import AnyCase, ByType, ListOf, WireModel, problem
from orchestrator.wire.content import (
    CONTENT_TYPES,
    AudioContent,
    Content,
    ContentAdapter,
    ContentsAdapter,
    DocumentContent,
    ImageContent,
    TextContent,
    VideoContent,
)
from orchestrator.wire.steps import (
    STEP_TYPES,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    ModelOutput,
    Step,
    StepAdapter,
    StepsAdapter,
    Thought,
    UrlContextCall,
    UrlContextResult,
    UserInput,
)

Sort = Literal["content", "step", "turn"]
_SORT_NAMES: dict[Sort, str] = {"content": "a content block", "step": "a step", "turn": "a turn"}

TurnPart = Annotated[
    TextContent
    | ImageContent
    | AudioContent
    | VideoContent
    | DocumentContent
    | Thought
    | FunctionCall
    | FunctionResult
    | CodeExecutionCall
    | CodeExecutionResult
    | GoogleSearchCall
    | GoogleSearchResult
    | UrlContextCall
    | UrlContextResult,
    ByType("content"),
]
"""Before there were steps, calls and results stood among a turn's contents."""


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [TextContent(text=value)]
    if isinstance(value, dict):
        return [ContentAdapter.validate_python(value)]
    return value


class Turn(WireModel):
    """A turn of the time before steps."""

    role: Annotated[Literal["user", "model", "assistant"], AnyCase]
    content: Annotated[
        ListOf[TurnPart], BeforeValidator(_as_parts, json_schema_input_type=str | Content | list[TurnPart])
    ]

    def steps(self) -> list[Step]:
        """One step per run of contents, and the calls and results among them as steps of their own."""
        steps: list[Step] = []
        run: list[Content] = []

        def close() -> None:
            if run:
                steps.append(UserInput(content=list(run)) if self.role == "user" else ModelOutput(content=list(run)))
                run.clear()

        for part in self.content:
            if isinstance(part, TextContent | ImageContent | AudioContent | VideoContent | DocumentContent):
                run.append(part)
            else:
                close()
                steps.append(part)
        close()
        return steps


_TurnsAdapter: TypeAdapter[list[Turn]] = TypeAdapter(ListOf[Turn])


class AnsweringInput(WireModel):
    """A user input with answers to calls among its contents, as some clients send them."""

    type: Literal["user_input"]
    content: ListOf[
        Annotated[
            TextContent | ImageContent | AudioContent | VideoContent | DocumentContent | FunctionResult,
            ByType("content"),
        ]
    ]

    def steps(self) -> list[Step]:
        """One step per run of contents, and each answer as a step of its own."""
        return Turn(role="user", content=list(self.content)).steps()


def _is_answering(item: Any) -> bool:
    if not isinstance(item, dict) or str(item.get("type")).lower() != "user_input":
        return False
    parts = item.get("content")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and str(part.get("type")).lower() == "function_result" for part in parts
    )


def _steps_of(item: Any) -> list[Step]:
    if _is_answering(item):
        return AnsweringInput.model_validate({**item, "type": "user_input"}).steps()
    return [StepAdapter.validate_python(item)]


_ItemsAdapter: TypeAdapter[list[list[Step]]] = TypeAdapter(ListOf[Annotated[Any, BeforeValidator(_steps_of)]])


def as_steps(value: Any) -> list[Step]:
    """For a field's validator: any form of input as steps, validated; paths are those of the caller's own form.

    Raises:
        ValidationError: not a form of input.
    """
    if isinstance(value, str):
        if not value:
            raise problem("must not be empty")
        return [UserInput(content=[TextContent(text=value)])]
    if isinstance(value, list):
        return _list_as_steps(value)
    sort = _sort_of(value)
    if sort == "turn":
        return Turn.model_validate(value).steps()
    if sort == "step":
        return _steps_of(value)
    if sort == "content":
        return [UserInput(content=[ContentAdapter.validate_python(value)])]
    raise _unknown(value) if isinstance(value, dict) else problem("expected a string, an object or a list")


def _list_as_steps(items: list[Any]) -> list[Step]:
    if not items:
        raise problem("must not be empty")
    sorts = [_sort_of(item) for item in items]
    for index, sort in enumerate(sorts):
        if sort is None:
            item = items[index]
            raise _unknown(item, index) if isinstance(item, dict) else problem("expected an object", index)
        if sort != sorts[0] and sorts[0] is not None:
            first, other = _SORT_NAMES[sorts[0]], _SORT_NAMES[sort]
            raise problem(f"'input' must not mix forms; this is {other}, 'input[0]' is {first}", index)
    if sorts[0] == "content":
        return [UserInput(content=ContentsAdapter.validate_python(items))]
    if sorts[0] == "turn":
        return [step for turn in _TurnsAdapter.validate_python(items) for step in turn.steps()]
    if not any(map(_is_answering, items)):
        return StepsAdapter.validate_python(items)
    return [step for steps in _ItemsAdapter.validate_python(items) for step in steps]


def _sort_of(item: Any) -> Sort | None:
    if isinstance(item, dict):
        name = item.get("type")
        if isinstance(name, str):
            if name.lower() in CONTENT_TYPES:
                return "content"
            return "step" if name.lower() in STEP_TYPES else None
        return "turn" if "role" in item and name is None else None
    if isinstance(getattr(item, "type", None), str):
        return "content" if item.type in CONTENT_TYPES else "step"
    return None


def _unknown(item: dict[str, Any], *at: int) -> ValidationError:
    known = ", ".join((*sorted(STEP_TYPES), *sorted(CONTENT_TYPES)))
    error = PydanticCustomError("unknown_type", "unknown type", {"noun": "step", "known": known})
    return ValidationError.from_exception_data("wire", [{"type": error, "loc": at, "input": item}])


InputForms = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Content], Field(min_length=1)]
    | Annotated[list[Step], Field(min_length=1)]
    | Annotated[list[Step | AnsweringInput], Field(min_length=1)]
    | Annotated[list[Turn], Field(min_length=1)]
    | Content
    | Step
    | Turn
)
"""For descriptions: what `as_steps` takes."""
Input = Annotated[ListOf[Step], BeforeValidator(as_steps, json_schema_input_type=InputForms)]
"""For fields that hold an input in any of its forms."""
