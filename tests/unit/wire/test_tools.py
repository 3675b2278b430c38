from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import dump, parse
from orchestrator.wire.tools import McpServerTool, ToolsAdapter, public_tools


@pytest.mark.parametrize(
    "data",
    [
        {"type": "code_execution"},
        {"type": "google_search", "search_types": ["web_search", "image_search"]},
        {"type": "url_context"},
        {
            "type": "function",
            "name": "invoice_state",
            "description": "Looks up one invoice",
            "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": []},
            "defer_loading": True,
        },
        {"type": "mcp_server", "name": "my-crm_2", "url": "https://e.org/mcp", "headers": {"Authorization": "x"}},
        {"type": "tool_search", "execution": "client"},
        {"type": "file_search", "store_names": ["a"]},
        {"type": "google_maps"},
        {"type": "computer_use", "environment": "browser"},
        {"type": "retrieval"},
    ],
)
def test_every_tool_of_the_wire_is_parsed(data: dict[str, Any]) -> None:
    assert [dump(tool) for tool in parse(ToolsAdapter, [data])] == [data]


def test_allowed_tools_may_be_names() -> None:
    base = {"type": "mcp_server", "name": "crm", "url": "https://e.org"}
    [names, objects] = parse(
        ToolsAdapter,
        [{**base, "allowed_tools": ["a", "b"]}, {**base, "allowed_tools": [{"mode": "AUTO", "tools": ["a"]}]}],
    )
    assert isinstance(names, McpServerTool)
    assert isinstance(objects, McpServerTool)
    assert dump(names)["allowed_tools"] == [{"tools": ["a", "b"]}]
    assert dump(objects)["allowed_tools"] == [{"mode": "auto", "tools": ["a"]}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"type": "shell"},
            "Unknown tool type 'shell' at 'tools[0].type'; known: code_execution, google_search, url_context, "
            "function, mcp_server, tool_search, file_search, google_maps, computer_use, retrieval.",
        ),
        ({"type": "function"}, "Missing required parameter 'name' at 'tools[0]'."),
        (
            {"type": "function", "name": "a b"},
            "Invalid value at 'tools[0].name': expected at most 128 letters, digits, '_', '-', '.' and ':', beginning "
            "with a letter or '_'.",
        ),
        (
            {"type": "function", "name": "f", "parameters": []},
            "Invalid value at 'tools[0].parameters': expected an object.",
        ),
        (
            {"type": "mcp_server", "name": "CRM", "url": "https://e.org"},
            "Invalid value at 'tools[0].name': expected at most 64 lower-case letters, digits, '_' and '-'.",
        ),
        (
            {"type": "mcp_server", "name": "crm", "url": "file:///etc/passwd"},
            "Invalid value at 'tools[0].url': expected an http or https URL.",
        ),
        (
            {"type": "mcp_server", "name": "crm", "url": "https://e.org", "headers": {"A": 1}},
            "Invalid value at 'tools[0].headers.A': expected a string.",
        ),
        (
            {"type": "mcp_server", "name": "crm", "url": "https://e.org", "allowed_tools": ["a", 1]},
            "Invalid value at 'tools[0].allowed_tools[0]': expected an object.",
        ),
        ({"type": "code_execution", "x": 1}, "Unknown parameter 'x' at 'tools[0]' (known names: type)."),
    ],
)
def test_refusals(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ToolsAdapter, [data], "tools")
    assert caught.value.message == message


def test_headers_are_secret() -> None:
    tool = McpServerTool(name="crm", url="https://e.org", headers={"Authorization": "Bearer canary"})
    assert "canary" not in repr(tool)
    assert public_tools([tool]) == [{"type": "mcp_server", "name": "crm", "url": "https://e.org"}]
