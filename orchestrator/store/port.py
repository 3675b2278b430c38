"""The store port: rows per resource and the event log, as the rest of Corral sees them.

What is kept, as values, is in `records`. May import that, `errors`, `ids` and `clock` only. No SQL here;
implementations stand beside this file and must pass `tests/conformance/store_suite.py`.

A log is an append-only sequence of events under one id: an interaction's (what a stream reader sees, and the run's
journal) or an environment's (the life of its sandboxes). Rules, from the design, section 2:

* nothing is shown that is not stored: `tail` yields an event only after the transaction that holds it is durable;
* `seq` starts at 1 and has no gaps; an event's bytes never change;
* only the holder of the current generation of an interaction may append to its log;
* times within a log never go back, whatever is done to the machine's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

from orchestrator.store.records import (
    ANY_INTERACTION,
    AgentRow,
    CreateCall,
    CredentialRow,
    EnvironmentRow,
    Event,
    InteractionFilter,
    InteractionRow,
    KeyRow,
    NewEvent,
    ProjectRow,
    RunKey,
    SandboxRow,
)


class Store(ABC):
    """Everything durable. All methods may be called from one event loop at once; each is one transaction.

    A cancelled write may still happen. Every method raises `StoreError` when the database refuses, with code
    `store_busy` or `store_full` (both `retryable`) or `store_failed`; nothing of that call was kept, and later calls
    may succeed. New environments and interactions are refused with `store_full` a little before nothing else fits.
    """

    @abstractmethod
    async def open(self) -> None:
        """Opens the database, applies missing migrations. Once per object.

        Raises:
            ConfigError: the data folder cannot be used, or the database is from a newer or another build.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Commits what is queued, ends all tails, closes. May be called twice."""

    @abstractmethod
    async def check(self) -> None:
        """Raises `StoreError` unless new work would be taken now: there is room, and a write goes through."""

    @abstractmethod
    async def next_generation(self) -> int:
        """A number larger than every one given before, durable: the generation of the caller's leases and links."""

    @abstractmethod
    async def raise_generation(self, at_least: int) -> int:
        """As `next_generation`, and not below `at_least`.

        For a database that was restored from a backup: guests in running sandboxes know later generations than it does.
        """

    # projects and keys

    @abstractmethod
    async def default_project(self) -> ProjectRow:
        """The project of single-user mode, made at first use."""

    @abstractmethod
    async def ensure_project(self, name: str) -> ProjectRow:
        """The project of that name, made if there is none."""

    @abstractmethod
    async def create_key(self, key: KeyRow, key_hash: bytes) -> None:
        """Stores a key by its SHA-256 digest."""

    @abstractmethod
    async def keys(self) -> list[KeyRow]:
        """All keys, revoked ones too, oldest first."""

    @abstractmethod
    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """Marks the key revoked and returns its row; None if unknown. Revoking twice keeps the first time."""

    @abstractmethod
    async def find_key(self, key_hash: bytes) -> KeyRow | None:
        """The key of that digest, if it is known and not revoked."""

    @abstractmethod
    async def projects(self) -> list[ProjectRow]:
        """All projects, oldest first."""

    @abstractmethod
    async def set_retention(self, name: str, days: int | None) -> ProjectRow | None:
        """Says for how long the project's ended interactions are kept; returns its row, None if it is unknown."""

    # environments

    @abstractmethod
    async def create_environment(self, row: EnvironmentRow, base: str | None = None) -> None:
        """Inserts the row, and with it the JSON of its template's environment object, unless that is there already."""

    @abstractmethod
    async def template(self, name: str) -> str | None:
        """The JSON of the environment object that a template is built from; None if there is no such template."""

    @abstractmethod
    async def drop_unused_templates(self) -> None:
        """Removes the templates of which there is no environment any more."""

    @abstractmethod
    async def environment(self, project_id: str | None, environment_id: str) -> EnvironmentRow | None:
        """The row, or None if unknown or another project's. `project_id` None sees every project."""

    @abstractmethod
    async def environments(
        self, project_id: str | None, *, after: str | None = None, limit: int = 50
    ) -> list[EnvironmentRow]:
        """Newest first, at most `limit`; `after` is the id of the last row of the page before.

        That row may have been deleted meanwhile, up to a day ago.

        Raises:
            InvalidRequest: there was no such row for this project, or it is forgotten.
        """

    @abstractmethod
    async def sandbox_rows(self) -> list[SandboxRow]:
        """Every environment of every project, the longest unused first."""

    @abstractmethod
    async def count_environments(self, project_id: str) -> int:
        """How many environments the project has, those being deleted included."""

    @abstractmethod
    async def update_environment(
        self,
        environment_id: str,
        *,
        status: str | None = None,
        sandbox_id: str | None = None,
        sandbox_ref: str | None = None,
        spec: str | None = None,
        snapshot: str | None = None,
        target: str | None = None,
        guest_id: str | None = None,
        accessed: bool = False,
    ) -> None:
        """Changes what is not None; `accessed` sets `last_accessed` to now. An empty string clears a nullable column.

        An environment that is gone is left alone.
        """

    @abstractmethod
    async def note_size(self, environment_id: str, *, file_count: int, size_bytes: int) -> None:
        """Keeps how much the environment holds, which changes nothing else of it. One that is gone is left alone."""

    @abstractmethod
    async def note_traffic(self, environment_id: str, *, more_bytes: int) -> None:
        """Adds to what the environment's programs have sent and received, which changes nothing else of it. One that is
        gone is left alone.
        """

    @abstractmethod
    async def delete_environment(self, environment_id: str) -> None:
        """Removes the row and its log. Interactions that ran in it stay."""

    # agents

    @abstractmethod
    async def create_agent(self, row: AgentRow, *, limit: int) -> None:
        """Inserts an agent with its first version.

        Raises:
            Conflict: the project has one of that name. LimitExceeded: it has `limit` of them.
        """

    @abstractmethod
    async def add_agent_version(self, row: AgentRow, *, limit: int) -> None:
        """Inserts the next version, which is the latest from then on.

        Raises:
            NotFound: the agent was deleted. Conflict: `row.version` is not the next. LimitExceeded: it is over `limit`.
        """

    @abstractmethod
    async def agent(self, project_id: str, name: str, version: int | None = None) -> AgentRow | None:
        """A version of the project's agent of that name, the latest if None; None if there is none."""

    @abstractmethod
    async def recorded_agent(self, uid: str, version: int) -> AgentRow | None:
        """The version that an interaction has recorded; also of an agent that was deleted, while a run needs it."""

    @abstractmethod
    async def agents(self, project_id: str, *, after: str | None = None, limit: int = 50) -> list[AgentRow]:
        """The latest versions, newest agent first, without definitions; `after` is a `uid`, as in `environments`."""

    @abstractmethod
    async def agent_versions(self, uid: str, *, before: int | None = None, limit: int = 50) -> list[AgentRow]:
        """The agent's versions below `before`, latest first, without definitions."""

    @abstractmethod
    async def agent_snapshots(self) -> set[str]:
        """All that versions of agents have as their `snapshot`, also of agents that only a run needs."""

    @abstractmethod
    async def delete_agent(self, uid: str) -> None:
        """Removes the agent. Its versions stay as long as an interaction that is in progress needs them."""

    # credentials

    @abstractmethod
    async def create_credential(self, row: CredentialRow, *, limit: int) -> None:
        """Inserts a credential.

        Raises:
            Conflict: the project has one of that name. LimitExceeded: it has `limit` of them.
        """

    @abstractmethod
    async def credential(self, project_id: str, name: str) -> CredentialRow | None:
        """The project's credential of that name, revoked or not; None if there is none."""

    @abstractmethod
    async def credentials(self, project_id: str, *, after: str | None = None, limit: int = 50) -> list[CredentialRow]:
        """Newest first, without what is sealed; `after` is a `uid`, as in `environments`."""

    @abstractmethod
    async def replace_credential(self, row: CredentialRow) -> None:
        """Makes `row` the next version of what is sealed; name, type and `created` stay, `updated` never goes back.

        Raises:
            NotFound: it was deleted. Conflict: it is revoked, or `row.version` is not the next.
        """

    @abstractmethod
    async def revoke_credential(self, uid: str) -> None:
        """Forgets what is sealed, for good. Revoking twice keeps the first time; one that is gone is left alone."""

    @abstractmethod
    async def delete_credential(self, uid: str) -> None:
        """Removes it; its name may be given again."""

    @abstractmethod
    async def sealing_key_ids(self) -> set[str]:
        """The keys that are needed to open what is sealed, of all projects."""

    @abstractmethod
    async def credentials_of_other_keys(self, key_id: str, *, limit: int) -> list[CredentialRow]:
        """Some of those, of all projects, that are sealed with another key."""

    @abstractmethod
    async def reseal_credential(self, row: CredentialRow, key_id: str, sealed: bytes) -> None:
        """Puts the same, sealed with another key, in place of what `row` has; nothing, if it was changed since."""

    # interactions and logs

    @abstractmethod
    async def create_interaction(
        self,
        row: InteractionRow,
        events: Sequence[NewEvent],
        environment: EnvironmentRow | None = None,
        base: str | None = None,
        call: CreateCall | None = None,
    ) -> None:
        """Inserts the row and its first events, and with them a new `environment` as `create_environment` does, and the
        `call`, whose key must be new.

        Raises:
            NotFound: the agent that the row names by `agent_uid` was deleted.
        """

    @abstractmethod
    async def interaction(self, project_id: str | None, interaction_id: str) -> InteractionRow | None: ...

    @abstractmethod
    async def interactions(
        self,
        project_id: str | None,
        wanted: InteractionFilter = ANY_INTERACTION,
        *,
        after: str | None = None,
        limit: int = 50,
    ) -> list[InteractionRow]:
        """Newest first, at most `limit`; `after` as in `environments`."""

    @abstractmethod
    async def expired(self, project_id: str, before: datetime, limit: int) -> list[str]:
        """Ids of ended interactions to which nothing was added since `before`, at most `limit`, oldest first."""

    # create calls

    @abstractmethod
    async def find_call(self, scope: str, key: str) -> tuple[str, bytes] | None:
        """The id of the interaction that was created under that key, and the digest of its request."""

    @abstractmethod
    async def find_unanswered(self, scope: str, digest: bytes, lost_since: datetime) -> str | None:
        """The latest interaction of an equal request without a key whose caller left since then without an answer."""

    @abstractmethod
    async def note_answer(self, interaction_id: str, *, was_delivered: bool) -> None:
        """The caller of the create call has its answer, or has left without one. What was delivered stays so."""

    @abstractmethod
    async def await_answer(self, interaction_id: str, generation: int) -> None:
        """The call came again, and the server of that generation is to answer it; nothing if it has its answer."""

    @abstractmethod
    async def lose_answers(self, generation: int) -> None:
        """Calls that servers before that generation have not answered are lost from now on."""

    @abstractmethod
    async def forget_calls(self, *, lost_before: datetime, keys_before: datetime) -> None:
        """Drops calls that were answered or lost before that time; those with a key once their interaction has ended
        and is older than `keys_before`.
        """

    @abstractmethod
    async def unstored(self, lost_before: datetime) -> list[str]:
        """Interactions that are not to be kept and that nobody will ask for: answered, or lost before that time."""

    @abstractmethod
    async def run_keys(self, status: str) -> list[RunKey]:
        """All interactions of that status, oldest first."""

    @abstractmethod
    async def request_cancel(self, interaction_id: str) -> bool:
        """Remembers that the run shall end, whoever holds it; False if it has ended or is unknown. Repeatable."""

    @abstractmethod
    async def delete_interaction(self, interaction_id: str) -> None:
        """Removes the row and its log. Readers that tail it see its end."""

    @abstractmethod
    async def claim(self, interaction_id: str, generation: int) -> None:
        """Makes `generation` the holder of the interaction's run.

        Raises:
            LeaseLost: a higher generation holds it already, or the interaction is gone.
        """

    @abstractmethod
    async def append(
        self,
        interaction_id: str,
        events: Sequence[NewEvent],
        *,
        generation: int,
        expected_seq: int,
        status: str | None = None,
    ) -> None:
        """Appends to an interaction's log; returns when they are durable and visible to readers.

        `expected_seq` is the seq the first of them gets; `status`, if given, becomes the row's in the same transaction.

        Raises:
            LeaseLost: another generation holds the run, the log is at another seq, or the interaction is gone.
        """

    @abstractmethod
    async def note(self, log_id: str, events: Sequence[NewEvent]) -> None:
        """Appends to an environment's log at whatever seq is next. No lease: notes are for people, not for folding.

        Nothing is written if the environment is gone, its log went with it.

        Raises:
            StoreError: `log_id` is an interaction's.
        """

    @abstractmethod
    async def read(self, log_id: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """Events with `seq` > `after`, in order. An unknown log is empty."""

    @abstractmethod
    def tail(self, log_id: str, *, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """Yields batches of events with `seq` > `after` for ever: first what is stored, then each append.

        Ends only when the log is deleted (at once if no interaction or environment has that id) or the store closes. A
        reader that does not read costs no memory beyond its position and one batch: batches are cut from what all
        readers share or from the database. May be cancelled at any point.
        """
