"""YAML that people write, read so that every value knows its line. Pure; imports `wire.paths` and `errors` only.

Plain data only: no tags, no anchors and hence no aliases that multiply, no name twice, bounded in size and depth. Dates
stay text, as in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.errors import ConfigError
from orchestrator.wire.paths import path_of, quote

_LIMIT_BYTES = 1 << 20
_DEPTH = 32
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True, slots=True)
class Marked:
    """A document."""

    value: Any
    lines: Mapping[str, int]
    """Path, as messages name it (`tools[0].type`), to line, from 1. Of members, the line of their name."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _fault("aliases are not allowed here", event)
        if getattr(event, "anchor", None) is not None:
            raise _fault("anchors are not allowed here", event)
        if getattr(event, "tag", None) is not None:
            raise _fault("tags are not allowed here", event)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, file: str) -> Marked:
    """The one document of `text`.

    Raises:
        ConfigError: not YAML as it is taken here; names `file`, line and what is wrong.
    """
    if len(text.encode("utf-8", "replace")) > _LIMIT_BYTES:
        raise ConfigError(f"{file}: more than {_LIMIT_BYTES} bytes")
    lines: dict[str, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _value(loader, node, [], lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    return Marked(value, lines)


def _value(loader: _Loader, node: Any, at: list[str | int], lines: dict[str, int]) -> Any:
    if len(at) > _DEPTH:
        raise _fault(f"more than {_DEPTH} levels inside each other", node)
    lines.setdefault(path_of("", at), node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, [*at, index], lines) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    found: dict[str, Any] = {}
    for key, item in node.value:
        name = loader.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(name, str):
            raise _fault("names must be text", key)
        if name in found:
            raise _fault(f"{quote(name)} is given twice", key)
        lines[path_of("", [*at, name])] = key.start_mark.line + 1
        found[name] = _value(loader, item, [*at, name], lines)
    return found


def _fault(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
