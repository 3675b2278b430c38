"""Rules of the network as callers describe them (reference, 7.4). No I/O.

Owns the grammar of header fields, methods and paths. Which hosts may be reached is policy's.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import (
    AnyCase,
    ByShape,
    ListOf,
    WireModel,
    described,
    problem,
    spelled,
)

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def is_header(name: str, value: str) -> bool:
    """Whether HTTP can carry them."""
    return bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


def _as_header_map(value: Any) -> Any:
    """One object, or a list of objects: header name → value. A name may be given once, in whatever case."""
    fields: list[tuple[str, Any, tuple[str | int, ...]]] = []
    if isinstance(value, dict):
        fields = [(name, field, (name,)) for name, field in value.items()]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise problem("expected an object", index)
            fields += [(name, field, (index, name)) for name, field in item.items()]
    else:
        raise problem("expected an object or a list of objects")
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, field, at in fields:
        if not isinstance(field, str):
            raise problem("expected a string", *at)
        if not is_header(name, field):
            raise problem("not a valid HTTP header field", *at)
        if name.lower() in seen:
            raise problem("this header is given twice", *at)
        seen.add(name.lower())
        headers[name] = field
    return headers


_HeaderFields = Annotated[
    dict[str, Annotated[str, spelled(_HEADER_VALUE)]], described(propertyNames={"pattern": f"^{_HEADER_NAME.pattern}$"})
]


_METHOD = re.compile(r"[A-Za-z]{1,32}")
_PATH = re.compile(r"/[\x21-\x7e]{0,1023}")


def _full_match(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise PydanticCustomError("problem", what)
        return value

    return AfterValidator(check)


_Method = Annotated[str, _full_match(_METHOD, "expected the name of a method"), spelled(_METHOD)]
_Path = Annotated[str, _full_match(_PATH, "expected a path that begins with '/'"), spelled(_PATH)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
CredentialName = Annotated[str, AfterValidator(lambda name: name.removeprefix("credentials/"))]
"""The bare id of `ID` or `credentials/ID`. Whether there is one is another question."""


class AllowedDomain(WireModel):
    """A host that may be reached, and what the egress proxy adds to requests to it."""

    domain: str = Field(min_length=1)
    """Exact name, `*.name` (names below it, not itself) or `*`; judged by policy, not here."""
    credential: CredentialName | None = None
    """Id of a credential to inject; applied before `transform`."""
    transform: (
        Annotated[
            dict[str, str],
            BeforeValidator(_as_header_map, json_schema_input_type=_HeaderFields | list[_HeaderFields]),
        ]
        | None
    ) = Field(default=None, repr=False)
    """Header name → value. May hold secrets."""
    ports: Annotated[list[Port], Field(min_length=1, max_length=64)] | None = None
    """An extension: only these. Absent: all but those of mail and name servers (25, 53, 853)."""
    methods: Annotated[list[_Method], Field(min_length=1, max_length=32)] | None = None
    """An extension: only requests with these. Connections that cannot be read are refused then."""
    paths: Annotated[list[_Path], Field(min_length=1, max_length=64)] | None = None
    """An extension: only these paths, or beginnings of paths with `*` at the end; as for `methods`."""


class NetworkRules(WireModel):
    """Only the listed hosts may be reached. An empty list lets nothing out."""

    allowlist: ListOf[AllowedDomain]


def _as_network(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"allowlist"} and isinstance(value["allowlist"], str):
        if value["allowlist"].lower() != "disabled":
            raise problem("expected 'disabled' or a list", "allowlist")
        return "disabled"
    return value.lower() if isinstance(value, str) else value


class NoRules(WireModel):
    """A longer way to write "disabled"."""

    allowlist: Annotated[Literal["disabled"], AnyCase]


Network = Annotated[
    Annotated[Literal["disabled"] | NetworkRules, ByShape("'disabled' or an object with an 'allowlist'")],
    BeforeValidator(_as_network, json_schema_input_type=Literal["disabled"] | NetworkRules | NoRules),
]


def public_network(network: Network | None) -> dict[str, Any] | str | None:
    """The network block as answers may show it: the header values of `transform` left out."""
    if network is None or isinstance(network, str):
        return network
    return {"allowlist": [rule.model_dump(exclude_none=True, exclude={"transform"}) for rule in network.allowlist]}
