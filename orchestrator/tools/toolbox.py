"""Which tools a run has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models.port import ToolSpec
from orchestrator.tools.code import CodeExecution
from orchestrator.tools.files import FILE_TOOLS
from orchestrator.tools.port import Tool
from orchestrator.wire.tools import CodeExecutionTool, FunctionTool, ToolDeclaration

OWN_NAMES = frozenset({CodeExecution.name, *(tool.name for tool in FILE_TOOLS)})
"""Names that functions of clients cannot have."""
_NO_PARAMETERS = {"type": "object", "properties": {}}


class Toolbox:
    """The tools of one run, by name: the server's own, and functions that the client carries out."""

    def __init__(self, tools: Sequence[Tool], functions: Sequence[FunctionTool] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._functions = {function.name: function for function in functions if function.name not in OWN_NAMES}

    @classmethod
    def choose(cls, declared: Sequence[ToolDeclaration], *, has_environment: bool) -> Toolbox:
        """The tools for what was declared. File tools need no declaration; without an environment there are none of the
        server's own (reference, 2.5 and 3.5)."""
        functions = [each for each in declared if isinstance(each, FunctionTool)]
        if not has_environment:
            return cls((), functions)
        code = [CodeExecution()] if any(isinstance(each, CodeExecutionTool) for each in declared) else []
        return cls((*code, *FILE_TOOLS), functions)

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def is_function(self, name: str) -> bool:
        """Whether the client carries out calls of that name."""
        return name in self._functions

    def is_code(self, name: str) -> bool:
        """Whether calls of that name show as code execution; an unknown one shows as a function."""
        tool = self.find(name)
        return tool is not None and tool.is_code

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
