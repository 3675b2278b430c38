"""Which tools a run has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models.port import ToolSpec
from orchestrator.tools.code import CodeExecution
from orchestrator.tools.files import FILE_TOOLS
from orchestrator.tools.forms import Form, form_of
from orchestrator.tools.port import SandboxTool, ServerTool
from orchestrator.tools.web import GoogleSearch, UrlContext
from orchestrator.wire.tools import CodeExecutionTool, FunctionTool, GoogleSearchTool, ToolDeclaration, UrlContextTool

OWN_NAMES = frozenset({CodeExecution.name, GoogleSearch.name, UrlContext.name, *(tool.name for tool in FILE_TOOLS)})
"""Names that functions of clients cannot have."""
OwnTool = SandboxTool | ServerTool
_NO_PARAMETERS = {"type": "object", "properties": {}}


class Toolbox:
    """The tools of one run, by name: the server's own, and functions that the client carries out."""

    def __init__(self, tools: Sequence[OwnTool], functions: Sequence[FunctionTool] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._functions = {function.name: function for function in functions if function.name not in OWN_NAMES}

    @classmethod
    def choose(cls, declared: Sequence[ToolDeclaration], *, has_environment: bool) -> Toolbox:
        """The tools for what was declared. File tools need no declaration; without an environment there are neither
        they nor code (reference, 2.5 and 3.5)."""
        kinds = {type(each) for each in declared}
        functions = [each for each in declared if isinstance(each, FunctionTool)]
        tools: list[OwnTool] = []
        if has_environment:
            tools += [*([CodeExecution()] if CodeExecutionTool in kinds else []), *FILE_TOOLS]
        if GoogleSearchTool in kinds:
            tools.append(GoogleSearch())
        if UrlContextTool in kinds:
            tools.append(UrlContext())
        return cls(tools, functions)

    def find(self, name: str) -> OwnTool | None:
        return self._tools.get(name)

    def is_function(self, name: str) -> bool:
        """Whether the client carries out calls of that name."""
        return name in self._functions

    def form_of(self, name: str) -> Form | None:
        """As what calls of that name show; None: as functions, which is also what a tool that is not there does."""
        return form_of(name) if name in self._tools else None

    @property
    def names(self) -> list[str]:
        return sorted((*self._tools, *self._functions))

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as models see them."""
        functions = (
            ToolSpec(each.name, each.description or "", each.parameters or _NO_PARAMETERS)
            for each in self._functions.values()
        )
        return (*(tool.spec() for tool in self._tools.values()), *functions)
