"""Credentials as callers give them and as they are answered (reference, 7.5). No I/O.

What is secret never leaves again: answers have metadata only. Which domains and addresses are allowed is policy's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import AnyCase, ByType, ListOf, WireModel, WireResource, described, parse, problem, quote
from orchestrator.wire.network import is_header

CREDENTIAL_ID = re.compile(r"[a-z0-9]+(?:(?:-+|_)[a-z0-9]+)*")
"""No two `_` side by side, and none at an end: a placeholder can be read in one way only."""
_ID_CHARS = 63
_SECRET_CHARS = 16384
_ENTRIES = 100
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")
_ONE_LINE = re.compile(r"[^\0\r\n]*")
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Location = Annotated[Literal["header", "query", "body"], AnyCase]


def _credential_id(value: str) -> str:
    if len(value) > _ID_CHARS or not CREDENTIAL_ID.fullmatch(value):
        raise PydanticCustomError(
            "problem",
            "expected at most 63 lowercase letters, digits, hyphens and single underscores, none of these at an end",
        )
    return value


def _one_line(value: str) -> str:
    if not _ONE_LINE.fullmatch(value):
        raise PydanticCustomError("problem", "must not contain line breaks or NUL")
    return value


def _scope(value: str) -> str:
    if not _SCOPE.fullmatch(value):
        raise PydanticCustomError("problem", "not a valid OAuth 2.0 scope")
    return value


def _header_name(value: str) -> str:
    if not is_header(value, ""):
        raise PydanticCustomError("problem", "not a valid name of an HTTP header field")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _without_repetitions(value: list[str]) -> list[str]:
    return list(dict.fromkeys(value))


CredentialId = Annotated[
    str,
    AfterValidator(_credential_id),
    described(pattern=f"^{CREDENTIAL_ID.pattern}$", maxLength=_ID_CHARS),
]
_OneLine = Annotated[
    str, Field(min_length=1, max_length=_SECRET_CHARS), AfterValidator(_one_line), described(pattern=r"^[^\0\r\n]+$")
]
_Locations = Annotated[
    list[Location],
    BeforeValidator(_as_list, json_schema_input_type=Location | list[Location]),
    Field(min_length=1, max_length=_ENTRIES),
    AfterValidator(_without_repetitions),
]
_Domains = Annotated[ListOf[Annotated[str, Field(min_length=1)]], Field(max_length=_ENTRIES)]
_Scopes = Annotated[
    ListOf[Annotated[str, AfterValidator(_scope), described(pattern=f"^{_SCOPE.pattern}$")]], Field(max_length=_ENTRIES)
]


def _as_header(value: str, *at: str) -> None:
    if not is_header("x", value) or value != value.strip():
        raise problem("not a valid HTTP header value", *at)


class BearerToken(WireModel):
    """A token that requests get in a header."""

    type: Literal["bearer_token"]
    id: CredentialId | None = None
    """Absent: made by the server."""
    token: _OneLine = Field(repr=False)
    header_name: Annotated[str, AfterValidator(_header_name), described(pattern="^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = (
        "Authorization"
    )
    prefix: Annotated[str, Field(max_length=128)] = "Bearer"
    """Stands before the token, with a space between; may be empty."""

    @model_validator(mode="after")
    def _fits_a_header(self) -> Self:
        _as_header(self.token, "token")
        _as_header(self.prefix, "prefix")
        return self


class OAuth2(WireModel):
    """A refresh token, which the server exchanges for access tokens, at creation and whenever one ends."""

    type: Literal["oauth2"]
    id: CredentialId | None = None
    """Absent: made by the server."""
    client_id: _OneLine
    client_secret: _OneLine = Field(repr=False)
    refresh_token: _OneLine = Field(repr=False)
    token_url: Annotated[str, Field(min_length=1, max_length=4096)]
    """`https://`; not judged here."""
    scopes: _Scopes | None = None


class EnvironmentVariable(WireModel):
    """A value in whose place a sandbox has a placeholder; it is swapped on the way out."""

    type: Literal["environment_variable"]
    id: CredentialId | None = None
    """Absent: made by the server."""
    value: _OneLine = Field(repr=False)
    injection_location: _Locations
    """Where in requests it may be swapped. One, or a list."""
    trusted_domains: _Domains | None = None
    """Exact names, or `*.name` for the names below it: whom it may be sent to. Absent: nobody."""

    @model_validator(mode="after")
    def _fits_a_header(self) -> Self:
        if "header" in self.injection_location:
            _as_header(self.value, "value")
        return self


AnyCredential = BearerToken | OAuth2 | EnvironmentVariable
CredentialCreate = Annotated[BearerToken | OAuth2 | EnvironmentVariable, ByType("credential")]
"""The body of a create call, and what is kept of a credential."""
_CREATE: TypeAdapter[AnyCredential] = TypeAdapter(CredentialCreate)


def parse_credential(data: Any) -> AnyCredential:
    """Raises `InvalidRequest`, which names the path and never repeats a secret."""
    return parse(_CREATE, data)


class CredentialChange(WireModel):
    """The body of a change: fields of the type that the credential has. Of `oauth2` a new token is asked for first."""

    type: Annotated[Literal["bearer_token", "oauth2", "environment_variable"], AnyCase] | None = None
    """Stays what it is."""
    token: _OneLine | None = Field(default=None, repr=False)
    header_name: str | None = None
    prefix: str | None = None
    client_id: str | None = None
    client_secret: _OneLine | None = Field(default=None, repr=False)
    refresh_token: _OneLine | None = Field(default=None, repr=False)
    token_url: str | None = None
    scopes: list[str] | None = None
    value: _OneLine | None = Field(default=None, repr=False)
    injection_location: _Locations | None = None
    trusted_domains: list[str] | None = None


def changed(credential: AnyCredential, body: Any, mask: str | None) -> AnyCredential:
    """The credential with what a change's body says of the fields in `mask`, names with commas between.

    Without a mask, or with `*`, all that is in the body counts. A field that only the mask has becomes what it is
    where it is not given.

    Raises:
        InvalidRequest: names the path. The type of a credential stays what it is.
    """
    change = parse(CredentialChange, body)
    if change.type not in (None, credential.type):
        raise InvalidRequest(f"Invalid value at 'type': it is {credential.type!r} and cannot be changed.")
    known = [name for name in type(credential).model_fields if name not in ("id", "type")]
    given = change.model_dump(exclude_none=True, exclude={"type"})
    for name in given:
        if name not in known:
            raise InvalidRequest(
                f"Unknown parameter {quote(name)}: the type is {credential.type!r} (known names: {', '.join(known)})."
            )
    names = _masked(mask, known) if mask not in (None, "", "*") else given.keys()
    whole = dump_credential(credential)
    for name in names:
        whole.pop(name, None)
        if name in given:
            whole[name] = given[name]
    return parse_credential(whole)


def _masked(mask: str | None, known: Collection[str]) -> list[str]:
    names = [_CAMEL_HUMP.sub("_", name.strip()).lower() for name in (mask or "").split(",")]
    for name in names:
        if name not in (*known, "type"):
            raise InvalidRequest(
                f"Invalid value at 'update_mask': unknown field {quote(name)} (known: {', '.join(known)})."
            )
    return [name for name in names if name != "type"]


def dump_credential(credential: AnyCredential) -> dict[str, Any]:
    """What was given, in canonical form, secrets included; `parse_credential` parses it to an equal one."""
    return credential.model_dump(exclude_none=True)


class CredentialResource(WireResource):
    """A credential as it is answered: nothing of what was given but its id and type."""

    id: str
    type: Literal["bearer_token", "oauth2", "environment_variable"]
    status: Literal["active", "revoked"]
    create_time: str
    update_time: str
    """When it was last changed by a call. RFC 3339 with `Z`, as `create_time`."""
