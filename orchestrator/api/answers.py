"""Answers that no type of the wire describes, for the description of the API: the routes make them by hand, and tests
hold them against this. Imports `wire` and `sandboxes.reach`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.sandboxes import reach
from orchestrator.wire.agents import AgentResource, AgentVersion
from orchestrator.wire.base import WireResource
from orchestrator.wire.credentials import CredentialResource
from orchestrator.wire.environments import EnvironmentResource
from orchestrator.wire.files import FileEntry
from orchestrator.wire.interactions import Interaction


class Fault(WireResource):
    code: str
    """Stable, snake case: `invalid_request`, `not_supported`, `not_found`, …"""
    message: str
    """For people; names the field and what was expected."""
    details: list[dict[str, Any]] | None = None


class Error(WireResource):
    """The one shape of every refusal and failure."""

    error: Fault


class Nothing(WireResource):
    """An empty object."""


class InteractionList(WireResource):
    interactions: list[Interaction]
    """Newest first, without their steps."""
    next_page_token: str | None = None
    """Absent on the last page."""


class AgentList(WireResource):
    agents: list[AgentResource]
    """Those of the project, newest first, then those of the server; without the contents of files."""
    next_page_token: str | None = None
    """Absent on the last page."""
    nextPageToken: str | None = None
    """The same."""


class ServerSkill(WireResource):
    """A skill of the server, for sources of type `skill_registry`."""

    name: str
    description: str | None = None
    sha256: str | None = None
    """Of its files as they are now."""
    problem: str | None = None
    """Why it cannot be used; then there is nothing else."""


class SkillList(WireResource):
    skills: list[ServerSkill]
    """By name."""


class AgentVersionList(WireResource):
    agentVersions: list[AgentVersion]
    """The latest first, without the contents of files."""
    next_page_token: str | None = None
    """Absent on the last page."""
    nextPageToken: str | None = None
    """The same."""


class CredentialList(WireResource):
    credentials: list[CredentialResource]
    """Newest first."""
    next_page_token: str | None = None
    """Absent on the last page."""


class PublicSource(WireResource):
    """A source as it is shown: without the contents of a file."""

    type: str
    target: str | None = None
    source: str | None = None


class Environment(EnvironmentResource):
    """An environment as it is answered. Times are RFC 3339 with `Z`; nothing secret is in it."""

    file_count: str | None = None  # type: ignore[assignment]  # an int64 is sent as text
    size_bytes: str | None = None  # type: ignore[assignment]
    sources: list[PublicSource] | None = None  # type: ignore[assignment]


class EnvironmentList(WireResource):
    environments: list[Environment]
    """Newest first. A page may have fewer than were asked for, and still be followed by another."""
    next_page_token: str | None = None
    """Absent on the last page."""


class FileList(WireResource):
    files: list[FileEntry]
    """Of a folder, in the order of their bytes."""
    next_page_token: str | None = None
    """Absent on the last page."""


class UploadAnswer(WireResource):
    files: list[FileEntry] | None = None
    """What it has written; absent before its end."""


class Health(WireResource):
    status: Literal["ok"]
    version: str


class Readiness(WireResource):
    status: Literal["ready", "closing"]


class ListedEnvironment(WireResource):
    id: str
    project: str
    status: str
    """A stage of its sandbox's life."""
    since: str
    """When that stage began."""
    created: str
    last_accessed: str
    running: list[str]
    """Ids of the interactions that are in progress in it."""


class ListedInteraction(WireResource):
    id: str
    project: str
    agent: str
    environment_id: str | None
    created: str


class Processes(WireResource):
    """What there is now, at most 1,000 of each."""

    environments: list[ListedEnvironment]
    interactions: list[ListedInteraction]
    """Those in progress."""


class LogLine(WireResource):
    at: str
    log: str
    """Id of the environment or interaction."""
    seq: int
    kind: str
    body: Any


@dataclass(frozen=True, slots=True)
class SandboxUsage(reach.Usage):
    """What a sandbox uses and may use. Null is what its platform does not tell, or what has no limit."""


@dataclass(frozen=True, slots=True)
class FileEvent(reach.WatchEvent):
    """One change, or the sum of several in a moment. Paths are relative to the working directory."""
