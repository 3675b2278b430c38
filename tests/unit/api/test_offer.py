"""What is not there is refused by name; what is there passes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.api.offer import check_offered
from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.wire.interactions import parse_interaction_request

INLINE = {"type": "inline", "target": "workspace/a", "content": "x"}


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
        {"tools": []},
        {"tools": [{"type": "code_execution"}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        {"input": [{"type": "function_result", "call_id": "c", "result": {"ok": True}}]},
        {"stream": True},
        {"background": True},
        {"store": True},
        {"service_tier": "standard"},
        {"system_instruction": "Be brief."},
        {"labels": {"a": "b"}},
        {"agent_config": {"type": "antigravity", "max_total_tokens": 5}},
        {"input": [{"type": "text", "text": "x"}, {"type": "image", "data": "AAAA", "mime_type": "image/png"}]},
        {"previous_interaction_id": "v1_x"},
    ],
    ids=str,
)
def test_offered(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"generation_config": {"temperature": 1}}, "generation_config"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"store": False}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"agent_config": {"type": "deep-research"}}, "agent_config.type"),
        ({"tools": [{"type": "code_execution"}, {"type": "google_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"input": [{"type": "function_call", "id": "c", "name": "f"}]}, "input[0].type"),
        ({"input": [{"type": "document", "data": "AAAA", "mime_type": "application/pdf"}]}, "content"),
        ({"environment": {"network": {"allowlist": []}}}, "environment.network.allowlist"),
        ({"environment": {"sources": [{"type": "repository", "source": "https://x", "target": "workspace/r"}]}},
         "environment.sources[0].type"),
        ({"environment": {"environment_id": "a" * 32, "sources": [INLINE]}}, "environment.sources"),
        ({"environment": {"env": {"A": {"credential": "c"}}}}, "environment.env.A.credential"),
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
