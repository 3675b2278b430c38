"""Pages of lists: how a caller asks for one, and what the store has of it. Imports `errors`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol, TypeVar

from fastapi import Query
from pydantic import AliasChoices

from orchestrator.errors import InvalidRequest

PAGE_LIMIT = 1000
"""Entries; who asks for more gets so many."""

PageSize = Annotated[int, Query(ge=1, validation_alias=AliasChoices("page_size", "pageSize"))]
PageToken = Annotated[str | None, Query(validation_alias=AliasChoices("page_token", "pageToken"))]

_Row = TypeVar("_Row")
_Row_co = TypeVar("_Row_co", covariant=True)


class Find(Protocol[_Row_co]):
    """A list of the store's, with all its other arguments given."""

    async def __call__(self, *, after: str | None, limit: int) -> Sequence[_Row_co]: ...


async def page_of(find: Find[_Row], size: int, token: str | None) -> tuple[Sequence[_Row], _Row | None]:
    """At most `size` rows, and the last of them if there are more: it names the next page.

    Raises:
        InvalidRequest: the token was not given by this list.
    """
    with naming_token():
        rows = await find(after=token or None, limit=size + 1)
    return rows[:size], rows[size - 1] if len(rows) > size else None


@contextlib.contextmanager
def naming_token() -> Iterator[None]:
    """Says of which field a row speaks that cannot be looked for."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid value at 'page_token': {error.message}.") from error
