"""What all wire types share: the base class, field types, tagged unions, errors that speak of the caller's own JSON.

Owns the way from a value to a typed object: `parse` turns whatever pydantic says into one `InvalidRequest` whose
message names the path as the caller wrote it. May import `orchestrator.errors` and, beside it, `paths` and `jsontext`.

Unions are decided before they are tried: `ByType` reads the object's `type`, `ByShape` looks at the JSON type. So only
the branch that was meant can complain, and a path never holds the name of a branch.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from orchestrator.errors import InvalidRequest
from orchestrator.wire.jsontext import DEFAULT_LIMITS, JsonLimits, encode_json, parse_json
from orchestrator.wire.paths import path_of, quote

__all__ = [
    "DEFAULT_LIMITS",
    "AnyCase",
    "Base64",
    "ByShape",
    "ByType",
    "Count",
    "Few",
    "Flag",
    "Int64",
    "JsonLimits",
    "ListOf",
    "Number",
    "Positive",
    "WireModel",
    "WireResource",
    "base64_bytes",
    "described",
    "dump",
    "either",
    "encode_json",
    "missing",
    "parse",
    "parse_json",
    "path_of",
    "problem",
    "quote",
    "spelled",
    "types_of",
]

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_BRANCH = "\0"
"""Begins the name of every union branch, so that branches can be told from keys in pydantic's error locations."""
ALIASES = "x-aliases"
"""For `orchestrator.wire.schema`: further names of a union's members, in its JSON schema."""
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MATCHED_CHARS = 80
_ENTRIES = 1000
_INT64 = re.compile(r"-?[0-9]{1,19}")
_INT64_LIMIT = 2**63
BASE64_PATTERN = "^([A-Za-z0-9+/_-]{4})*([A-Za-z0-9+/_-]{2,3})?={0,2}$"
"""What the description says of base64; line breaks, which go as well, would make it unreadable."""


# the base class


class WireModel(BaseModel):
    """Immutable, snake case only, unknown fields refused with the closest known name; null is the same as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    _names: ClassVar[dict[type[BaseModel], frozenset[str]]] = {}
    """Filled at first use, per class."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if isinstance(data, dict) and cls.model_config.get("extra") == "forbid":
            known = WireModel._names.get(cls)
            if known is None:
                known = frozenset(spec.alias or name for name, spec in cls.model_fields.items())
                WireModel._names[cls] = known
            if not known.issuperset(data):
                name = next(name for name in data if name not in known)
                raise PydanticCustomError("unknown_parameter", "unknown", {"name": str(name), "known": sorted(known)})
            if None in data.values():
                return {name: value for name, value in data.items() if value is not None}
        return data


class WireResource(WireModel):
    """An answer of the server: fields of a newer server are kept, not refused."""

    model_config = ConfigDict(extra="allow")


def dump(model: BaseModel) -> dict[str, Any]:
    """The wire form: fields in declared order, those that are None left out (inside free-form JSON, nulls stay)."""
    return model.model_dump(exclude_none=True)


# what a type's description says beyond its fields


def described(**keywords: Any) -> Any:
    """Keywords for the JSON schema of a type of which pydantic knows only that it has a validator."""
    return Field(json_schema_extra=keywords)


def spelled(pattern: re.Pattern[str]) -> Any:
    """The same for text that must match as a whole."""
    return described(pattern=f"^(?:{pattern.pattern})$")


def either(*names: str) -> dict[str, Any]:
    """JSON schema of an object that has exactly one of these texts. Null is the same as absent."""
    return {
        "oneOf": [
            {
                "required": [name],
                "properties": {other: {"type": "string" if other == name else "null"} for other in names},
            }
            for name in names
        ]
    }


# field types


def _as_int64(value: Any) -> Any:
    if isinstance(value, str):
        if not _INT64.fullmatch(value):
            raise PydanticCustomError("problem", "expected an integer")
        value = int(value)
    if isinstance(value, bool):
        raise PydanticCustomError("problem", "expected an integer")
    if isinstance(value, int) and not -_INT64_LIMIT <= value < _INT64_LIMIT:
        raise PydanticCustomError("problem", "expected an integer of at most 64 bits")
    return value


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _ENTRIES:
        raise PydanticCustomError("problem", "expected at most {limit} entries", {"limit": _ENTRIES})
    return value


def _written_as(digits: str, least: int) -> BeforeValidator:
    """How callers may write an integer: a number, or `digits` in a string."""
    number = Annotated[int, Field(ge=least, lt=_INT64_LIMIT)]
    return BeforeValidator(_as_int64, json_schema_input_type=number | Annotated[str, Field(pattern=digits)])


def _at_least(least: int) -> AfterValidator:
    def check(value: int) -> int:
        if value < least:
            raise PydanticCustomError("problem", "expected an integer of at least {least}", {"least": least})
        return value

    return AfterValidator(check)


def _canonical_base64(text: str) -> str:
    compact = text
    if "\n" in text or "\r" in text:
        compact = compact.replace("\r", "").replace("\n", "")
    compact = compact.replace("-", "+").replace("_", "/").rstrip("=")
    compact += "=" * (-len(compact) % 4)
    try:
        binascii.a2b_base64(compact, strict_mode=True)
    except ValueError:
        raise PydanticCustomError("problem", "expected base64") from None
    return compact


def base64_bytes(canonical: str) -> bytes:
    """The bytes behind a `Base64` field."""
    return base64.b64decode(canonical)


@dataclass(frozen=True)
class _StopAtFirstFault:
    """pydantic's own `FailFast` is not hashable, which unions need."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if schema["type"] != "list":
            raise TypeError(f"not a list: {source}")
        return cast(CoreSchema, {**schema, "fail_fast": True})


Int64 = Annotated[int, _written_as("^-?[0-9]{1,18}$", -_INT64_LIMIT)]
"""An integer; callers may write it as a string of digits."""
Count = Annotated[int, _written_as("^[0-9]{1,18}$", 0), _at_least(0)]
Positive = Annotated[int, _written_as("^[1-9][0-9]{0,17}$", 1), _at_least(1)]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict()]
Base64 = Annotated[str, AfterValidator(_canonical_base64), described(pattern=BASE64_PATTERN)]
"""Standard base64 with padding; callers may use the URL-safe alphabet, line breaks, and leave the padding out."""
Few = BeforeValidator(_few)
"""For free-form objects of validated values: at most 1,000 entries, checked before any of them is looked at."""
AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
"""For enums: callers may write them in any case."""
ListOf = Annotated[list[T], _StopAtFirstFault()]
"""A list whose validation stops at the first wrong item."""


# unions


@dataclass(frozen=True)
class ByType:
    """Makes a union of models that are told apart by their `type`: `Annotated[A | B, ByType("step")]`.

    The case of `type` does not matter to callers; `aliases` maps further accepted names to canonical ones.
    """

    noun: str
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {}
        for model in get_args(source):
            schema = handler.generate_schema(model)
            choices.update({_BRANCH + name: schema for name in types_of(model)})
        union = core_schema.tagged_union_schema(
            choices,
            _branch_by_type,
            custom_error_type="unknown_type",
            custom_error_message="unknown type",
            custom_error_context={"noun": self.noun, "known": ", ".join(name[1:] for name in choices)},
        )
        return core_schema.no_info_before_validator_function(self._canonical, union)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        union = handler(schema)["oneOf"]
        return {"oneOf": union, "discriminator": {"propertyName": "type"}, ALIASES: dict(self.aliases)}

    def _canonical(self, value: Any) -> Any:
        if isinstance(value, dict):
            name = value.get("type")
            if isinstance(name, str):
                canonical = self.aliases.get(name.lower(), name.lower())
                if canonical != name:
                    return {**value, "type": canonical}
        return value


def types_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values that a model's `type` field may have."""
    return get_args(model.model_fields["type"].annotation)


def _branch_by_type(value: Any) -> str | None:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _BRANCH + name if isinstance(name, str) else None


@dataclass(frozen=True)
class ByShape:
    """Makes a union of which the JSON type decides: `Annotated[str | list[X] | Y, ByShape("a string, a list or …")]`.

    At most one member each may be a string, a list and an object.
    """

    expected: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {
            _BRANCH + _shape_of(kind): handler.generate_schema(kind) for kind in get_args(source)
        }
        return core_schema.tagged_union_schema(
            choices,
            _branch_by_shape,
            custom_error_type="wrong_shape",
            custom_error_message="wrong shape",
            custom_error_context={"expected": self.expected},
        )


def _shape_of(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        return _shape_of(get_args(kind)[0])
    if kind is str or origin is Literal:
        return "string"
    return "list" if origin is list else "object"


def _branch_by_shape(value: Any) -> str | None:
    if isinstance(value, str):
        return _BRANCH + "string"
    if isinstance(value, list):
        return _BRANCH + "list"
    return _BRANCH + "object" if isinstance(value, dict | BaseModel) else None


# errors


def problem(text: str, *at: str | int) -> ValidationError:
    """An error for validators to raise: `text` reads after "Invalid value at 'path':"; `at` leads on from here."""
    error = PydanticCustomError("problem", "{text}", {"text": text})
    return ValidationError.from_exception_data("wire", [{"type": error, "loc": at, "input": None}])


def missing(name: str) -> ValidationError:
    """An error for validators to raise: a field that is required in these circumstances is not there."""
    error = PydanticCustomError("missing", "missing")
    return ValidationError.from_exception_data("wire", [{"type": error, "loc": (name,), "input": None}])


@overload
def parse(target: type[ModelT], data: Any, at: str = "") -> ModelT: ...
@overload
def parse(target: TypeAdapter[T], data: Any, at: str = "") -> T: ...
def parse(target: type[BaseModel] | TypeAdapter[Any], data: Any, at: str = "") -> Any:
    """Validates decoded JSON. `at` is the path of `data` in what the caller sent.

    Raises:
        InvalidRequest: names the first problem found, its path and what was expected.
    """
    validate = target.validate_python if isinstance(target, TypeAdapter) else target.model_validate
    try:
        return validate(data)
    except ValidationError as error:
        raise InvalidRequest(_describe(error, at)) from None


def _describe(error: ValidationError, at: str) -> str:
    try:
        first: Mapping[str, Any] = error.errors(include_url=False)[0]
    except UnicodeEncodeError:  # half of a surrogate pair in a name, which the library cannot even report
        return "Invalid request: a parameter's name is not valid text."
    location = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(_BRANCH))]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "unknown_parameter":
        known = _suggestion(context["name"], context["known"])
        return f"Unknown parameter {quote(context['name'])}{_where(at, location)}{known}."
    if kind == "missing":
        return f"Missing required parameter {quote(str(location[-1]))}{_where(at, location[:-1])}."
    if kind == "unknown_type":
        return _describe_type(context, first["input"], at, location)
    return _invalid(path_of(at, location), _expectation(kind, context, str(first["msg"])))


def _describe_type(context: Mapping[str, Any], value: Any, at: str, location: list[str | int]) -> str:
    noun, known = context["noun"], context["known"]
    if not isinstance(value, dict):
        return _invalid(path_of(at, location), "expected an object")
    if "type" not in value:
        return f"Missing required parameter 'type'{_where(at, location)}; known {noun} types: {known}."
    path = path_of(at, [*location, "type"])
    if not isinstance(value["type"], str):
        return _invalid(path, "expected a string")
    return f"Unknown {noun} type {quote(value['type'])} at '{path}'; known: {known}."


_EXPECTED = {
    "string_type": "expected a string",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "literal_error": "expected {expected}",
    "wrong_shape": "expected {expected}",
    "too_short": "expected at least {min_length} items",
    "too_long": "expected at most {max_length} items",
    "string_too_short": "expected at least {min_length} characters",
    "string_too_long": "expected at most {max_length} characters",
}


def _expectation(kind: str, context: Mapping[str, Any], message: str) -> str:
    if context.get("min_length") == 1:
        return "must not be empty"
    template = _EXPECTED.get(kind)
    if template is not None:
        return template.format(**context)
    return message if kind == "problem" else message[:1].lower() + message[1:]


def _invalid(path: str, expectation: str) -> str:
    return f"Invalid value at '{path}': {expectation}." if path else f"Invalid request: {expectation}."


def _where(at: str, location: list[str | int]) -> str:
    path = path_of(at, location)
    return f" at '{path}'" if path else ""


def _suggestion(name: str, known: list[str]) -> str:
    snake = _CAMEL_HUMP.sub("_", name[:_MATCHED_CHARS]).lower().replace("-", "_")
    close = get_close_matches(snake, known, 1)
    return f" (closest known name: '{close[0]}')" if close else f" (known names: {', '.join(known)})"
