"""Forms: as which steps the calls of a tool, and what comes of them, show on the wire (reference, 3.2 and 3.3). Pure.

Code, search and pages have step types of their own, told apart by the tool's name; everything else, files and functions
of clients alike, shows as `function_call` and `function_result`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import InvalidRequest
from orchestrator.tools.port import ToolResult
from orchestrator.wire import events
from orchestrator.wire.content import Content, TextContent
from orchestrator.wire.folding import parse_arguments
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    SearchArguments,
    SearchResult,
    Step,
    UrlArguments,
    UrlContextCall,
    UrlContextResult,
    UrlResult,
)

AnyCall = FunctionCall | CodeExecutionCall | GoogleSearchCall | UrlContextCall
AnyResult = FunctionResult | CodeExecutionResult | GoogleSearchResult | UrlContextResult
ShownArguments = CodeArguments | SearchArguments | UrlArguments


@dataclass(frozen=True, slots=True)
class Form:
    """A family of steps whose arguments are one object of its own type, which comes whole."""

    call_type: str
    """Of the call's step."""
    read: Callable[[Mapping[str, Any]], ShownArguments]
    """What the step shows of the arguments that a model sent, whatever those are."""
    unread: Callable[[str], ShownArguments]
    """The same for what is no JSON object."""
    delta: Callable[[Any], events.Delta]
    """The piece that tells the arguments."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that a model may leave out, as the step shows them then."""

    def shown(self, text: str) -> ShownArguments:
        """What the step shows of arguments as they came."""
        try:
            return self.read(parse_arguments(text))
        except InvalidRequest:
            return self.unread(text)


def _code(arguments: Mapping[str, Any]) -> CodeArguments:
    language = "bash" if arguments.get("language") == "bash" else "python"
    return CodeArguments(language=language, code=str(arguments.get("code", "")))


def _texts(given: Any) -> list[str]:
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []


_FORMS: Mapping[str, Form] = {
    "code_execution": Form(
        "code_execution_call",
        _code,
        lambda text: CodeArguments(code=text),
        lambda arguments: events.CodeExecutionCallDelta(arguments=arguments),
        {"language": "python"},
    ),
    "google_search": Form(
        "google_search_call",
        lambda arguments: SearchArguments(queries=_texts(arguments.get("queries"))),
        lambda _text: SearchArguments(),
        lambda arguments: events.GoogleSearchCallDelta(arguments=arguments),
    ),
    "url_context": Form(
        "url_context_call",
        lambda arguments: UrlArguments(urls=_texts(arguments.get("urls"))),
        lambda _text: UrlArguments(),
        lambda arguments: events.UrlContextCallDelta(arguments=arguments),
    ),
}

_CUT = "[no result: writing it broke off]"
FILLERS: Mapping[str, events.Delta] = {
    **{form.call_type: form.delta(form.read({})) for form in _FORMS.values()},
    "code_execution_result": events.CodeExecutionResultDelta(result=_CUT, is_error=True),
    "function_result": events.FunctionResultDelta(result=_CUT, is_error=True),
    "google_search_result": events.GoogleSearchResultDelta(
        result=[SearchResult.model_validate({"error": _CUT})], is_error=True
    ),
    "url_context_result": events.UrlContextResultDelta(
        result=[UrlResult.model_validate({"status": "error", "error": _CUT})], is_error=True
    ),
}
"""What lets a step stand of which only the beginning was written."""


def stands(step: Step | None) -> bool:
    """Whether a step that was begun is one; None is no step yet. A result of a search or pages is never empty."""
    return step is not None and not (isinstance(step, GoogleSearchResult | UrlContextResult) and not step.result)


def form_of(tool: str) -> Form | None:
    """The form of a tool's calls; None: they show as functions."""
    return _FORMS.get(tool)


def shows(form: Form | None, text: str) -> bool:
    """Whether the step of a call has its arguments as the model sent them."""
    try:
        arguments = parse_arguments(text)
    except InvalidRequest:
        return False
    return form is None or form.read(arguments).model_dump() == {**form.defaults, **arguments}


def form_of_step(call: AnyCall) -> Form | None:
    """The form that a call's step has."""
    return None if isinstance(call, FunctionCall) else _FORMS[tool_of(call)]


def tool_of(call: AnyCall) -> str:
    """The name of the tool that a call's step is of."""
    if isinstance(call, FunctionCall):
        return call.name
    return call.type.removesuffix("_call")


def arguments_of(call: AnyCall) -> dict[str, Any]:
    """The arguments that a call's step shows."""
    return call.arguments if isinstance(call, FunctionCall) else call.arguments.model_dump()


def result_step(form: Form | None, name: str, call_id: str, shown: Mapping[str, Any], result: ToolResult) -> Step:
    """What came of a call of the tool `name`, as a step. `shown` are the arguments that the call's step has."""
    kind = "" if form is None else form.call_type
    if kind == "code_execution_call":
        return CodeExecutionResult(call_id=call_id, result=result.content, is_error=result.is_error)
    if kind == "google_search_call":
        found = [SearchResult.model_validate({_key(result): _text(result.content)})]
        return GoogleSearchResult(call_id=call_id, result=found, is_error=result.is_error)
    if kind == "url_context_call":
        status = "error" if result.is_error else "success"
        told = {"status": status, _key(result): _text(result.content)}
        pages = [UrlResult.model_validate({"url": url, **told}) for url in _texts(shown.get("urls"))]
        return UrlContextResult(
            call_id=call_id, result=pages or [UrlResult.model_validate(told)], is_error=result.is_error
        )
    return FunctionResult(call_id=call_id, name=name, result=result.content, is_error=result.is_error)


def _key(result: ToolResult) -> str:
    return "error" if result.is_error else "text"


def _text(content: str | list[Content]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.text for block in content if isinstance(block, TextContent))
