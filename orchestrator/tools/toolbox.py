"""Which tools a run has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models.port import ToolSpec
from orchestrator.tools.code import CodeExecution
from orchestrator.tools.files import FILE_TOOLS
from orchestrator.tools.port import Tool
from orchestrator.wire.tools import CodeExecutionTool, ToolDeclaration


class Toolbox:
    """The tools of one run, by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    @classmethod
    def choose(cls, declared: Sequence[ToolDeclaration], *, has_environment: bool) -> Toolbox:
        """The tools for what was declared. File tools need no declaration; without an environment there are none at all
        (reference, 2.5 and 3.5)."""
        if not has_environment:
            return cls(())
        code = [CodeExecution()] if any(isinstance(each, CodeExecutionTool) for each in declared) else []
        return cls((*code, *FILE_TOOLS))

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def is_code(self, name: str) -> bool:
        """Whether calls of that name show as code execution; an unknown one shows as a function."""
        tool = self.find(name)
        return tool is not None and tool.is_code

    @property
    def names(self) -> list[str]:
        return sorted(self._tools)

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as models see them."""
        return tuple(tool.spec() for tool in self._tools.values())
