"""Query parameters: what a route does not know is refused by name, as unknown fields of bodies are (design 8)."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

from fastapi import Depends, params
from fastapi.requests import HTTPConnection
from pydantic import AliasChoices, AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

from orchestrator.api.services import TheCaller
from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.wire.base import quote

_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]")
_FORMATS = frozenset({"json", "sse"})


async def refuse_unknown(request: HTTPConnection, _caller: TheCaller) -> None:
    """See `check_parameters`. Who is not known hears that first."""
    check_parameters(request)


def check_parameters(request: HTTPConnection) -> None:
    """Lets a request pass whose parameters its route reads, or which clients send everywhere: `key` (an API key), `alt`
    and `$alt` (JSON or events; the rest of the request says which) and `fields=*` (the whole answer).

    Raises:
        InvalidRequest: a parameter is unknown here, or given twice. NotSupported: another format, or some fields only.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    known = _known(request.scope["endpoint"])
    for name, times in given.items():
        value = request.query_params[name]
        if times > 1 and name not in known.lists:
            raise InvalidRequest(f"Invalid value at {quote(name)}: it is given {times} times.")
        if name in known.names or name == "key":
            continue
        if name in ("alt", "$alt"):
            if value.partition(";")[0] not in _FORMATS:
                raise NotSupported(f"Invalid value at '{name}': the format {quote(value)} is not supported here.")
        elif name == "fields":
            if value != "*":
                raise NotSupported("Invalid value at 'fields': only '*' is supported.")
        else:
            raise InvalidRequest(f"Unknown parameter {quote(name)} in the query.")


OnlyKnown = Depends(refuse_unknown)


def _is_rfc3339(value: Any) -> Any:
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise PydanticCustomError("moment", "expected a moment such as 2026-11-20T09:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_rfc3339)]
"""RFC 3339 with an offset. pydantic alone would take numbers as well."""


class _Known(NamedTuple):
    names: frozenset[str]
    lists: frozenset[str]
    """Those of them that may be given several times."""


@functools.cache
def _known(endpoint: Callable[..., Any]) -> _Known:
    """The query parameters that a route's function reads."""
    names: set[str] = set()
    lists: set[str] = set()
    for name, hint in get_type_hints(endpoint, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, params.Query):
                alias = mark.validation_alias
                own = {str(each) for each in alias.choices} if isinstance(alias, AliasChoices) else {name}
                names |= own
                if "list[" in str(hint.__origin__):
                    lists |= own
    return _Known(frozenset(names), frozenset(lists))
