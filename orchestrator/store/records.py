"""What the store keeps, as values: events, rows per resource, what listings are asked for. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One stored event."""

    seq: int
    at: datetime
    """When it was appended: aware, UTC, microseconds."""
    kind: str
    """A public event type (`step.start` …) or one of the journal's own (`tool.output` …)."""
    body: bytes
    """UTF-8 JSON on one line, exactly as every reader gets it."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; the log gives it its `seq` (the caller states which it expects) and its time."""

    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ProjectRow:
    id: str
    name: str
    created: datetime
    retention_days: int | None = None
    """For how long ended interactions are kept. None: as the server's setting says; 0: for ever."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key without the key: only its SHA-256 is stored."""

    id: str
    project_id: str
    name: str
    prefix: str
    """The first characters of the key, for people to tell keys apart."""
    is_operator: bool
    """May see every project in the operator's routes; nowhere else."""
    created: datetime
    revoked: datetime | None


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    id: str
    project_id: str
    status: str
    """`pending` (no sandbox yet), `active`, `paused` (frozen in memory), `stopped` (only its files are kept), `lost`
    (its sandbox vanished from the engine), `deleting`."""
    sandbox_id: str | None
    sandbox_ref: str | None
    """What the driver needs to find the sandbox again, opaque here."""
    spec: str
    """JSON of the environment object that the user gave, canonical, without secrets in the clear."""
    created: datetime
    updated: datetime
    last_accessed: datetime
    profile: str | None = None
    """JSON: what its sandbox may take and where it runs. None: as the server's settings say."""
    template: str | None = None
    """The name of the template that it is a fork of."""
    snapshot: str | None = None
    """What the driver calls the files that its sandbox begins with; None as soon as it has."""
    target: str | None = None
    """The status that it is being brought to, stored before the engine is asked; None when it is there."""
    guest_id: str | None = None
    """The guest that was last greeted in its sandbox; another one there means that the sandbox began anew."""
    stage_since: datetime | None = None
    """When `status` became what it is; None: it never changed. The store keeps it."""
    file_count: int | None = None
    """How many files it had when it was last looked at. None: nobody has looked yet."""
    size_bytes: int | None = None
    """Of these files."""
    traffic_bytes: int = 0
    """That its programs have sent and received."""


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """What a sweep over all environments needs of each: no objects of users, so a thousand of them are small."""

    id: str
    status: str
    target: str | None
    sandbox_id: str | None
    sandbox_ref: str | None
    snapshot: str | None
    template: str | None
    last_accessed: datetime


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One version of an agent that a project has defined."""

    uid: str
    """Never given twice: another agent may get the name when this one is deleted."""
    project_id: str
    name: str
    """The id that callers know."""
    version: int
    """1, 2, 3 …"""
    created: datetime
    """When the agent was."""
    updated: datetime
    """When this version was."""
    summary: str
    """JSON: what listings show."""
    definition: str
    """JSON of what was given; empty in listings."""
    lineage: str
    """JSON of what it is built on; empty in listings."""
    snapshot: str | None = None
    """What the driver calls the files that its new environments begin with, its own or its base's; None: there are
    none, and in listings.
    """


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A secret that a project keeps here, sealed."""

    uid: str
    """Never given twice: another credential may get the name when this one is deleted."""
    project_id: str
    name: str
    """The id that callers know."""
    type: str
    version: int
    """1, 2, 3 …: counts the changes of what is sealed, but for those of its key."""
    created: datetime
    updated: datetime
    """When a call changed it; not when the server did."""
    key_id: str
    """The key that it is sealed with."""
    is_revoked: bool = False
    """What was sealed is gone for good."""
    sealed: bytes | None = field(default=None, repr=False)
    """None in listings, and of what is revoked."""


@dataclass(frozen=True, slots=True)
class InteractionRow:
    id: str
    project_id: str
    conversation: str
    previous_id: str | None
    environment_id: str | None
    agent: str
    status: str
    """A wire status: `in_progress`, `requires_action`, `completed`, `failed`, `cancelled`, `incomplete`."""
    is_background: bool
    generation: int
    """Which holder may append; see `claim`."""
    request: str
    """JSON of the canonical request."""
    created: datetime
    updated: datetime
    is_cancelling: bool = False
    """Somebody asked for its end; see `request_cancel`."""
    is_model: bool = False
    """`agent` names a model that is asked directly, without an agent."""
    is_stored: bool = True
    """Otherwise nobody may ask for it, and it goes as soon as its caller has it."""
    tier: str = "standard"
    """`priority`, `standard`, `flex` or `deferred`: whose turn comes first."""
    labels: Mapping[str, str] | None = None
    agent_uid: str | None = None
    """Of an agent that the project has defined: which one, whatever has its name later."""
    agent_version: int | None = None
    """The version of it that runs."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """An interaction without its request, which may have megabytes."""

    id: str
    project_id: str
    environment_id: str | None
    is_cancelling: bool
    tier: str = "standard"


@dataclass(frozen=True, slots=True)
class InteractionFilter:
    """Which interactions a listing shows: those that are all of what is not None."""

    environment_id: str | None = None
    status: str | None = None
    agent: str | None = None
    previous_id: str | None = None
    conversation: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those that have all of these."""
    created_from: datetime | None = None
    created_before: datetime | None = None
    only_stored: bool = False
    """Without those that nobody may ask for."""


ANY_INTERACTION = InteractionFilter()


@dataclass(frozen=True, slots=True)
class CreateCall:
    """The call that created an interaction, kept so that its repetition is recognised."""

    scope: str
    """Who called: calls of different scopes have nothing to do with each other."""
    key: str | None
    """The client's own name for the call; nobody else's of that scope has it."""
    digest: bytes
    """SHA-256 of the canonical request: equal for equal requests."""
    generation: int
    """Of the server that answers."""
