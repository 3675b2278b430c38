"""Agents by name: definitions read from folders, and the aliases under which they also go.

A folder holds one folder per agent: `agent.yaml` (id, description, system_instruction, tools, model, sandbox,
base_environment) and, if wanted, `AGENTS.md` with its instructions. Imports `policy`, `wire` and `errors` only.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, Field

from orchestrator.errors import ConfigError, InvalidRequest, NotFound
from orchestrator.policy.bounds import UNBOUND, Bounds, Maxima
from orchestrator.policy.sources import check_base
from orchestrator.wire.base import ListOf, WireModel, parse, problem
from orchestrator.wire.environments import EnvironmentField, EnvironmentSpec
from orchestrator.wire.tools import ToolDeclaration

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class AgentDefinition:
    """What an agent is. How a call changes it is the call's business."""

    id: str
    description: str = ""
    system_instruction: str = ""
    instructions: str = ""
    """The text of its AGENTS.md."""
    tools: tuple[ToolDeclaration, ...] = ()
    """Beside the file tools, which every agent with an environment has."""
    model: str | None = None
    """`provider:model`; None takes the server's default."""
    bounds: Bounds = UNBOUND
    """What its sandbox and its calls may take, as far as it says so; within the operator's maxima."""
    base: EnvironmentSpec | None = None
    """What its new environments begin with. Built once: each of them is a fork."""
    token_budget: int | None = None
    """After how many tokens its runs end; None: as the call says."""
    uid: str | None = None
    """Of an agent that a project has defined: which one."""
    version: int | None = None
    """Of such an agent."""


def _agent_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise problem("expected lowercase letters, digits and hyphens, at most 63")
    return value


class _SandboxBlock(WireModel):
    runtime: str | None = None
    memory_bytes: Annotated[int, Field(ge=64 << 20)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    pids: Annotated[int, Field(ge=32)] | None = None
    open_files: Annotated[int, Field(ge=256)] | None = None
    disk_bytes: Annotated[int, Field(ge=64 << 20)] | None = None
    call_timeout_s: Annotated[float, Field(gt=0)] | None = None
    run_timeout_s: Annotated[float, Field(gt=0)] | None = None
    output_limit_bytes: Annotated[int, Field(ge=1024)] | None = None
    max_turns: Annotated[int, Field(gt=0)] | None = None


class _AgentFile(WireModel):
    id: Annotated[str, AfterValidator(_agent_id)]
    description: str = ""
    system_instruction: str = ""
    tools: ListOf[ToolDeclaration] = []
    model: str | None = None
    sandbox: _SandboxBlock = _SandboxBlock()
    base_environment: EnvironmentField = None


def shipped_folder() -> Path:
    """Where the agents that come with Corral are: beside the package in a checkout, else where a wheel puts them."""
    checkout = Path(__file__).resolve().parents[2] / "agents"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share/corral/agents"


class AgentRegistry:
    """All agents of this server. Immutable."""

    def __init__(self, agents: Mapping[str, AgentDefinition], aliases: Mapping[str, str]) -> None:
        self._agents = dict(agents)
        self._aliases = dict(aliases)

    @classmethod
    def load(
        cls,
        folder: Path | None = None,
        own: Path | None = None,
        aliases: Mapping[str, str] | None = None,
        maxima: Maxima | None = None,
    ) -> Self:
        """Reads the agents of a folder, the shipped ones if None, and the operator's `own`, which win where ids are the
        same. Blocks on the disk; call it before serving.

        Raises:
            ConfigError: a file is missing, unreadable or wrong (the message names file and field), an agent asks for
                more than `maxima`, or an alias leads nowhere. The operator's fault.
        """
        places = _places(folder if folder is not None else shipped_folder()) | (_places(own) if own else {})
        agents = {name: _read(place) for name, place in places.items()}
        for name, place in places.items():
            agents[name].bounds.check(maxima or Maxima(), f"{place / 'agent.yaml'}: agent {name!r}: sandbox")
        for alias, target in (aliases or {}).items():
            if target not in agents:
                raise ConfigError(
                    f"agent alias {alias!r} leads to {target!r}, which is unknown{_closest(target, agents)}"
                )
        return cls(agents, aliases or {})

    @property
    def agents(self) -> list[AgentDefinition]:
        """All definitions, by id."""
        return [self._agents[name] for name in sorted(self._agents)]

    def aliases_of(self, agent_id: str) -> list[str]:
        """Further names of an agent."""
        return sorted(alias for alias, target in self._aliases.items() if target == agent_id)

    def knows(self, name: str) -> bool:
        """Whether `resolve` finds it."""
        return self._aliases.get(name, name) in self._agents

    def resolve(self, name: str) -> AgentDefinition:
        """The agent of an id or alias.

        Raises:
            NotFound: there is none; the message names the closest one.
        """
        agent = self._agents.get(self._aliases.get(name, name))
        if agent is None:
            raise NotFound(f"Agent {name!r} not found{self.closest(name)}.")
        return agent

    def closest(self, name: str) -> str:
        """For messages: the id or alias that may have been meant, in parentheses; empty if there is none."""
        return _closest(name, {**self._agents, **self._aliases})


def _places(root: Path) -> dict[str, Path]:
    """Id to folder of the agents below `root`."""
    try:
        return {place.name: place for place in sorted(root.iterdir()) if (place / "agent.yaml").is_file()}
    except OSError as error:
        raise ConfigError(f"cannot read the folder of agents {root}: {error.strerror}") from error


def _read(place: Path) -> AgentDefinition:
    file = place / "agent.yaml"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        guide = place / "AGENTS.md"
        instructions = guide.read_text(encoding="utf-8") if guide.is_file() else ""
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    try:
        parsed = parse(_AgentFile, data)
        if parsed.base_environment is not None:
            check_base(parsed.base_environment, "base_environment")
    except InvalidRequest as error:
        raise ConfigError(f"{file}: {error.message}") from error
    if parsed.id != place.name:
        raise ConfigError(f"{file}: id {parsed.id!r} must be the name of its folder, {place.name!r}")
    return AgentDefinition(
        id=parsed.id,
        description=parsed.description,
        system_instruction=parsed.system_instruction.strip(),
        instructions=instructions.strip(),
        tools=tuple(parsed.tools),
        model=parsed.model,
        bounds=Bounds(**parsed.sandbox.model_dump()),
        base=parsed.base_environment,
    )


def _closest(name: str, known: Mapping[str, object]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (closest known name: {matches[0]!r})" if matches else ""
