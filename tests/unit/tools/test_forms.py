"""As which steps calls and results show, and that nothing of them is lost on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.tools.forms import (
    FILLERS,
    AnyCall,
    AnyResult,
    arguments_of,
    form_of,
    form_of_step,
    result_step,
    shows,
    stands,
    tool_of,
)
from orchestrator.tools.port import ToolResult
from orchestrator.wire import events
from orchestrator.wire.content import TextContent
from orchestrator.wire.events import Folder
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    SearchArguments,
    Step,
    UrlArguments,
    UrlContextCall,
    UrlContextResult,
)

OWN = ("code_execution", "google_search", "url_context")
CALLS: list[AnyCall] = [
    CodeExecutionCall(id="c", arguments=CodeArguments(language="bash", code="ls")),
    GoogleSearchCall(id="c", arguments=SearchArguments(queries=["a", "b"])),
    UrlContextCall(id="c", arguments=UrlArguments(urls=["https://a"])),
    FunctionCall(id="c", name="read_file", arguments={"path": "x"}),
]


def folded(*given: events.PublicEvent) -> Folder:
    folder = Folder()
    for seq, event in enumerate(given, 1):
        folder.feed(event.event_type, events.encode(event, seq))
    return folder


def test_three_tools_have_steps_of_their_own_and_everything_else_is_a_function() -> None:
    assert [form_of(name).call_type for name in OWN] == [f"{name}_call" for name in OWN]  # type: ignore[union-attr]
    for name in ("read_file", "weather", "", "function", "google_search_call"):
        assert form_of(name) is None


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.type)
def test_a_calls_step_tells_its_tool_and_arguments(call: AnyCall) -> None:
    name = call.name if isinstance(call, FunctionCall) else call.type.removesuffix("_call")
    assert tool_of(call) == name
    assert form_of_step(call) is form_of(name)
    text = json.dumps(arguments_of(call))
    form = form_of(name)
    assert shows(form, text)
    if form is not None:
        assert form.shown(text).model_dump() == arguments_of(call)


@pytest.mark.parametrize(
    ("tool", "text", "shown"),
    [
        ("code_execution", '{"code": "1"}', {"language": "python", "code": "1"}),
        ("code_execution", '{"code": "1", "language": "bash"}', {"language": "bash", "code": "1"}),
        ("google_search", '{"queries": ["a"]}', {"queries": ["a"]}),
        ("url_context", '{"urls": ["a", "b"]}', {"urls": ["a", "b"]}),
    ],
)
def test_arguments_that_a_step_has_are_shown_as_they_came(tool: str, text: str, shown: dict[str, Any]) -> None:
    form = form_of(tool)
    assert form is not None
    assert shows(form, text)
    assert form.shown(text).model_dump() == shown


@pytest.mark.parametrize(
    ("tool", "text", "shown"),
    [
        ("code_execution", '{"code": "1", "language": "ruby"}', {"language": "python", "code": "1"}),
        ("code_execution", '{"code": 5}', {"language": "python", "code": "5"}),
        ("code_execution", '{"code": "1", "sudo": true}', {"language": "python", "code": "1"}),
        ("code_execution", "print(1)", {"language": "python", "code": "print(1)"}),
        ("code_execution", "[1]", {"language": "python", "code": "[1]"}),
        ("google_search", '{"queries": "a"}', {"queries": []}),
        ("google_search", '{"queries": ["a", 1, null]}', {"queries": ["a"]}),
        ("google_search", '{"query": "a"}', {"queries": []}),
        ("google_search", "a", {"queries": []}),
        ("url_context", '{"urls": {"a": "b"}}', {"urls": []}),
        ("url_context", '{"urls": [["a"]]}', {"urls": []}),
        ("url_context", "", {"urls": []}),
    ],
)
def test_what_a_step_cannot_show_is_noticed(tool: str, text: str, shown: dict[str, Any]) -> None:
    form = form_of(tool)
    assert form is not None
    assert form.shown(text).model_dump() == shown
    assert not shows(form, text), "what the model sent must be kept beside the step"


def test_functions_show_any_object_and_nothing_else() -> None:
    assert shows(None, '{"anything": [1, {"at": "all"}]}')
    assert shows(None, "")
    for text in ("[]", "5", "nonsense", '{"a": '):
        assert not shows(None, text)


# results


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.type)
@pytest.mark.parametrize("is_error", [False, True])
@pytest.mark.parametrize("content", ["", "text", [TextContent(text="te"), TextContent(text="xt")]], ids=str)
def test_a_result_is_of_its_calls_sort_and_says_what_came_of_it(call: AnyCall, is_error: bool, content: Any) -> None:
    given = ToolResult(content, is_error=is_error)
    step = result_step(form_of_step(call), tool_of(call), "c", arguments_of(call), given)
    assert step.type == call.type.replace("_call", "_result")
    assert isinstance(step, AnyResult)
    assert (step.call_id, step.is_error) == ("c", is_error)
    if content != "":
        assert "te" in str(step.result)
    # As it is stored and read again, it is the same.
    assert folded(*events.step_events(step, 0)).steps == [step]


def test_a_functions_result_has_its_name() -> None:
    step = result_step(None, "read_file", "c", {"path": "x"}, ToolResult("text"))
    assert step == FunctionResult(call_id="c", name="read_file", result="text")


def test_each_page_has_a_result_of_its_own() -> None:
    form = form_of("url_context")
    step = result_step(form, "url_context", "c", {"urls": ["a", "b"]}, ToolResult("no", is_error=True))
    assert isinstance(step, UrlContextResult)
    assert [(each.url, each.status) for each in step.result] == [("a", "error"), ("b", "error")]
    fine = result_step(form, "url_context", "c", {"urls": ["a"]}, ToolResult("text"))
    assert isinstance(fine, UrlContextResult)
    assert [(each.url, each.status) for each in fine.result] == [("a", "success")]
    none = result_step(form, "url_context", "c", {"urls": []}, ToolResult("no", is_error=True))
    assert isinstance(none, UrlContextResult)
    assert len(none.result) == 1, "what went wrong must be said somewhere"


# steps of which only the beginning was written

BEGINNINGS: list[dict[str, Any]] = [
    *({"type": f"{name}_call", "id": "c"} for name in OWN),
    *({"type": f"{name}_result", "call_id": "c"} for name in OWN),
    {"type": "function_result", "call_id": "c", "name": "f"},
]


@pytest.mark.parametrize("begun", BEGINNINGS, ids=lambda begun: begun["type"])
def test_every_beginning_can_be_made_a_step(begun: dict[str, Any]) -> None:
    start = events.StepStart(index=0, step=begun)
    assert not stands(folded(start).open_step), "nothing of it was said yet"
    filler = events.StepDelta(index=0, delta=FILLERS[begun["type"]])
    assert stands(folded(start, filler).open_step)
    (step,) = folded(start, filler, events.StepStop(index=0)).steps
    assert step.type == begun["type"]
    if isinstance(step, AnyResult):
        assert step.is_error, "a result that is not known is none that succeeded"
        assert "broke off" in str(step.result)


@pytest.mark.parametrize(
    "step",
    [
        *CALLS,
        CodeExecutionResult(call_id="c", result=""),
        FunctionResult(call_id="c", name="f", result=""),
        GoogleSearchResult(call_id="c", result=[{"text": "found"}]),
        UrlContextResult(call_id="c", result=[{"url": "a"}]),
    ],
    ids=lambda step: step.type,
)
def test_what_was_written_whole_is_left_as_it_is(step: Step) -> None:
    begun = events.step_events(step, 0)[:-1]
    found = folded(*begun).open_step
    assert stands(found)
    assert found == step
