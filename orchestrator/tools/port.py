"""The tool port: a named verb with a schema, carried out in a sandbox or by the server itself. May import `wire`,
`models`, `sandboxes`, `policy`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from orchestrator.models.port import ToolSpec
from orchestrator.policy.limits import Limits
from orchestrator.sandboxes.handle import OnOutput, Sandbox
from orchestrator.wire.content import Content


class Arguments(BaseModel):
    """Base of the tools' argument types: unknown names are refused, so that a model hears of its mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool gets besides its arguments."""

    call_id: str
    sandbox: Sandbox
    """The environment's, running."""
    limits: Limits
    on_output: OnOutput
    """Gets raw output as it comes, for people who watch."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads, and what the operator wants to know of it."""

    content: str | list[Content]
    is_error: bool = False
    verdict: str = "done"
    exit_code: int | None = None


class Tool(ABC):
    """One tool. Its docstring-like `description` and the docstrings of its arguments' fields are what the model
    reads. Which steps its calls show as is decided by `forms`, by its name.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    arguments: ClassVar[type[Arguments]]

    def spec(self) -> ToolSpec:
        """The tool as models see it. One object for all who ask: leave it as it is."""
        return _spec(type(self))


class SandboxTool(Tool):
    """One that works in the environment. The guest carries out each call once, whoever asks how often."""

    @abstractmethod
    async def carry_out(self, arguments: Any, context: ToolContext) -> ToolResult:
        """Does it. `arguments` is of the tool's own type.

        Raises:
            ToolError: it cannot be done as asked; the model reads the message.
            SandboxError: the platform failed; the run handles it.
        """


class ServerTool(Tool):
    """One that looks something up and changes nothing: after a crash its call is made again."""

    @abstractmethod
    async def answer(self, arguments: Any) -> ToolResult:
        """Does it. `arguments` is of the tool's own type.

        Raises:
            ToolError: it cannot be done as asked; the model reads the message.
        """


@cache
def _spec(tool: type[Tool]) -> ToolSpec:
    # The schemas of all tools take 4 ms, and every model call needs them.
    schema: dict[str, Any] = tool.arguments.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return ToolSpec(tool.name, tool.description, schema)
