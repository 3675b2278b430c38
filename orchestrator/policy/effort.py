"""How much work it is to hold a value against a JSON schema, counted without doing it. Pure.

References make small schemas large: thirty definitions, each of which names the next one twice, are a billion checks of
one value, during which a validator lets nothing else run. What is counted here is an upper bound of its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from orchestrator.errors import InvalidRequest

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS = ("$anchor", "$dynamicAnchor")
_DATA = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords that hold values, not schemas."""
_ALL_OF_IT = ("allOf", "anyOf", "oneOf")
_ONE_OF_IT = ("not", "if", "then", "else")
_MEMBERS = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_ITEMS = ("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains")


class Effort:
    """Of one schema. Immutable."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises `InvalidRequest` without a path if a reference does not lead to a place in the schema itself."""
        self._schema = schema
        self._anchors: dict[str, Any] = {}
        own_id = "id" if "draft-04" in str(schema.get("$schema")) else "$id"
        for each in _objects(schema):
            if each is not schema and isinstance(each.get(own_id), str):
                raise InvalidRequest("schemas within a schema that have an '$id' of their own are not supported")
            for name in _ANCHORS:
                if isinstance(each.get(name), str):
                    self._anchors[each[name]] = each
        for each in _objects(schema):
            for name in _REFERENCES:
                if isinstance(reference := each.get(name), str) and not reference.startswith("#"):
                    raise InvalidRequest(f"{name} {reference[:100]!r} does not lead to a place in the schema itself")

    def fits(self, value: Any, most: int) -> bool:
        """Whether holding `value` against the schema takes at most so many steps."""
        left = most
        todo: list[tuple[Any, Any]] = [(self._schema, value)]
        while todo:
            schema, at = todo.pop()
            if not isinstance(schema, dict):
                continue
            left -= _comparisons(schema)
            if left < 0:
                return False
            for step in self._steps(schema, at):
                left -= 1
                if left < 0:
                    return False
                todo.append(step)
        return True

    def _steps(self, schema: dict[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
        for name in _REFERENCES:
            if isinstance(reference := schema.get(name), str):
                yield self._at(reference[1:]), value
        for name in _ALL_OF_IT:
            yield from ((each, value) for each in _listed(schema.get(name)))
        for name in _ONE_OF_IT:
            if name in schema:
                yield schema[name], value
        for name in ("dependentSchemas", "dependencies"):
            yield from ((each, value) for each in _named(schema.get(name)).values())
        if isinstance(value, dict):
            properties = _named(schema.get("properties"))
            yield from ((properties[name], value[name]) for name in value if name in properties)
            for name in _MEMBERS:
                yield from _each(schema.get(name), value.values())
            for pattern in _named(schema.get("patternProperties")).values():
                yield from _each(pattern, value.values())
        elif isinstance(value, list):
            for name in _ITEMS:
                given = schema.get(name)
                if isinstance(given, list):
                    yield from zip(given, value, strict=False)
                else:
                    yield from _each(given, value)

    def _at(self, fragment: str) -> Any:
        """What a reference leads to; None: nothing, which a validator tells."""
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(unquote(fragment))
        found: Any = self._schema
        for part in unquote(fragment).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in it that may be schemas."""
    todo = [schema]
    while todo:
        at = todo.pop()
        if isinstance(at, dict):
            yield at
            todo += [each for name, each in at.items() if name not in _DATA or isinstance(each, dict)]
        elif isinstance(at, list):
            todo += at


def _comparisons(schema: dict[str, Any]) -> int:
    """With how much a value is compared one by one; plain ones are looked up."""
    values = _listed(schema.get("enum"))
    return len(_listed(schema.get("required"))) + (len(values) if _has_structure(values) else 0)


def _has_structure(values: list[Any]) -> bool:
    return any(isinstance(each, dict | list) for each in values[:1] + values[-1:])


def _each(schema: Any, values: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    if isinstance(schema, dict):
        yield from ((schema, value) for value in values)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
