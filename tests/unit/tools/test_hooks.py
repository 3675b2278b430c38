"""What a `hooks.json` means, whatever is in it, and what programs say."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from orchestrator.tools.hooks import HOOKS_FILE_LIMIT_BYTES, HOOKS_LIMIT, Hook, read_answer, read_hooks
from tests.fakes.sandboxes import outcome

COMMAND = {"type": "command", "command": "true"}
REFERENCE = {
    "block-private": {
        "enabled": True,
        "pre_tool_execution": [
            {
                "matcher": "view_file|code_execution",
                "hooks": [{"type": "command", "command": "python3 /.agents/hooks-scripts/gate.py", "timeout": 10}],
            }
        ],
    },
    "audit": {
        "post_tool_execution": [
            {
                "matcher": "*",
                "hooks": [
                    {"type": "http", "url": "https://audit.example.com/hook", "headers": {"X-Source": "sandbox"}}
                ],
            }
        ]
    },
}
KEYS = st.sampled_from(
    ["a", "enabled", "pre_tool_execution", "post_tool_execution", "matcher", "hooks", "type", "command", "timeout"]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["command", "http", "*", "(", "(?=a)"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def rule(matcher: Any = "*", **changes: Any) -> str:
    return json.dumps({"g": {"pre_tool_execution": [{"matcher": matcher, "hooks": [{**COMMAND, **changes}]}]}})


def concerned(matcher: str, tool: str) -> bool:
    (hook,) = read_hooks(rule(matcher))
    return hook.concerns(tool)


def test_the_file_of_the_reference() -> None:
    gate, audit = read_hooks(json.dumps(REFERENCE))
    assert (gate.group, gate.when, gate.kind, gate.timeout_s) == ("block-private", "pre", "command", 10.0)
    assert gate.target == "python3 /.agents/hooks-scripts/gate.py"
    assert (audit.when, audit.kind, audit.target, audit.timeout_s, audit.pattern) == (
        "post",
        "http",
        "https://audit.example.com/hook",
        30.0,
        None,
    )
    assert [gate.concerns(tool) for tool in ("read_file", "code_execution", "write_file")] == [True, True, False]


@pytest.mark.parametrize("matcher", ["", "*", ".*"])
def test_what_matches_all(matcher: str) -> None:
    assert concerned(matcher, "code_execution")


@pytest.mark.parametrize(
    ("public", "own"),
    [
        ("view_file", "read_file"),
        ("write_to_file", "write_file"),
        ("replace_file_content", "edit_file"),
        ("list_dir", "list_files"),
        ("delete_file", "delete_file"),
    ],
)
def test_tools_have_their_public_names_too(public: str, own: str) -> None:
    assert concerned(f"^{public}$", own)
    assert concerned(f"^{own}$", own)
    assert not concerned(f"^{public}$", "code_execution")


def test_a_matcher_is_looked_for_anywhere_in_a_name() -> None:
    assert concerned("_file", "read_file")
    assert not concerned("^file", "read_file")


def test_a_group_that_is_off_has_no_hooks_but_must_be_right() -> None:
    off = {"g": {"enabled": False, "pre_tool_execution": [{"hooks": [COMMAND]}]}}
    assert read_hooks(json.dumps(off)) == ()
    off["g"]["pre_tool_execution"] = 7
    with pytest.raises(InvalidRequest):
        read_hooks(json.dumps(off))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("[]", "not an object"),
        ("{", "Malformed"),
        ("[" * 10_000, "deep"),
        ('{"a": {}, "a": {}}', "a"),
        ('{"g": {"pre_tool_exection": []}}', "unknown name 'pre_tool_exection'"),
        ('{"g": {"enabled": "no"}}', "'enabled'"),
        ('{"g": {"pre_tool_execution": {}}}', "not a list"),
        (rule("("), "no pattern"),
        (rule("(?=a)"), "no pattern"),
        (rule("a{1,1000}{1,1000}{1,1000}"), "no pattern"),
        (rule("a" * 1001), "1000 characters"),
        (rule(7), "'matcher'"),
        (rule(type="exec"), "'type'"),
        (rule(command=""), "'command'"),
        (rule(command="a\0b"), "'command'"),
        (rule(type="http"), "'url'"),
        (rule(type="http", url="http://x", headers={"X": 1}), "'X'"),
        (rule(type="http", url="http://x", headers={"X": "a\r\nY: b"}), "'X'"),
        (rule(type="http", url="http://x", headers={"Host": "y"}), "'Host'"),
        (rule(type="http", url="http://x", headers={f"X-{n}": "" for n in range(33)}), "32"),
        (rule(headers={"X": "y"}), "only http hooks"),
        (rule(timeout=0), "'timeout'"),
        (rule(timeout=True), "'timeout'"),
        (rule(timeout=601), "'timeout'"),
        (rule(timeout="10"), "'timeout'"),
        (json.dumps({"g": {"pre_tool_execution": [{"hooks": [COMMAND] * (HOOKS_LIMIT + 1)}]}}), "more than 64"),
    ],
)
def test_what_is_wrong_is_said(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=r".") as refused:
        read_hooks(text)
    assert told in refused.value.message


def test_a_matcher_takes_linear_time() -> None:
    (hook,) = read_hooks(rule("^(a+)+$"))
    began = time.monotonic()
    assert not hook.concerns("a" * 50_000 + "!")
    assert time.monotonic() - began < 1


def test_the_largest_file_takes_little() -> None:
    text = '{"g": {"pre_tool_execution": [' + "{}," * (HOOKS_FILE_LIMIT_BYTES // 3 - 20) + "{}]}}"
    began = time.monotonic()
    with pytest.raises(InvalidRequest):
        read_hooks(text)
    assert time.monotonic() - began < 1


@given(ANYTHING)
def test_any_document_is_read_or_refused(document: Any) -> None:
    try:
        hooks = read_hooks(json.dumps(document))
    except InvalidRequest as error:
        assert len(error.message) < 500
    else:
        assert all(isinstance(hook, Hook) for hook in hooks)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_hooks(text)
    except InvalidRequest:
        return
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("ended", "decision", "reason"),
    [
        (outcome('{"decision": "allow"}\n'), "allow", ""),
        (outcome('{"decision": "deny", "reason": "No\\u202e\\n\\n secrets."}'), "deny", "No secrets."),
        (outcome('{"decision": "deny"}'), "deny", ""),
        (outcome('{"decision": "deny", "reason": 7}'), "deny", ""),
        (outcome('{"decision": "deny"}', exit_code=1), "failed", "it ended with exit code 1"),
        (outcome('{"decision": "deny"}', exit_code=None, verdict=Verdict.TIMEOUT), "failed", "timeout"),
        (outcome('{"decision": "deny"}', dropped_bytes=1), "failed", "64 KiB"),
        (outcome("", exit_code=None, verdict=Verdict.OUTPUT_LIMIT), "failed", "64 KiB"),
        (outcome(""), "failed", "its answer is not"),
        (outcome("[" * 60_000), "failed", "its answer is not"),
        (outcome('{"decision": ["deny"]}'), "failed", "its answer is not"),
        (outcome(b"\xff"), "failed", "its answer is not"),
    ],
)
def test_what_a_hook_says(ended: CallOutcome, decision: str, reason: str) -> None:
    answer = read_answer(ended)
    assert answer.decision == decision
    assert reason in answer.reason


def test_a_reason_is_bounded() -> None:
    assert len(read_answer(outcome(json.dumps({"decision": "deny", "reason": "x" * 60_000}))).reason) == 1000


def test_names_of_groups_are_fit_to_be_shown() -> None:
    text = json.dumps({"\u001b[31m\u202ered" + "x" * 5000: {"pre_tool_execution": [{"hooks": [COMMAND]}]}})
    (hook,) = read_hooks(text)
    assert hook.group.isprintable()
    assert len(hook.group) == 100
