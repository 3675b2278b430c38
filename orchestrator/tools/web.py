"""The tools `google_search` and `url_context`: what agents look up outside.

Public samples declare both, so both can be declared. There is no way out of this server yet: each answers with an error
that says so, and the model goes on without.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from orchestrator.errors import ToolError
from orchestrator.tools.port import Arguments, ServerTool, ToolResult

_TEXTS = 20

Texts = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=1, max_length=_TEXTS)]


class SearchArguments(Arguments):
    queries: Texts
    """What to search for, each a query of its own."""


class GoogleSearch(ServerTool):
    name: ClassVar[str] = "google_search"
    description: ClassVar[str] = "Searches the web."
    arguments: ClassVar[type[Arguments]] = SearchArguments

    async def answer(self, arguments: SearchArguments) -> ToolResult:
        raise ToolError(
            "there is no web search on this server: no search provider is configured, and this version has no setting "
            "for one",
            code="not_configured",
        )


class UrlArguments(Arguments):
    urls: Texts
    """Addresses of the pages to read, with `https://` or `http://`."""


class UrlContext(ServerTool):
    name: ClassVar[str] = "url_context"
    description: ClassVar[str] = "Reads web pages."
    arguments: ClassVar[type[Arguments]] = UrlArguments

    async def answer(self, arguments: UrlArguments) -> ToolResult:
        raise ToolError(
            "this server cannot read web pages: it has no way out yet, and this version has no setting for one",
            code="not_configured",
        )
