"""What an agent has from the agents that it is built on. Pure; imports `policy`, `wire` and `errors` only.

A version of an agent holds what its base had when it was made: it is whole in itself, and neither a change nor the
deletion of the base changes it. Only the agent of the server at the root is looked up when it runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.errors import InvalidRequest
from orchestrator.policy.agents import DEPTH_LIMIT
from orchestrator.wire.agents import AgentCreate, AgentParts
from orchestrator.wire.base import encode_json, parse
from orchestrator.wire.generation import AntigravityConfig


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from."""

    root: str
    """Id of the agent of the server that everything is built on."""
    uids: tuple[str, ...] = ()
    """The project's agents between, nearest first."""
    inherited: AgentParts = AgentParts()  # noqa: RUF009 - frozen
    """What they have together."""

    def dump(self) -> str:
        """As a row holds it."""
        inherited = self.inherited.model_dump(exclude_none=True)
        return encode_json({"root": self.root, "uids": self.uids, "inherited": inherited}).decode()

    def of_child(self, uid: str, parent: AgentCreate) -> Lineage:
        """Of an agent that is built on `parent`, which has this lineage.

        Raises:
            InvalidRequest: too many agents would be built on each other.
        """
        if len(self.uids) + 1 >= DEPTH_LIMIT:
            raise InvalidRequest(
                f"Invalid value at 'base_agent': at most {DEPTH_LIMIT} agents may be built on each other."
            )
        return Lineage(self.root, (uid, *self.uids), combined(self.inherited, parent))


def parse_lineage(text: str) -> Lineage:
    """Of a row."""
    fields = json.loads(text)
    return Lineage(fields["root"], tuple(fields["uids"]), parse(AgentParts, fields["inherited"]))


def combined(base: AgentParts, own: AgentParts) -> AgentParts:
    """What an agent is with what its base is: instructions add up, general ones first; `tools` and `base_environment`
    are those of the most specific agent that has any; of `agent_config` each field is.
    """
    told = [part.strip() for part in (base.system_instruction, own.system_instruction) if part and part.strip()]
    return AgentParts(
        system_instruction="\n\n".join(told) or None,
        tools=own.tools if own.tools is not None else base.tools,
        agent_config=_config(base.agent_config, own.agent_config),
        base_environment=own.base_environment if own.base_environment is not None else base.base_environment,
    )


def _config(base: object, own: object) -> AntigravityConfig | None:
    """Of other types than this one nobody can be: they are refused where agents are made."""
    given = [config for config in (base, own) if isinstance(config, AntigravityConfig)]
    fields = {name: value for config in given for name, value in config if value is not None}
    return AntigravityConfig(**fields) if given else None


def parts_of(definition: str, lineage: Lineage) -> AgentParts:
    """What the version is in all, of its stored definition."""
    own = parse(AgentCreate, json.loads(definition))
    return combined(lineage.inherited, own)
