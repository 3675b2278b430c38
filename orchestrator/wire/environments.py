"""Environments as callers describe them and as they are answered (reference, 2.5 and 7). No I/O.

Owns the grammar of variables; that of sources and of rules is in `sources` and `network`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import (
    AnyCase,
    Count,
    Few,
    ListOf,
    WireModel,
    WireResource,
    described,
    either,
    parse,
    problem,
)
from orchestrator.wire.network import CredentialName, Network, public_network
from orchestrator.wire.sources import Source

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID_CHARS = 128
_SETUP_LIMIT, _SETUP_CHARS = 100, 65_536


# variables

_NO_NUL = described(pattern="^[^\\u0000]*$")


class EnvVar(WireModel):
    """A variable: a value in the clear, or the credential whose placeholder it holds. Exactly one is set."""

    model_config = ConfigDict(json_schema_extra=either("value", "credential"))

    value: Annotated[str, _NO_NUL] | None = Field(default=None, repr=False)
    credential: CredentialName | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.value is None) == (self.credential is None):
            raise problem("expected either 'value' or 'credential'")
        if self.value is not None and "\0" in self.value:
            raise problem("must not contain NUL", "value")
        return self

    @property
    def inside(self) -> str:
        """What a sandbox has as its value: never a secret, but a placeholder that is swapped on the way out."""
        return self.value if self.value is not None else f"__GEMINI_CRED_{self.credential}__"


def _as_variables(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    variables: dict[str, Any] = {}
    for name, given in value.items():
        if not _VARIABLE.fullmatch(name):
            raise problem("names of variables are letters, digits and '_', not beginning with a digit", name)
        if isinstance(given, str):
            if "\0" in given:
                raise problem("must not contain NUL", name)
            variables[name] = {"value": given}
        elif isinstance(given, dict | EnvVar):
            variables[name] = given
        else:
            raise problem("expected a string or an object with 'value' or 'credential'", name)
    return variables


_VariableForms = Annotated[
    dict[str, Annotated[str, _NO_NUL] | EnvVar],
    described(propertyNames={"pattern": f"^{_VARIABLE.pattern}$"}, maxProperties=1000),
]
Variables = Annotated[dict[str, EnvVar], BeforeValidator(_as_variables, json_schema_input_type=_VariableForms), Few]


# the environment of a request


def environment_id_of(text: str) -> str:
    """The bare id of `ID` or `environments/ID`. Whether it exists is another question.

    Raises:
        PydanticCustomError: empty or too long to be an id.
    """
    bare = text.removeprefix("environments/")
    if not bare or len(bare) > _ID_CHARS or not bare.isprintable():
        raise PydanticCustomError("problem", "expected 'remote', an environment id or an object")
    return bare


EnvironmentId = Annotated[str, AfterValidator(environment_id_of), described(pattern="^[ -~]+$", maxLength=_ID_CHARS)]
"""`ID` or `environments/ID`."""


SetupCommand = Annotated[str, Field(min_length=1, max_length=_SETUP_CHARS)]


class EnvironmentSpec(WireModel):
    """The environment that a request asks for: a new one, or `environment_id` with changes."""

    type: Annotated[Literal["remote"], AnyCase] = "remote"
    environment_id: EnvironmentId | None = None
    sources: ListOf[Source] = Field(default_factory=list)
    network: Network | None = None
    """Absent: nothing is said, which leaves an existing environment's rules as they are."""
    env: Variables = Field(default_factory=dict)
    setup: Annotated[list[SetupCommand], Field(min_length=1, max_length=_SETUP_LIMIT)] | None = None
    """Commands of bash that prepare an agent's base environment as root, once for all that begin with it; an extension.
    """


# Two ways to write it, for descriptions only: `_as_spec` makes an `EnvironmentSpec` of them.


class EnvironmentForm(EnvironmentSpec):
    """An environment that is wanted: a new one, or `environment_id` with changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["environment_id", "env_id"],
                "properties": {"environment_id": {"type": "string"}, "env_id": {"type": "string"}},
            }
        }
    )

    env_id: EnvironmentId | None = None
    """An older name of `environment_id`."""
    enabled: Literal[True] | None = None
    """Says nothing: an environment is wanted."""


class NoEnvironment(WireModel):
    """A way to write that no environment is wanted."""

    enabled: Literal[False]


_SPELLINGS = frozenset({"enabled", "env_id", "environment_id"})


def _as_spec(value: Any) -> Any:
    """All the ways of 2.5 to write an environment. None: no environment is wanted."""
    if isinstance(value, str):
        return {"type": "remote"} if value.lower() == "remote" else {"environment_id": environment_id_of(value)}
    if value is None or isinstance(value, EnvironmentSpec):
        return value
    if not isinstance(value, dict):
        raise problem("expected 'remote', an environment id or an object")
    # Of these, null is the same as absent; of all others the type says so, and that it does not know them.
    value = {name: item for name, item in value.items() if item is not None or name not in _SPELLINGS}
    if "enabled" in value:
        enabled = value.pop("enabled")
        if not isinstance(enabled, bool):
            raise problem("expected true or false", "enabled")
        if not enabled:
            if value:
                raise problem("false leaves nothing to configure", "enabled")
            return None
    if "env_id" in value:
        if "environment_id" in value:
            raise problem("give either 'environment_id' or 'env_id', not both", "env_id")
        given = value.pop("env_id")
        if not isinstance(given, str):
            raise problem("expected a string", "env_id")
        value["environment_id"] = environment_id_of(given)
    return value


EnvironmentField = Annotated[
    EnvironmentSpec | None,
    BeforeValidator(_as_spec, json_schema_input_type=EnvironmentId | EnvironmentForm | NoEnvironment | None),
]
"""For fields that hold an environment in any of its forms."""
_EnvironmentAdapter: TypeAdapter[EnvironmentSpec | None] = TypeAdapter(EnvironmentField)


def parse_environment(value: Any, at: str = "environment") -> EnvironmentSpec | None:
    """The canonical form of an `environment` field; None if it is absent or switched off.

    Raises:
        InvalidRequest: names the path.
    """
    return parse(_EnvironmentAdapter, value, at)


# resources


class EnvironmentCreate(WireModel):
    """The body of a create call: a fork of another environment, or a new one."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["from_environment"], "properties": {"from_environment": {"type": "string"}}},
            "then": {"properties": {"sources": {"maxItems": 0}}},
        }
    )

    from_environment: EnvironmentId | None = None
    sources: ListOf[Source] = Field(default_factory=list)
    network: Network | None = None
    env: Variables = Field(default_factory=dict)
    """An extension: of a fork, these come on top of the other's."""

    @model_validator(mode="after")
    def _fork_has_no_sources(self) -> Self:
        if self.from_environment is not None and self.sources:
            raise problem("must be empty together with 'from_environment'", "sources")
        return self


SandboxReach = Literal["open", "allowlist", "none"]


class EnvironmentResource(WireResource):
    """An environment as it is answered. Times are RFC 3339 with `Z`; nothing secret is in it."""

    id: str
    status: Literal["active", "expired"]
    created: str
    updated: str
    last_accessed: str
    expires: str | None = None
    """When it is deleted unless somebody uses it; an extension. Absent: never."""
    file_count: Count | None = None
    size_bytes: Count | None = None
    network: Network | None = None
    sandbox_network: SandboxReach | None = None
    """Whom programs inside reach, an extension: everybody that is public, those that `network` lists, or nobody."""
    sources: ListOf[Source] | None = None


def dump_environment(resource: EnvironmentResource, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The wire form: int64 fields are strings, header values of network rules left out, `extra` fields added."""
    answer = resource.model_dump(exclude_none=True)
    for name in ("file_count", "size_bytes"):
        if name in answer:
            answer[name] = str(answer[name])
    if resource.network is not None:
        answer["network"] = public_network(resource.network)
    return {**answer, **(extra or {})}
