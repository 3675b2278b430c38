"""Agents as callers define them and as they are answered (reference, 6.1 and 11.1). No I/O.

Which ids are free and what a definition may ask for is policy's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import InvalidRequest
from orchestrator.wire.base import ListOf, Positive, WireModel, WireResource, dump, parse, problem, spelled
from orchestrator.wire.environments import EnvironmentField, EnvironmentSpec
from orchestrator.wire.generation import AgentConfig
from orchestrator.wire.interactions import AgentName
from orchestrator.wire.network import public_network
from orchestrator.wire.sources import public_sources
from orchestrator.wire.tools import ToolDeclaration, public_tools

AGENT_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PINNED = re.compile(r"(.+)@([0-9]{1,9})")
_DESCRIPTION_CHARS = 4096
_ALIASES = {"name": "id", "instructions": "system_instruction"}
"""As LiteLLM writes them (reference, 11.1)."""


def _agent_id(value: str) -> str:
    if not AGENT_ID.fullmatch(value):
        raise PydanticCustomError(
            "problem", "expected at most 63 lowercase letters, digits and hyphens, with no hyphen at either end"
        )
    return value


AgentId = Annotated[str, AfterValidator(_agent_id), spelled(AGENT_ID)]


def pinned(name: str) -> tuple[str, int | None]:
    """The id of `ID` or `ID@3`, and the version that it is pinned to."""
    found = _PINNED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def _with_aliases(schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    for alias, name in _ALIASES.items():
        if name not in properties:
            continue
        properties[alias] = properties[name]
        both = {"required": [name, alias], "properties": {each: {"type": "string"} for each in (name, alias)}}
        schema.setdefault("allOf", []).append({"not": both})
        if name in schema.get("required", ()):
            schema["required"].remove(name)
            there = [{"required": [each], "properties": {each: {"type": "string"}}} for each in (name, alias)]
            schema["allOf"].append({"anyOf": there})


class AgentParts(WireModel):
    """What agents that are built on each other combine. Absent: as the base agent has it.

    Callers may write `instructions` for `system_instruction`, and `name` for `id`.
    """

    model_config = ConfigDict(json_schema_extra=_with_aliases)

    system_instruction: str | None = None
    """Adds to what the base agent is told."""
    tools: ListOf[ToolDeclaration] | None = None
    """Replaces the base agent's. An empty list: no tools but the file tools."""
    agent_config: AgentConfig | None = None
    """Each of its fields replaces the base agent's."""
    base_environment: EnvironmentField = None
    """What new environments of the agent begin with; replaces the base agent's as a whole."""

    @model_validator(mode="before")
    @classmethod
    def _aliases_are_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for alias, name in _ALIASES.items():
            if alias in data and name in cls.model_fields and alias not in cls.model_fields:
                given = data.pop(alias)
                if given is not None and data.get(name) is not None:
                    raise problem(f"give either '{name}' or '{alias}', not both", alias)
                if given is not None:
                    data[name] = given
        return data


class AgentCreate(AgentParts):
    """The body of a create call, and what is kept of an agent."""

    id: AgentId
    """At most 63 lowercase letters, digits and hyphens."""
    base_agent: AgentName | None = None
    """An agent of the server or of the project, which may be pinned: `ID@3`. Absent: `general`."""
    description: Annotated[str, Field(max_length=_DESCRIPTION_CHARS)] | None = None


class AgentChange(AgentParts):
    """The body of a change: fields that are given replace the agent's, null takes them away."""

    base_agent: AgentName | None = None
    description: Annotated[str, Field(max_length=_DESCRIPTION_CHARS)] | None = None


class AgentRollback(WireModel):
    """The body of a roll-back."""

    version: Positive
    """The version that the new one is to be like."""


def parse_change(data: Any) -> dict[str, Any]:
    """Of a change's body: field → new value; None where it is taken away.

    Raises:
        InvalidRequest: names the path.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("Invalid request: expected an object.")
    change = parse(AgentChange, data)
    given = {_ALIASES.get(name, name) for name, value in data.items() if value is None}
    return {name: getattr(change, name) for name in AgentChange.model_fields if name in change.model_fields_set | given}


def dump_agent(agent: AgentCreate) -> dict[str, Any]:
    """What was given, in canonical form, secrets included; `AgentCreate` parses it to an equal one."""
    return agent.model_dump(exclude_none=True)


class AgentResource(WireResource):
    """An agent as it is answered. Times are RFC 3339 with `Z`; nothing secret is in it."""

    id: str
    base_agent: str | None = None
    description: str | None = None
    system_instruction: str | None = None
    tools: list[dict[str, Any]] | None = None
    agent_config: dict[str, Any] | None = None
    base_environment: dict[str, Any] | None = None
    """Without header values and variables; in lists also without the contents of files."""
    owner: Literal["project", "server"]
    """Those of the server cannot be changed over the API."""
    version: int | None = None
    """Of agents of the project."""
    aliases: list[str] | None = None
    """Further names of an agent of the server."""
    created: str | None = None
    updated: str | None = None
    """When this version was made."""


class AgentVersion(AgentResource):
    """A version of an agent, as it is answered."""

    name: str
    """`agents/ID/versions/3`."""


def public_agent(agent: AgentCreate, *, with_contents: bool) -> dict[str, Any]:
    """The definition as answers may show it: without header values and variables, which may be secrets."""
    shown: dict[str, Any] = {
        "id": agent.id,
        "base_agent": agent.base_agent,
        "description": agent.description,
        "system_instruction": agent.system_instruction,
        "tools": public_tools(agent.tools) if agent.tools is not None else None,
        "agent_config": dump(agent.agent_config) if agent.agent_config is not None else None,
        "base_environment": _public_base(agent.base_environment, with_contents=with_contents),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _public_base(spec: EnvironmentSpec | None, *, with_contents: bool) -> Mapping[str, Any] | None:
    if spec is None:
        return None
    shown: dict[str, Any] = {"type": spec.type}
    if spec.environment_id is not None:
        shown["environment_id"] = spec.environment_id
    if spec.sources:
        sources = [source.model_dump(exclude_none=True) for source in spec.sources]
        shown["sources"] = sources if with_contents else public_sources(spec.sources)
    if spec.setup is not None and with_contents:
        shown["setup"] = list(spec.setup)
    if spec.network is not None:
        shown["network"] = public_network(spec.network)
    return shown
