"""Agents by name: definitions read from folders, and the aliases under which they also go.

A folder holds one folder per agent, in the format of `folder`. What is in its `AGENTS.md` is told to the agent in every
run, also without an environment. Imports `policy`, `wire` and `errors`, and `folder` and
`skill_registry` beside it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from orchestrator.agents.folder import FILE, AgentFolder, read_folder
from orchestrator.agents.skill_registry import SkillRegistry
from orchestrator.errors import ConfigError, InvalidRequest, NotFound
from orchestrator.policy.bounds import UNBOUND, Bounds, Maxima
from orchestrator.wire.agents import AgentParts
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.tools import ToolDeclaration


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
    base_snapshot: str | None = None
    """The files that `base` names by an environment's id, as they were when this version was made."""
    token_budget: int | None = None
    """After how many tokens its runs end; None: as the call says."""
    uid: str | None = None
    """Of an agent that a project has defined: which one."""
    version: int | None = None
    """Of such an agent."""

    def extended(self, agent_id: str, description: str | None, parts: AgentParts) -> AgentDefinition:
        """An agent that is built on this one: what it is told adds up, `parts` replace the rest where they say so."""
        config = _config(parts)
        told = [part.strip() for part in (self.instructions, parts.system_instruction) if part and part.strip()]
        return replace(
            self,
            id=agent_id,
            description=description or "",
            instructions="\n\n".join(told),
            tools=tuple(parts.tools) if parts.tools is not None else self.tools,
            model=config.model or self.model,
            base=parts.base_environment if parts.base_environment is not None else self.base,
            token_budget=config.max_total_tokens or self.token_budget,
        )


def shipped_folder(kind: Literal["agents", "skills"] = "agents") -> Path:
    """Where what comes with Corral is: beside the package in a checkout, else where a wheel puts it."""
    checkout = Path(__file__).resolve().parents[2] / kind
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share/corral" / kind


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
        skills: SkillRegistry | None = None,
    ) -> Self:
        """Reads the agents of a folder, the shipped ones if None, and the operator's `own`, which win where ids are the
        same. Blocks on the disk; call it before serving.

        `skills` are those that they may have of the server, the shipped ones if None.

        Raises:
            ConfigError: a file is missing, unreadable or wrong (the message names file and field), an agent asks for
                more than `maxima`, or an alias leads nowhere. The operator's fault.
        """
        places = _places(folder if folder is not None else shipped_folder()) | (_places(own) if own else {})
        folders = {name: read_folder(place) for name, place in places.items()}
        for name, found in folders.items():
            if found.file.id != name:
                raise ConfigError(
                    f"{found.place / FILE}: id {found.file.id!r} must be the name of its folder, {name!r}"
                )
            if found.environment is not None and found.environment.environment_id is not None:
                raise ConfigError(
                    f"{found.place / FILE}: base_environment: an agent of the server cannot begin with an environment, "
                    "which is a project's"
                )
        _check_skills(folders, skills if skills is not None else SkillRegistry.of(shipped_folder("skills")))
        agents = _definitions(folders, aliases or {})
        for name, place in places.items():
            agents[name].bounds.check(maxima or Maxima(), f"{place / FILE}: agent {name!r}: sandbox")
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


def _check_skills(folders: Mapping[str, AgentFolder], skills: SkillRegistry) -> None:
    for folder in folders.values():
        if folder.environment is not None:
            try:
                skills.pin(folder.environment, "base_environment.sources")
            except InvalidRequest as error:
                raise folder.located(error) from error


def _places(root: Path) -> dict[str, Path]:
    """Id to folder of the agents below `root`."""
    try:
        return {place.name: place for place in sorted(root.iterdir()) if (place / FILE).is_file()}
    except OSError as error:
        raise ConfigError(f"cannot read the folder of agents {root}: {error.strerror}") from error


def _definitions(folders: Mapping[str, AgentFolder], aliases: Mapping[str, str]) -> dict[str, AgentDefinition]:
    """Id to agent, each on top of those that it is built on."""
    made: dict[str, AgentDefinition] = {}

    def make(agent_id: str, above: tuple[str, ...]) -> AgentDefinition:
        if agent_id in made:
            return made[agent_id]
        folder = folders[agent_id]
        base = folder.file.base_agent
        if base is None:
            made[agent_id] = _alone(folder)
            return made[agent_id]
        target = aliases.get(base, base)
        where = f"{folder.place / FILE}: base_agent"
        if target in (agent_id, *above):
            raise ConfigError(f"{where}: {base!r} is built on {agent_id!r} itself")
        if target not in folders:
            raise ConfigError(f"{where}: {base!r} is unknown{_closest(base, {**folders, **aliases})}")
        made[agent_id] = _on(make(target, (agent_id, *above)), folder)
        return made[agent_id]

    for agent_id in folders:
        make(agent_id, ())
    return made


def _alone(folder: AgentFolder) -> AgentDefinition:
    parts = folder.parts
    return AgentDefinition(
        id=folder.file.id,
        description=folder.file.description or "",
        system_instruction=(parts.system_instruction or "").strip(),
        instructions=folder.guide,
        tools=tuple(parts.tools or ()),
        model=_config(parts).model,
        bounds=_bounds(folder),
        base=parts.base_environment,
        token_budget=_config(parts).max_total_tokens,
    )


def _on(base: AgentDefinition, folder: AgentFolder) -> AgentDefinition:
    definition = base.extended(folder.file.id, folder.file.description, folder.parts)
    told = [part for part in (definition.instructions, folder.guide) if part]
    return replace(definition, instructions="\n\n".join(told), bounds=_bounds(folder).over(base.bounds))


def _bounds(folder: AgentFolder) -> Bounds:
    return Bounds(**folder.file.sandbox.model_dump()) if folder.file.sandbox is not None else UNBOUND


def _config(parts: AgentParts) -> AntigravityConfig:
    return parts.agent_config if isinstance(parts.agent_config, AntigravityConfig) else AntigravityConfig()


def _closest(name: str, known: Mapping[str, object]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (closest known name: {matches[0]!r})" if matches else ""
