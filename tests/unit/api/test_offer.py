"""What is not there is refused by name; what is there passes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.api.offer import check_offered
from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.wire.interactions import parse_interaction_request

INLINE = {"type": "inline", "target": "workspace/a", "content": "x"}
REPOSITORY = {"type": "repository", "source": "https://github.com/e/r", "target": "workspace/r"}


def check(**fields: Any) -> None:
    check_offered(parse_interaction_request({"agent": "general", "input": "x", **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"environment": "remote"},
        {"environment": "a" * 32},
        {"environment": {"type": "remote", "sources": [INLINE], "env": {"A": "b"}, "network": "disabled"}},
        {"environment": {"environment_id": "a" * 32, "env": {"A": "b"}}},
        {"environment": {"sources": [REPOSITORY], "network": {"allowlist": [{"domain": "github.com"}]}}},
        {"tools": []},
        {"tools": [{"type": "code_execution"}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        {"input": [{"type": "function_result", "call_id": "c", "result": {"ok": True}}]},
        {"stream": True},
        {"background": True},
        {"store": True},
        {"store": False},
        {"service_tier": "standard"},
        {"service_tier": "deferred"},
        {"generation_config": {"temperature": 1, "seed": 3, "max_output_tokens": 5, "tool_choice": "none"}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "text", "mime_type": "application/json", "schema": {"type": "object"}}},
        {"response_modalities": ["TEXT"]},
        {"tools": [{"type": "google_search"}, {"type": "url_context"}]},
        {
            "input": [
                {"type": "user_input", "content": "x"},
                {"type": "thought", "signature": "s"},
                {"type": "function_call", "id": "c", "name": "f"},
                {"type": "function_result", "call_id": "c", "name": "f", "result": "y"},
                {"type": "model_output", "content": "z"},
            ]
        },
        {"system_instruction": "Be brief."},
        {"labels": {"a": "b"}},
        {"agent_config": {"type": "antigravity", "max_total_tokens": 5}},
        {"input": [{"type": "text", "text": "x"}, {"type": "image", "data": "AAAA", "mime_type": "image/png"}]},
        {"previous_interaction_id": "v1_x"},
        {"environment": {"network": {"allowlist": []}}},
        {"environment": {"network": {"allowlist": [{"domain": "x.org", "ports": [443], "methods": ["GET"]}]}}},
    ],
    ids=str,
)
def test_offered(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"generation_config": {"speech_config": {}}}, "generation_config.speech_config"),
        ({"generation_config": {"tool_choice": "any"}}, "generation_config.tool_choice"),
        ({"generation_config": {"tool_choice": {"allowed_tools": {}}}}, "generation_config.tool_choice"),
        ({"response_format": {"type": "image"}}, "response_format[0].type"),
        ({"response_format": [{"type": "text"}, {"type": "text"}]}, "response_format"),
        ({"response_format": {"type": "text", "mime_type": "text/html"}}, "response_format[0].mime_type"),
        ({"response_modalities": ["text", "audio"]}, "response_modalities"),
        ({"response_mime_type": "text/x.enum"}, "response_mime_type"),
        ({"safety_settings": [{"type": "a", "threshold": "b"}]}, "safety_settings"),
        ({"cached_content": "x"}, "cached_content"),
        ({"environment": {"type": "remote", "setup": ["true"]}}, "environment.setup"),
        ({"background": True, "webhook_config": {"uris": ["https://x"]}}, "webhook_config"),
        ({"input": [{"type": "image", "uri": "https://x/y.png"}]}, "input[0].content[0].uri"),
        ({"agent_config": {"type": "deep-research"}}, "agent_config.type"),
        ({"tools": [{"type": "code_execution"}, {"type": "google_maps"}]}, "tools[1].type"),
        ({"tools": [{"type": "mcp_server", "name": "m", "url": "https://x"}]}, "tools[0].type"),
        ({"tools": [{"type": "google_search", "search_types": ["web_search", "image_search"]}]},
         "tools[0].search_types"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"input": [{"type": "mcp_server_tool_call", "id": "c", "name": "f", "server_name": "m"}]}, "input[0].type"),
        ({"input": [{"type": "document", "data": "AAAA", "mime_type": "application/pdf"}]}, "content"),
        ({"environment": {"environment_id": "a" * 32, "sources": [INLINE]}}, "environment.sources"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(NotSupported) as caught:
        check(**fields)
    assert named in caught.value.message
    assert caught.value.code == "not_supported"


@pytest.mark.parametrize(
    ("names", "told"), [(["read_file"], "a tool of the server"), (["f", "g", "f"], "'f' is declared twice")]
)
def test_functions_have_names_of_their_own(names: list[str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        check(tools=[{"type": "function", "name": name} for name in names])
