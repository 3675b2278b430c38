"""Hooks: what an environment's `hooks.json` wants to be asked before and told after tool calls (reference, 6.3). Pure.

Such files come out of sandboxes: whatever is in them, reading takes little and what is wrong is said in a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.agents.guidance import plain
from orchestrator.egress.posting import Posted
from orchestrator.errors import InvalidRequest
from orchestrator.policy.network import may_be_set
from orchestrator.policy.patterns import Pattern
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from orchestrator.wire.jsontext import JsonLimits, parse_json
from orchestrator.wire.network import is_header

HOOKS_FILE_LIMIT_BYTES = 256 * 1024
HOOKS_LIMIT = 64
"""Of one file."""
OUTPUT_LIMIT_BYTES = 64 * 1024
"""What one hook may write."""

_JSON_LIMITS = JsonLimits(depth=16, values=20_000)
_COMMAND_CHARS = 64 * 1024
_HEADERS = 32
_TIMEOUT_S = 30.0
_LONGEST_TIMEOUT_S = 600.0
_REASON_CHARS = 1000
_GROUP_CHARS = 100
_ALL = ("", "*")
_PUBLIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "read_file": ("view_file",),
    "write_file": ("write_to_file",),
    "edit_file": ("replace_file_content",),
    "list_files": ("list_dir",),
    "search_files": ("grep_search", "find_by_name"),
}
"""Our tools by the names that the public documentation gives them."""

When = Literal["pre", "post"]
_EVENTS: Mapping[str, When] = {"pre_tool_execution": "pre", "post_tool_execution": "post"}


@dataclass(frozen=True, slots=True)
class Hook:
    """One program or address that is asked."""

    group: str
    when: When
    kind: Literal["command", "http"]
    target: str
    """The command for bash, or the URL."""
    timeout_s: float
    pattern: Pattern | None
    """None: it is asked for every tool."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of http hooks."""

    def concerns(self, tool: str) -> bool:
        """Whether it is asked for calls of `tool`, by that name or a public one."""
        names = (tool, *_PUBLIC_NAMES.get(tool, ()))
        return self.pattern is None or any(map(self.pattern.is_in, names))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a hook came to. A hook that failed neither allows nor denies: the operator's setting does."""

    decision: Literal["allow", "deny", "failed"]
    reason: str = ""
    """One line, fit to be shown to anybody."""


def read_hooks(text: str) -> tuple[Hook, ...]:
    """The hooks of one file that are enabled, in its order.

    Raises:
        InvalidRequest: what is wrong with it, and where. None of its hooks holds then.
    """
    try:
        document = parse_json(text.encode("utf-8", "replace"), _JSON_LIMITS)
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace("The request body", "the file", 1)) from None
    hooks: list[Hook] = []
    for name, group in _object(document, "the file").items():
        for hook in _hooks_of(name, _object(group, f"group {name[:100]!r}")):
            if len(hooks) == HOOKS_LIMIT:
                raise InvalidRequest(f"there are more than {HOOKS_LIMIT} hooks")
            hooks.append(hook)
    return tuple(hooks)


def read_answer(outcome: CallOutcome) -> Answer:
    """What the outcome of a command means."""
    if outcome.verdict is Verdict.OUTPUT_LIMIT or outcome.dropped_bytes:
        return Answer("failed", f"it wrote more than {OUTPUT_LIMIT_BYTES >> 10} KiB")
    if outcome.verdict is Verdict.EXITED and outcome.exit_code:
        return Answer("failed", f"it ended with exit code {outcome.exit_code}")
    if not outcome.is_ok:
        return Answer("failed", f"it did not end well: {outcome.verdict.value}")
    return _decision(outcome.head + outcome.tail)


def read_posted(posted: Posted) -> Answer:
    """What an address that was asked has answered."""
    if not 200 <= posted.status < 300:
        return Answer("failed", f"it answered with status {posted.status}")
    return _decision(posted.body)


def _decision(output: bytes) -> Answer:
    try:
        said = _object(parse_json(output, _JSON_LIMITS), "the answer")
        reason = said.get("reason")
        match said.get("decision"):
            case "allow":
                return Answer("allow")
            case "deny":
                return Answer("deny", shown(reason) if isinstance(reason, str) else "")
    except InvalidRequest:
        pass
    return Answer("failed", 'its answer is not {"decision": "allow"} or {"decision": "deny", "reason": …}')


def shown(text: str) -> str:
    """A text of a sandbox as one line of bounded length without anything invisible."""
    # Cut first: what is behind the cut would only cost.
    return " ".join(plain(text[: 4 * _REASON_CHARS]).split())[:_REASON_CHARS]


def _hooks_of(name: str, group: Mapping[str, Any]) -> Iterator[Hook]:
    where = f"group {name[:100]!r}"
    is_enabled = group.get("enabled", True)
    if not isinstance(is_enabled, bool):
        raise InvalidRequest(f"{where}: 'enabled' is not true or false")
    if unknown := [key for key in group if key not in (*_EVENTS, "enabled")]:
        # A gate with a misspelt name would stand open.
        raise InvalidRequest(f"{where}: unknown name {unknown[0][:100]!r}")
    for event, when in _EVENTS.items():
        for entry in _list(group.get(event, []), f"{where}: {event}"):
            rule = _object(entry, f"{where}: a rule of {event}")
            matcher = rule.get("matcher", "")
            if not isinstance(matcher, str):
                raise InvalidRequest(f"{where}: a 'matcher' is not a text")
            pattern = None if matcher in _ALL else Pattern(matcher)
            for each in _list(rule.get("hooks", []), f"{where}: 'hooks'"):
                hook = _hook(shown(name)[:_GROUP_CHARS], when, _object(each, f"{where}: a hook"), pattern, where)
                if is_enabled:
                    yield hook


def _hook(name: str, when: When, given: Mapping[str, Any], pattern: Pattern | None, where: str) -> Hook:
    kind = given.get("type")
    if kind not in ("command", "http"):
        raise InvalidRequest(f"{where}: the 'type' of a hook is neither 'command' nor 'http'")
    field = "command" if kind == "command" else "url"
    target = given.get(field)
    if not isinstance(target, str) or not target.strip() or "\0" in target or len(target) > _COMMAND_CHARS:
        raise InvalidRequest(f"{where}: the {field!r} of a hook is missing or cannot be used")
    timeout_s = given.get("timeout", _TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
        raise InvalidRequest(f"{where}: the 'timeout' of a hook is not a number of seconds up to 600")
    headers = given.get("headers", {})
    if kind == "command" and headers:
        raise InvalidRequest(f"{where}: only http hooks have 'headers'")
    return Hook(name, when, kind, target, float(timeout_s), pattern, _headers(headers, where))


def _headers(given: Any, where: str) -> dict[str, str]:
    headers = _object(given, f"{where}: 'headers' of a hook")
    if len(headers) > _HEADERS:
        raise InvalidRequest(f"{where}: a hook has more than {_HEADERS} 'headers'")
    for name, value in headers.items():
        if not isinstance(value, str) or not is_header(name, value) or not may_be_set(name):
            raise InvalidRequest(f"{where}: the header {name[:100]!r} of a hook cannot be sent")
    return headers


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{what} is not a list")
    return value
