"""JSON schemas of the wire's types, for the description of the API. Pure; imports `base` only, and is imported late.

What pydantic derives is completed with what it cannot know: that null is the same as absent, that `type` decides about
unions, that answers have no nulls and may grow, and what the docstrings below fields say.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from orchestrator.wire.base import ALIASES, WireModel, WireResource

Mode = Literal["validation", "serialization"]
"""What callers send, and what they are sent."""

_MODES: tuple[Mode, ...] = ("validation", "serialization")
_REF = "#/components/schemas/"


Components = dict[str, JsonSchemaValue]


def schemas(types: Sequence[tuple[Any, Mode]], unions: Mapping[str, Any]) -> tuple[list[JsonSchemaValue], Components]:
    """A schema for each of the types, in their order, and the components that these refer to.

    A type that is sent and received, and is not the same in both, is two components, `…-Input` and `…-Output`.
    `unions` have no name of their own; where one of them is met, it is a component, too.
    """
    wanted = [*types, *((kind, mode) for kind in unions.values() for mode in _MODES)]
    adapters = [(index, mode, TypeAdapter(kind)) for index, (kind, mode) in enumerate(wanted)]
    found, rest = TypeAdapter.json_schemas(adapters, ref_template=_REF + "{model}", schema_generator=_Generator)
    ordered = [found[index, mode] for index, (_, mode) in enumerate(wanted)]
    components: Components = rest["$defs"]
    for part in [*ordered, *components.values()]:
        _decide_by_type(part, components)
    named = _named(unions, ordered[len(types) :])
    components = {name: _with_names(part, named) for name, part in components.items()}
    components |= {name: _with_names(part, named, but=name) for name, part in named.items()}
    shown = [_with_names(part, named) for part in ordered[: len(types)]]
    used = _used(shown, components)
    alone = {
        _REF + name: _REF + name.removesuffix(end)
        for name in used
        for end, other in (("-Input", "-Output"), ("-Output", "-Input"))
        if name.endswith(end) and name.removesuffix(end) + other not in used
    }
    plain: tuple[list[JsonSchemaValue], Components] = _renamed((shown, used), alone)
    return plain


def _named(unions: Mapping[str, Any], parts: Sequence[JsonSchemaValue]) -> Components:
    named: Components = {}
    for name, (given, answered) in zip(unions, zip(parts[::2], parts[1::2], strict=True), strict=True):
        named |= {name: given} if given == answered else {f"{name}-Input": given, f"{name}-Output": answered}
    return named


def _with_names(part: Any, named: Components, but: str = "") -> Any:
    if isinstance(part, list):
        return [_with_names(item, named) for item in part]
    if not isinstance(part, dict):
        return part
    for name, union in named.items():
        if name != but and union.items() <= part.items():
            return {"$ref": _REF + name, **{key: part[key] for key in part.keys() - union.keys()}}
    return {key: _with_names(value, named) for key, value in part.items()}


def _renamed(part: Any, names: Mapping[str, str]) -> Any:
    """With other references, and other names of the components."""
    if isinstance(part, str):
        return names.get(part, part)
    if isinstance(part, list | tuple):
        return type(part)(_renamed(item, names) for item in part)
    if not isinstance(part, dict):
        return part
    return {names.get(_REF + key, key).removeprefix(_REF): _renamed(value, names) for key, value in part.items()}


def _used(parts: Sequence[JsonSchemaValue], components: Components) -> Components:
    used: set[str] = set()
    left = _references(parts)
    while left:
        used |= left
        left = {name for known in left for name in _references(components[known])} - used
    return {name: components[name] for name in sorted(used)}


def _references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {name for item in part for name in _references(item)}
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"].removeprefix(_REF)} if isinstance(part.get("$ref"), str) else set()
    return own.union(*(_references(value) for value in part.values()))


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization" and "default" in field["schema"]:
            return field["schema"]["default"] is not None
        return super().field_is_required(field, total)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if self.mode == "serialization" or found.get("default", ...) is None:
            found.pop("default", None)
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        model = schema["cls"]
        if not issubclass(model, WireModel):
            return found
        texts = _field_docstrings(model)
        required = found.get("required", ())
        properties = found.get("properties", {})
        for name, spec in properties.items():
            if self.mode == "serialization":
                properties[name] = _without_null(spec)
            elif model.model_config.get("extra") == "forbid" and name not in required:
                properties[name] = _with_null(spec)
            if name in texts:
                properties[name] = {**properties[name], "description": texts[name]}
        keeps_others = model.model_config.get("extra") == "allow" and not issubclass(model, WireResource)
        if self.mode == "serialization" and not keeps_others:
            found.pop("additionalProperties", None)
        return found

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        found = super().dataclass_schema(schema)
        for name, text in _field_docstrings(schema["cls"]).items():
            if name in found["properties"]:
                found["properties"][name]["description"] = text
        return found


def _with_null(spec: JsonSchemaValue) -> JsonSchemaValue:
    null = {"type": "null"}
    if null in spec.get("anyOf", ()):
        return spec
    if set(spec) <= {"anyOf", "default"}:
        return {**spec, "anyOf": [*spec["anyOf"], null]}
    inner = {name: value for name, value in spec.items() if name != "default"}
    return {"anyOf": [inner, null], **({"default": spec["default"]} if "default" in spec else {})}


def _without_null(spec: JsonSchemaValue) -> JsonSchemaValue:
    choices = [choice for choice in spec.get("anyOf", ()) if choice != {"type": "null"}]
    if not choices or len(choices) == len(spec["anyOf"]):
        return spec
    rest = {name: value for name, value in spec.items() if name != "anyOf"}
    return {**choices[0], **rest} if len(choices) == 1 else {"anyOf": choices, **rest}


def _decide_by_type(part: Any, components: dict[str, JsonSchemaValue]) -> None:
    """Members of a union have to have a `type`, and list beside its name what callers may write instead."""
    if isinstance(part, list):
        for item in part:
            _decide_by_type(item, components)
        return
    if not isinstance(part, dict):
        return
    if isinstance(part.get(ALIASES), dict):
        aliases = part.pop(ALIASES)
        mapping: dict[str, str] = {}
        for member in part["oneOf"]:
            name = member["$ref"].removeprefix(_REF)
            model = components[name]
            spec = model["properties"]["type"]
            spec = spec.get("anyOf", [spec])[0]  # no longer a default, so not null either
            names = list(spec.get("enum") or [spec["const"]])
            names += [alias for alias, canonical in aliases.items() if canonical in names and alias not in names]
            model["properties"]["type"] = {"type": "string", "enum": names}
            model["required"] = ["type", *(each for each in model.get("required", ()) if each != "type")]
            mapping.update(dict.fromkeys(names, member["$ref"]))
        part["discriminator"]["mapping"] = mapping
    for value in part.values():
        _decide_by_type(value, components)


# docstrings below fields


def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("orchestrator."):
            texts.update(_docstrings(base.__module__).get(base.__qualname__, {}))
    return texts


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Of each class of a module, the texts below its fields."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_texts(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> list[tuple[str, str]]:
    return [
        (field.target.id, inspect.cleandoc(below.value.value))
        for field, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    ]
