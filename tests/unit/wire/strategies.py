"""Hypothesis strategies for the wire: JSON values, content, steps, and requests that are almost right."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

from orchestrator.wire.content import ImageContent, TextContent, UrlCitation
from orchestrator.wire.steps import (
    CodeArguments,
    CodeExecutionCall,
    CodeExecutionResult,
    FunctionCall,
    FunctionResult,
    GoogleSearchCall,
    GoogleSearchResult,
    McpServerToolCall,
    McpServerToolResult,
    ModelOutput,
    SearchArguments,
    SearchResult,
    Step,
    Thought,
    ToolSearchArguments,
    ToolSearchCall,
    ToolSearchResult,
    UrlArguments,
    UrlContextCall,
    UrlContextResult,
    UrlResult,
    UserInput,
)
from orchestrator.wire.tools import FunctionTool

texts = st.text(max_size=30) | st.sampled_from(
    ["", "a\nb\r\n", "\u2028\u2029\x85", "𝔘nicode 👩‍🔬", '"\\u0000"', "\x00"]
)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
ids = st.from_regex(r"[a-z0-9]{8}", fullmatch=True)

hostile_texts = st.text(st.characters(exclude_categories=()), max_size=20)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | hostile_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
clean_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
clean_objects = st.dictionaries(texts, clean_values, max_size=4)

images = st.builds(
    ImageContent,
    mime_type=st.sampled_from(["image/png", "image/jpeg"]),
    data=st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()),
)
citations = st.builds(UrlCitation, url=texts, start_index=st.integers(0, 5), end_index=st.none() | st.integers(5, 9))
text_blocks = st.builds(TextContent, text=texts)
cited_blocks = st.builds(TextContent, text=texts, annotations=st.lists(citations, min_size=1, max_size=2))
summaries = st.lists(text_blocks | images, max_size=3)
contents = st.lists(text_blocks | cited_blocks | images, max_size=4)
results = texts | clean_objects | contents

calls: dict[str, st.SearchStrategy[Step]] = {
    "function_call": st.builds(FunctionCall, id=ids, name=names, arguments=clean_objects, signature=st.none() | texts),
    "code_execution_call": st.builds(
        CodeExecutionCall,
        id=ids,
        arguments=st.builds(CodeArguments, code=texts, language=st.sampled_from(["python", "bash"])),
        signature=st.none() | texts,
    ),
    "google_search_call": st.builds(
        GoogleSearchCall, id=ids, arguments=st.builds(SearchArguments, queries=st.lists(texts, max_size=2))
    ),
    "url_context_call": st.builds(
        UrlContextCall, id=ids, arguments=st.builds(UrlArguments, urls=st.lists(texts, max_size=2))
    ),
    "mcp_server_tool_call": st.builds(
        McpServerToolCall, id=ids, name=names, server_name=names, arguments=clean_objects
    ),
    "tool_search_call": st.builds(
        ToolSearchCall, id=ids, arguments=st.builds(ToolSearchArguments, function_names=st.lists(names, max_size=2))
    ),
}
outcomes: dict[str, st.SearchStrategy[Step]] = {
    "function_result": st.builds(
        FunctionResult, call_id=ids, name=st.none() | names, result=results, is_error=st.booleans()
    ),
    "code_execution_result": st.builds(
        CodeExecutionResult, call_id=ids, result=texts | contents, is_error=st.booleans()
    ),
    "google_search_result": st.builds(
        GoogleSearchResult, call_id=ids, result=st.lists(st.builds(SearchResult, search_suggestions=texts), max_size=2)
    ),
    "url_context_result": st.builds(
        UrlContextResult, call_id=ids, result=st.lists(st.builds(UrlResult, url=texts), max_size=2)
    ),
    "mcp_server_tool_result": st.builds(
        McpServerToolResult, call_id=ids, name=names, server_name=names, result=results, is_error=st.booleans()
    ),
    "tool_search_result": st.builds(
        ToolSearchResult, call_id=ids, result=st.lists(st.builds(FunctionTool, name=names), max_size=2)
    ),
}
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(UserInput, content=contents),
    st.builds(Thought, signature=st.none() | texts, summary=summaries),
    st.builds(ModelOutput, content=contents),
    *calls.values(),
    *outcomes.values(),
)


# requests that are almost right: a good one in which some places hold anything

GOOD_REQUEST: dict[str, Any] = {
    "agent": "antigravity-preview-09-2026",
    "input": [
        {
            "type": "user_input",
            "content": [{"type": "text", "text": "hi"}, {"type": "image", "uri": "https://x/y.png"}],
        },
        {"type": "function_result", "call_id": "k3v9z0aa", "name": "f", "result": {"paid": True}},
        {"type": "code_execution_call", "id": "c", "arguments": {"language": "bash", "code": "ls"}},
    ],
    "system_instruction": "Be brief.",
    "tools": [
        {"type": "code_execution"},
        {"type": "function", "name": "invoice_state", "parameters": {"type": "object", "required": []}},
        {"type": "mcp_server", "name": "crm", "url": "https://mcp.example.com", "allowed_tools": ["a"]},
    ],
    "environment": {
        "type": "remote",
        "sources": [
            {"type": "inline", "target": "workspace/a", "content": "YQ==", "encoding": "base64"},
            {"type": "repository", "source": "https://example.com/r", "target": "workspace/r"},
        ],
        "network": {"allowlist": [{"domain": "example.com", "transform": [{"X-Tenant": "blue"}]}]},
        "env": {"MODE": "batch", "TOKEN": {"credential": "crm-token"}},
    },
    "previous_interaction_id": "v1_abc",
    "stream": True,
    "background": True,
    "store": True,
    "agent_config": {"type": "antigravity", "max_total_tokens": "50000"},
    "response_format": {"type": "text", "mime_type": "application/json", "schema": {"type": "object"}},
    "service_tier": "standard",
    "labels": {"team": "blue"},
    "safety_settings": [{"type": "x", "threshold": "y"}],
    "webhook_config": {"uris": ["https://example.com/hook"]},
}


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path into a JSON value, its own root left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in ((*at, key), *places(item, (*at, key)))]


def replaced(value: Any, at: tuple[str | int, ...], new: Any) -> Any:
    """The value with something else at a path."""
    if not at:
        return new
    if isinstance(value, dict):
        return {**value, at[0]: replaced(value.get(str(at[0])), at[1:], new)}
    if isinstance(value, list):
        return [replaced(item, at[1:], new) if index == at[0] else item for index, item in enumerate(value)]
    return new


@st.composite
def almost_right_requests(draw: st.DrawFn) -> Any:
    request: Any = GOOD_REQUEST
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places(GOOD_REQUEST)))
        sort = draw(st.sampled_from(["replace", "add", "swap"]))
        if sort == "add":
            at = (*at[:-1], draw(names | hostile_texts)) if isinstance(at[-1], str) else at
        donor = draw(st.sampled_from(places(GOOD_REQUEST)))
        request = replaced(request, at, pick(GOOD_REQUEST, donor) if sort == "swap" else draw(json_values))
    return request


def pick(value: Any, at: tuple[str | int, ...]) -> Any:
    for key in at:
        value = value[key]
    return value
