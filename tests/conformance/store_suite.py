"""What every store must do. A store's test module subclasses `StoreSuite` and says how to make one.

The tests of tailing wait for batches with a limit of seconds; only a store that never delivers comes near it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import Clock
from orchestrator.errors import Conflict, InvalidRequest, LeaseLost, LimitExceeded, NotFound, StoreError
from orchestrator.ids import new_environment_id, new_interaction_id
from orchestrator.store.port import Store
from orchestrator.store.records import (
    AgentRow,
    CreateCall,
    CredentialRow,
    Event,
    InteractionFilter,
    InteractionRow,
    NewEvent,
    RunKey,
    SandboxRow,
)
from tests.fakes.clock import ManualClock
from tests.fakes.consistency import assert_store_consistent
from tests.fakes.rows import (
    START,
    agent_row,
    credential_row,
    delta,
    deltas,
    environment_row,
    interaction_row,
    key_hash,
    key_row,
)

LIMIT_S = 10


async def take(tail: AsyncGenerator[list[Event], None], count: int) -> list[Event]:
    """The tail's next `count` events; more than that in its batches fails."""
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S):
        while len(events) < count:
            events += await anext(tail)
    assert len(events) == count
    return events


async def assert_ended(tail: AsyncGenerator[list[Event], None]) -> None:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StopAsyncIteration):
            await anext(tail)


def bodies(events: list[Event]) -> list[bytes]:
    return [event.body for event in events]


@pytest.mark.anyio
class StoreSuite(ABC):
    @abstractmethod
    def make(self, folder: Path, clock: Clock) -> Store:
        """A store, not open yet, whose data live in `folder`: the same folder again gives the same data."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def store(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
        store = self.make(tmp_path, clock)
        await store.open()
        try:
            yield store
            await assert_store_consistent(store)
        finally:
            await store.aclose()

    @pytest.fixture
    async def project(self, store: Store) -> str:
        return (await store.default_project()).id

    @pytest.fixture
    async def log(self, store: Store, project: str) -> str:
        """An interaction with an empty log, held by generation 1."""
        row = interaction_row(project)
        await store.create_interaction(row, [])
        return row.id

    # life

    async def test_everything_is_there_again_after_reopening(self, tmp_path: Path, clock: ManualClock) -> None:
        first = self.make(tmp_path, clock)
        await first.open()
        project = await first.default_project()
        origins = {"profile": '{"runtime":"runsc"}', "template": "t", "snapshot": "env-1"}
        row, key = interaction_row(project.id), key_row(project.id)
        environment = environment_row(project.id, **origins)
        await first.create_key(key, key_hash("k"))
        await first.create_environment(environment)
        await first.note(environment.id, deltas(2))
        await first.create_interaction(row, deltas(3))
        stored = await first.read(row.id)
        await first.aclose()

        second = self.make(tmp_path, clock)
        await second.open()
        assert await second.default_project() == project
        assert await second.find_key(key_hash("k")) == key
        assert await second.environment(project.id, environment.id) == environment
        assert len(await second.read(environment.id)) == 2
        assert await second.interaction(project.id, row.id) == row
        assert await second.read(row.id) == stored
        await second.aclose()

    async def test_closing_twice_is_fine_and_closed_stores_refuse(self, tmp_path: Path, clock: ManualClock) -> None:
        store = self.make(tmp_path, clock)
        await store.open()
        await store.aclose()
        await store.aclose()
        with pytest.raises(StoreError):
            await store.next_generation()
        with pytest.raises(StoreError):
            await store.keys()
        await assert_ended(store.tail(new_interaction_id()))

    async def test_closing_commits_what_is_queued(self, tmp_path: Path, clock: ManualClock) -> None:
        store = self.make(tmp_path, clock)
        await store.open()
        project = await store.default_project()
        rows = [interaction_row(project.id) for _ in range(20)]
        writes = [asyncio.create_task(store.create_interaction(row, deltas(2))) for row in rows]
        await asyncio.sleep(0)  # all are queued, none is awaited
        await store.aclose()
        await asyncio.gather(*writes)

        again = self.make(tmp_path, clock)
        await again.open()
        assert {row.id for row in await again.interactions(None)} == {row.id for row in rows}
        await assert_store_consistent(again)
        await again.aclose()

    async def test_generations_only_grow(self, tmp_path: Path, clock: ManualClock) -> None:
        given: list[int] = []
        for _ in range(2):
            store = self.make(tmp_path, clock)
            await store.open()
            given += await asyncio.gather(*(store.next_generation() for _ in range(5)))
            await store.aclose()
        assert given == sorted(set(given))
        assert given[0] >= 1

    async def test_a_generation_can_be_raised_and_never_falls(self, store: Store) -> None:
        first = await store.next_generation()
        raised = await store.raise_generation(first + 40)
        assert raised == first + 40
        assert await store.raise_generation(first) == raised + 1
        assert await store.next_generation() == raised + 2

    # projects and keys

    async def test_a_project_is_made_once_by_name(self, store: Store) -> None:
        made = await asyncio.gather(*(store.ensure_project("team") for _ in range(5)))
        assert len({project.id for project in made}) == 1
        assert made[0].name == "team"
        assert (await store.default_project()).id != made[0].id

    async def test_keys_are_found_by_digest_until_revoked(self, store: Store, project: str, clock: ManualClock) -> None:
        key = key_row(project, is_operator=True)
        other = key_row(project, created=START + timedelta(seconds=1))
        await store.create_key(other, key_hash("b"))
        await store.create_key(key, key_hash("a"))
        assert await store.find_key(key_hash("a")) == key
        assert await store.find_key(key_hash("c")) is None
        assert await store.keys() == [key, other]

        clock.advance(60)
        revoked = await store.revoke_key(key.id)
        assert revoked is not None
        assert revoked.revoked == clock.now()
        assert await store.find_key(key_hash("a")) is None
        clock.advance(60)
        assert await store.revoke_key(key.id) == revoked
        assert await store.keys() == [revoked, other]
        assert await store.revoke_key("key_unknown") is None

    async def test_a_refused_row_leaves_nothing_and_harms_nobody(self, store: Store, project: str) -> None:
        row = interaction_row(project)
        await store.create_interaction(row, deltas(1))
        fresh = interaction_row(project)
        results = await asyncio.gather(
            store.create_interaction(fresh, deltas(2)),
            store.create_interaction(row, deltas(5)),
            store.create_interaction(interaction_row("prj_unknown"), deltas(5)),
            store.append(row.id, deltas(1, first=2), generation=1, expected_seq=2),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), StoreError, StoreError, type(None)]
        assert len(await store.read(row.id)) == 2
        assert len(await store.read(fresh.id)) == 2
        assert len(await store.interactions(None)) == 2

    # environments

    async def test_environments_change_only_where_told(self, store: Store, project: str, clock: ManualClock) -> None:
        row = environment_row(project)
        await store.create_environment(row)
        clock.advance(5)
        await store.update_environment(row.id, status="active", sandbox_id="s", sandbox_ref="r")
        changed = await store.environment(project, row.id)
        assert changed is not None
        assert (changed.status, changed.sandbox_id, changed.sandbox_ref) == ("active", "s", "r")
        assert (changed.spec, changed.created, changed.last_accessed) == (row.spec, row.created, row.last_accessed)
        assert changed.updated == clock.now()

        clock.advance(5)
        await store.update_environment(row.id, accessed=True)
        seen = await store.environment(project, row.id)
        assert seen is not None
        assert (seen.last_accessed, seen.updated) == (clock.now(), changed.updated)

        await store.update_environment(row.id, snapshot="kept")
        kept = await store.environment(project, row.id)
        assert kept is not None
        assert (kept.snapshot, kept.sandbox_id) == ("kept", "s")
        await store.update_environment(row.id, sandbox_id="", sandbox_ref="", snapshot="", spec="{}")
        cleared = await store.environment(project, row.id)
        assert cleared is not None
        assert (cleared.status, cleared.sandbox_id, cleared.sandbox_ref, cleared.spec) == ("active", None, None, "{}")
        assert cleared.snapshot is None

        await store.update_environment(new_environment_id(), status="lost")
        before = await store.environment(None, row.id)
        await store.note_size(row.id, file_count=3, size_bytes=1 << 40)
        assert before is not None
        assert await store.environment(None, row.id) == replace(before, file_count=3, size_bytes=1 << 40)
        await store.note_size(new_environment_id(), file_count=1, size_bytes=1)
        await store.note_traffic(row.id, more_bytes=1 << 40)
        await store.note_traffic(row.id, more_bytes=2)
        noted = replace(before, file_count=3, size_bytes=1 << 40, traffic_bytes=(1 << 40) + 2)
        assert await store.environment(None, row.id) == noted
        await store.note_traffic(new_environment_id(), more_bytes=1)
        assert len(await store.environments(None)) == 1

    async def test_an_environment_remembers_where_it_is_going_and_since_when_it_is_there(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        row = environment_row(project)
        await store.create_environment(row)
        clock.advance(5)
        await store.update_environment(row.id, target="paused", guest_id="g")
        going = await store.environment(project, row.id)
        assert going is not None
        assert (going.status, going.target, going.guest_id, going.stage_since) == ("pending", "paused", "g", None)

        await store.update_environment(row.id, status="paused", target="")
        since = clock.now()
        clock.advance(5)
        await store.update_environment(row.id, status="paused", guest_id="")
        there = await store.environment(project, row.id)
        assert there is not None
        assert (there.status, there.target, there.guest_id, there.stage_since) == ("paused", None, None, since)

    async def test_a_sweep_sees_every_environment_the_longest_unused_first(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        other = (await store.ensure_project("other")).id
        used = environment_row(project, status="active", sandbox_id="s", sandbox_ref="r", target="stopped")
        unused = environment_row(other, template="t", snapshot="n")
        await store.create_environment(used)
        await store.create_environment(unused, "{}")
        clock.advance(5)
        await store.update_environment(used.id, accessed=True)
        assert await store.sandbox_rows() == [
            SandboxRow(unused.id, "pending", None, None, None, "n", "t", START),
            SandboxRow(used.id, "active", "stopped", "s", "r", None, None, clock.now()),
        ]

    async def test_a_template_stays_as_long_as_an_environment_is_a_fork_of_it(self, store: Store, project: str) -> None:
        first, second = (environment_row(project, template="t") for _ in range(2))
        await store.create_environment(first, '{"type":"remote"}')
        await store.create_environment(second, '{"type":"remote"}')
        await store.create_environment(environment_row(project, template="u"), "{}")
        assert await store.template("t") == '{"type":"remote"}'
        assert await store.template("v") is None
        await store.delete_environment(first.id)
        await store.drop_unused_templates()
        assert await store.template("t") is not None
        await store.delete_environment(second.id)
        await store.drop_unused_templates()
        assert (await store.template("t"), await store.template("u")) == (None, "{}")

    async def test_a_deleted_environment_takes_its_log_and_leaves_its_interactions(
        self, store: Store, project: str
    ) -> None:
        environment = environment_row(project)
        interaction = interaction_row(project, environment_id=environment.id)
        await store.create_environment(environment)
        await store.create_interaction(interaction, deltas(1))
        await store.note(environment.id, deltas(2))
        tail = store.tail(environment.id)
        await take(tail, 2)
        await store.delete_environment(environment.id)
        await assert_ended(tail)
        assert await store.environment(None, environment.id) is None
        assert await store.read(environment.id) == []
        assert await store.interaction(None, interaction.id) == interaction
        await store.note(environment.id, deltas(1))
        assert await store.read(environment.id) == []

    # agents

    async def test_every_change_of_an_agent_is_a_version(self, store: Store, project: str) -> None:
        first = agent_row(project)
        await store.create_agent(first, limit=9)
        second = replace(first, version=2, updated=START + timedelta(hours=1), definition='{"id":"clerk","n":2}')
        await store.add_agent_version(second, limit=9)
        assert await store.agent(project, "clerk") == second
        assert await store.agent(project, "clerk", 1) == first
        for version in (0, 3, 2**70):
            assert await store.agent(project, "clerk", version) is None
        listed = [replace(row, definition="", lineage="") for row in (second, first)]
        assert await store.agents(project) == listed[:1]
        assert await store.agent_versions(first.uid) == listed
        assert await store.agent_versions(first.uid, limit=1) == listed[:1]
        assert await store.agent_versions(first.uid, before=2) == listed[1:]

    async def test_files_that_versions_begin_with_are_known_as_long_as_one_has_them(
        self, store: Store, project: str
    ) -> None:
        first = agent_row(project, snapshot="base-1")
        await store.create_agent(first, limit=9)
        await store.add_agent_version(replace(first, version=2, snapshot="base-2"), limit=9)
        await store.create_agent(agent_row(project, name="other", snapshot="base-2"), limit=9)
        await store.create_agent(agent_row(project, name="plain"), limit=9)
        assert await store.agent(project, "clerk", 1) == first
        assert await store.agent_snapshots() == {"base-1", "base-2"}
        await store.delete_agent(first.uid)
        assert await store.agent_snapshots() == {"base-2"}

    async def test_of_two_that_create_or_change_an_agent_one_does(self, store: Store, project: str) -> None:
        rows = [agent_row(project) for _ in range(2)]
        made = await asyncio.gather(*(store.create_agent(row, limit=9) for row in rows), return_exceptions=True)
        assert [type(each) for each in made if each is not None] == [Conflict]
        row = await store.agent(project, "clerk")
        assert row in rows
        assert row is not None
        second = replace(row, version=2)
        made = await asyncio.gather(
            *(store.add_agent_version(second, limit=9) for _ in range(2)), return_exceptions=True
        )
        assert [type(each) for each in made if each is not None] == [Conflict]
        with pytest.raises(Conflict):
            await store.add_agent_version(replace(row, version=4), limit=9)

    async def test_agents_and_their_versions_are_limited(self, store: Store, project: str) -> None:
        row = agent_row(project)
        await store.create_agent(row, limit=1)
        with pytest.raises(LimitExceeded):
            await store.create_agent(agent_row(project, name="other"), limit=1)
        with pytest.raises(LimitExceeded):
            await store.add_agent_version(replace(row, version=2), limit=1)
        assert await store.agent(project, "other") is None
        assert await store.agent(project, "clerk") == row
        await store.delete_agent(row.uid)
        await store.create_agent(agent_row(project, name="other"), limit=1)

    async def test_agents_belong_to_their_project(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        mine, theirs = agent_row(project), agent_row(other)
        await store.create_agent(mine, limit=9)
        assert await store.agent(other, "clerk") is None
        assert await store.agents(other) == []
        await store.create_agent(theirs, limit=9)
        assert await store.agent(project, "clerk") == mine
        assert await store.agent(other, "clerk") == theirs
        with pytest.raises(InvalidRequest):
            await store.agents(other, after=mine.uid)

    async def test_agents_are_paged_also_while_they_are_deleted(self, store: Store, project: str) -> None:
        rows = [agent_row(project, name=f"a{number}", created=START + timedelta(number // 3)) for number in range(7)]
        for row in rows:
            await store.create_agent(row, limit=9)
        expected = sorted(rows, key=lambda row: (-row.created.timestamp(), row.uid))
        found: list[AgentRow] = []
        while page := await store.agents(project, after=found[-1].uid if found else None, limit=2):
            for row in page:
                await store.delete_agent(row.uid)
            found += page
        assert [row.uid for row in found] == [row.uid for row in expected]

    async def test_a_deleted_agent_stays_for_the_runs_that_need_it(self, store: Store, project: str) -> None:
        agent = agent_row(project)
        await store.create_agent(agent, limit=9)
        row = interaction_row(project, agent="clerk", agent_uid=agent.uid, agent_version=1)
        await store.create_interaction(row, [])
        assert await store.interaction(project, row.id) == row
        await store.delete_agent(agent.uid)
        assert await store.agent(project, "clerk") is None
        assert await store.agents(project) == []
        assert await store.recorded_agent(agent.uid, 1) == agent
        with pytest.raises(NotFound):
            await store.add_agent_version(replace(agent, version=2), limit=9)
        late = interaction_row(project, agent="clerk", agent_uid=agent.uid, agent_version=1)
        with pytest.raises(NotFound):
            await store.create_interaction(late, [])
        assert await store.interaction(project, late.id) is None

        again = agent_row(project)
        await store.create_agent(again, limit=9)
        assert await store.agent(project, "clerk") == again
        assert await store.recorded_agent(agent.uid, 1) == agent
        await store.append(row.id, [], generation=1, expected_seq=1, status="completed")
        await store.delete_agent(again.uid)
        assert await store.recorded_agent(agent.uid, 1) is None
        assert await store.recorded_agent(again.uid, 1) is None
        assert (await store.interaction(project, row.id)) is not None

    # credentials

    async def test_a_credential_is_kept_changed_and_deleted(self, store: Store, project: str) -> None:
        row = credential_row(project)
        await store.create_credential(row, limit=9)
        assert await store.credential(project, "crm") == row
        second = replace(row, version=2, updated=START + timedelta(1), key_id="key-2", sealed=b"again")
        await store.replace_credential(second)
        assert await store.credential(project, "crm") == second
        earlier = replace(second, version=3, updated=START)
        await store.replace_credential(earlier)
        assert await store.credential(project, "crm") == replace(earlier, updated=second.updated)
        await store.delete_credential(row.uid)
        assert await store.credential(project, "crm") is None
        assert await store.credentials(project) == []
        with pytest.raises(NotFound):
            await store.replace_credential(replace(row, version=4))
        again = credential_row(project)
        await store.create_credential(again, limit=9)
        assert await store.credential(project, "crm") == again

    async def test_of_two_that_create_or_change_a_credential_one_does(self, store: Store, project: str) -> None:
        rows = [credential_row(project) for _ in range(2)]
        made = await asyncio.gather(*(store.create_credential(row, limit=9) for row in rows), return_exceptions=True)
        assert sorted(type(each).__name__ for each in made) == ["Conflict", "NoneType"]
        row = await store.credential(project, "crm")
        assert row in rows
        assert row is not None
        changed = await asyncio.gather(
            *(store.replace_credential(replace(row, version=2, sealed=bytes([n]))) for n in range(2)),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in changed) == ["Conflict", "NoneType"]
        with pytest.raises(Conflict, match="changed meanwhile"):
            await store.replace_credential(replace(row, version=4))

    async def test_what_a_revoked_credential_held_is_gone(self, store: Store, project: str, clock: ManualClock) -> None:
        row = credential_row(project)
        await store.create_credential(row, limit=9)
        clock.advance(60)
        await store.revoke_credential(row.uid)
        revoked = await store.credential(project, "crm")
        assert revoked == replace(row, version=2, updated=clock.now(), is_revoked=True, sealed=None)
        assert await store.sealing_key_ids() == set()
        assert await store.credentials_of_other_keys("key-2", limit=9) == []
        clock.advance(60)
        await store.revoke_credential(row.uid)
        assert await store.credential(project, "crm") == revoked
        with pytest.raises(Conflict, match="revoked"):
            await store.replace_credential(replace(row, version=3))
        with pytest.raises(Conflict, match="exists already"):
            await store.create_credential(credential_row(project), limit=9)
        await store.revoke_credential("crd_unknown")

    async def test_credentials_belong_to_their_project_and_are_limited(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        mine, theirs = credential_row(project), credential_row(other)
        await store.create_credential(mine, limit=1)
        assert await store.credential(other, "crm") is None
        assert await store.credentials(other) == []
        await store.create_credential(theirs, limit=1)
        assert await store.credential(project, "crm") == mine
        assert await store.credential(other, "crm") == theirs
        with pytest.raises(InvalidRequest):
            await store.credentials(other, after=mine.uid)
        with pytest.raises(LimitExceeded):
            await store.create_credential(credential_row(project, name="more"), limit=1)
        assert await store.credential(project, "more") is None

    async def test_credentials_are_paged_without_secrets_also_while_they_are_deleted(
        self, store: Store, project: str
    ) -> None:
        rows = [credential_row(project, name=f"c{n}", created=START + timedelta(n // 3)) for n in range(7)]
        for row in rows:
            await store.create_credential(row, limit=9)
        found: list[CredentialRow] = []
        while page := await store.credentials(project, after=found[-1].uid if found else None, limit=2):
            for row in page:
                await store.delete_credential(row.uid)
            found += page
        newest_first = sorted(rows, key=lambda row: (-row.created.timestamp(), row.uid))
        assert found == [replace(row, sealed=None) for row in newest_first]

    async def test_credentials_are_resealed_unless_they_were_changed(self, store: Store, project: str) -> None:
        rows = [credential_row(project, name=f"c{n}") for n in range(3)]
        for row in rows:
            await store.create_credential(row, limit=9)
        assert await store.sealing_key_ids() == {"key-1"}
        assert await store.credentials_of_other_keys("key-1", limit=9) == []
        assert len(await store.credentials_of_other_keys("key-2", limit=2)) == 2
        changed = replace(rows[0], version=2, sealed=b"newer")
        await store.replace_credential(changed)
        for row in rows:
            await store.reseal_credential(row, "key-2", b"resealed")
        assert await store.credential(project, "c0") == changed
        assert await store.credential(project, "c1") == replace(rows[1], key_id="key-2", sealed=b"resealed")
        assert await store.credentials_of_other_keys("key-2", limit=9) == [changed]
        assert await store.sealing_key_ids() == {"key-1", "key-2"}

    # scope and pages

    async def test_other_projects_rows_are_unknown(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        environment, interaction = environment_row(project), interaction_row(project)
        await store.create_environment(environment)
        await store.create_interaction(interaction, [])
        for scope, is_seen in ((project, True), (None, True), (other, False)):
            assert (await store.environment(scope, environment.id) is not None) is is_seen
            assert (await store.interaction(scope, interaction.id) is not None) is is_seen
            assert bool(await store.environments(scope)) is is_seen
            assert bool(await store.interactions(scope)) is is_seen
        with pytest.raises(InvalidRequest):
            await store.interactions(other, after=interaction.id)
        with pytest.raises(InvalidRequest):
            await store.environments(other, after=environment.id)

    async def test_pages_cover_every_row_once_though_times_are_equal(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        rows = [interaction_row(project, created=START + timedelta(seconds=number // 7)) for number in range(25)]
        for row in rows:
            await store.create_interaction(row, [])
        await store.create_interaction(interaction_row(other), [])
        expected = sorted(rows, key=lambda row: (-row.created.timestamp(), row.id))

        assert await store.interactions(project, limit=100) == expected
        listed: list[InteractionRow] = []
        while page := await store.interactions(project, after=listed[-1].id if listed else None, limit=4):
            assert len(page) <= 4
            listed += page
        assert listed == expected
        assert await store.interactions(project, limit=0) == []

    async def test_deleting_while_listing_finds_every_row(self, store: Store, project: str, clock: ManualClock) -> None:
        environments = [environment_row(project) for _ in range(7)]
        for row in environments:
            await store.create_environment(row)
        found: list[str] = []
        while page := await store.environments(project, after=found[-1] if found else None, limit=3):
            for row in page:
                await store.delete_environment(row.id)
            found += [row.id for row in page]
        assert sorted(found) == sorted(row.id for row in environments)

        interactions = [interaction_row(project) for _ in range(3)]
        for interaction in interactions:
            await store.create_interaction(interaction, [])
        first, second, third = await store.interactions(project)
        await store.delete_interaction(second.id)
        assert await store.interactions(project, after=second.id) == [third]
        clock.advance(timedelta(days=2).total_seconds())
        await store.delete_interaction(first.id)
        with pytest.raises(InvalidRequest):
            await store.interactions(project, after=second.id)

    async def test_environments_are_counted_by_project(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        rows = [environment_row(project) for _ in range(3)]
        for row in (*rows, environment_row(other)):
            await store.create_environment(row)
        await store.update_environment(rows[0].id, status="deleting")
        assert await store.count_environments(project) == 3
        await store.delete_environment(rows[0].id)
        assert await store.count_environments(project) == 2
        assert await store.count_environments(other) == 1
        assert await store.count_environments("prj_unknown") == 0

    async def test_interactions_are_filtered(self, store: Store, project: str) -> None:
        running = interaction_row(project, environment_id="a" * 32)
        done = interaction_row(project, environment_id="a" * 32, status="completed")
        elsewhere = interaction_row(project, environment_id="b" * 32)
        for row in (running, done, elsewhere):
            await store.create_interaction(row, [])
        assert {row.id for row in await store.interactions(None, InteractionFilter(environment_id="a" * 32))} == {
            running.id,
            done.id,
        }
        assert {row.id for row in await store.interactions(None, InteractionFilter(status="in_progress"))} == {
            running.id,
            elsewhere.id,
        }
        assert await store.interactions(project, InteractionFilter(environment_id="a" * 32, status="completed")) == [
            done
        ]

    async def test_filters_are_all_held(self, store: Store, project: str) -> None:
        root = interaction_row(project, labels={"team": "red", "x-1": "y"}, created=START)
        child = interaction_row(
            project,
            id=new_interaction_id(root.id),
            previous_id=root.id,
            labels={"team": "blue"},
            agent="other",
            created=START + timedelta(seconds=1),
        )
        hidden = interaction_row(project, is_stored=False, created=START + timedelta(seconds=2))
        for row in (root, child, hidden):
            await store.create_interaction(row, [])

        async def found(**wanted: Any) -> list[str]:
            return [row.id for row in await store.interactions(project, InteractionFilter(**wanted))]

        assert await found() == [hidden.id, child.id, root.id]
        assert await found(only_stored=True) == [child.id, root.id]
        assert await found(labels={"team": "red"}) == [root.id]
        assert await found(labels={"team": "red", "x-1": "y"}) == [root.id]
        assert await found(labels={"team": "red", "x-1": "z"}) == []
        assert await found(labels={"y": "red"}) == []
        assert await found(agent="other") == [child.id]
        assert await found(previous_id=root.id) == [child.id]
        assert await found(conversation=root.conversation) == [child.id, root.id]
        assert await found(created_from=START + timedelta(seconds=1)) == [hidden.id, child.id]
        assert await found(created_before=START + timedelta(seconds=1)) == [root.id]
        assert await found(agent="other", labels={"team": "red"}) == []

    async def test_what_ended_long_ago_is_found_oldest_first(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        days = [timedelta(days=number) for number in range(4)]
        old, later, young = (
            interaction_row(project, status="completed", created=START + day, updated=START + day) for day in days[:3]
        )
        long_lived = interaction_row(project, status="failed", created=START, updated=START + days[3])
        running, foreign = interaction_row(project), interaction_row(other, status="completed")
        for row in (later, old, young, long_lived, running, foreign):
            await store.create_interaction(row, [])
        assert await store.expired(project, START + days[2], 10) == [old.id, later.id]
        assert await store.expired(project, START + days[2], 1) == [old.id]
        assert await store.expired(project, START, 10) == []

    async def test_projects_keep_what_they_are_told(self, store: Store, project: str, clock: ManualClock) -> None:
        clock.advance(1)
        other = await store.ensure_project("other")
        assert other.retention_days is None
        changed = await store.set_retention("other", 7)
        assert changed is not None
        assert (changed.id, changed.retention_days) == (other.id, 7)
        assert [(each.name, each.retention_days) for each in await store.projects()] == [
            ("default", None),
            ("other", 7),
        ]
        cleared = await store.set_retention("other", None)
        assert cleared is not None
        assert cleared.retention_days is None
        assert await store.set_retention("nobody", 7) is None

    # create calls

    async def test_a_key_names_one_interaction_of_its_scope(self, store: Store, project: str) -> None:
        row, other = interaction_row(project), interaction_row(project)
        await store.create_interaction(row, [], call=CreateCall("s", "k", b"d", 1))
        await store.create_interaction(other, [], call=CreateCall("t", "k", b"e", 1))
        assert await store.find_call("s", "k") == (row.id, b"d")
        assert await store.find_call("t", "k") == (other.id, b"e")
        assert await store.find_call("s", "l") is None
        again = interaction_row(project)
        with pytest.raises(StoreError):
            await store.create_interaction(again, [], call=CreateCall("s", "k", b"d", 1))
        assert await store.interaction(None, again.id) is None
        await store.delete_interaction(row.id)
        assert await store.find_call("s", "k") is None

    async def test_an_equal_call_is_found_only_if_its_caller_left_without_an_answer(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        row = interaction_row(project)
        await store.create_interaction(row, [], call=CreateCall("s", None, b"d", 1))
        begun = clock.now()
        assert await store.find_unanswered("s", b"d", begun) is None, "its caller still waits"
        clock.advance(1)
        await store.note_answer(row.id, was_delivered=False)
        assert await store.find_unanswered("s", b"d", begun) == row.id
        assert await store.find_unanswered("t", b"d", begun) is None
        assert await store.find_unanswered("s", b"e", begun) is None
        assert await store.find_unanswered("s", b"d", begun + timedelta(seconds=2)) is None, "that is too long ago"
        await store.note_answer(row.id, was_delivered=True)
        assert await store.find_unanswered("s", b"d", begun) is None
        await store.note_answer(row.id, was_delivered=False)
        assert await store.find_unanswered("s", b"d", begun) is None, "who has an answer has it"

    async def test_of_several_equal_calls_the_latest_lost_one_is_found(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        rows = [interaction_row(project) for _ in range(2)]
        begun = clock.now()
        for row in rows:
            await store.create_interaction(row, [], call=CreateCall("s", None, b"d", 1))
        for row in reversed(rows):
            clock.advance(1)
            await store.note_answer(row.id, was_delivered=False)
        assert await store.find_unanswered("s", b"d", begun) == rows[0].id

    async def test_what_an_earlier_server_has_not_answered_is_lost(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        before, answered, own = (interaction_row(project) for _ in range(3))
        await store.create_interaction(before, [], call=CreateCall("s", None, b"1", 1))
        await store.create_interaction(answered, [], call=CreateCall("s", None, b"2", 1))
        await store.create_interaction(own, [], call=CreateCall("s", None, b"3", 2))
        await store.note_answer(answered.id, was_delivered=True)
        begun = clock.now()
        clock.advance(1)
        await store.lose_answers(2)
        found = [await store.find_unanswered("s", digest, begun) for digest in (b"1", b"2", b"3")]
        assert found == [before.id, None, None]

    async def test_a_call_that_came_again_waits_until_it_is_lost_again(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        row, answered = interaction_row(project), interaction_row(project)
        begun = clock.now()
        await store.create_interaction(row, [], call=CreateCall("s", None, b"1", 1))
        await store.create_interaction(answered, [], call=CreateCall("s", None, b"2", 1))
        await store.note_answer(row.id, was_delivered=False)
        await store.note_answer(answered.id, was_delivered=True)
        for each in (row, answered):
            await store.await_answer(each.id, 2)
        assert await store.find_unanswered("s", b"1", begun) is None
        await store.lose_answers(2)
        assert await store.find_unanswered("s", b"1", begun) is None, "the server of that generation is there"
        clock.advance(5)
        await store.lose_answers(3)
        assert await store.find_unanswered("s", b"1", clock.now()) == row.id
        assert await store.find_unanswered("s", b"2", begun) is None, "who has an answer has it"

    async def test_calls_are_forgotten_when_nobody_can_repeat_them(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        begun = clock.now()
        lost, keyed = interaction_row(project), interaction_row(project, status="completed")
        running = interaction_row(project)
        await store.create_interaction(lost, [], call=CreateCall("s", None, b"d", 1))
        await store.create_interaction(keyed, [], call=CreateCall("s", "k", b"d", 1))
        await store.create_interaction(running, [], call=CreateCall("s", "l", b"d", 1))
        await store.note_answer(lost.id, was_delivered=False)
        await store.note_answer(keyed.id, was_delivered=True)
        await store.forget_calls(lost_before=begun, keys_before=begun)
        assert await store.find_unanswered("s", b"d", begun) == lost.id
        assert await store.find_call("s", "k") is not None
        later = begun + timedelta(days=2)
        await store.forget_calls(lost_before=later, keys_before=later)
        assert await store.find_unanswered("s", b"d", begun) is None
        assert await store.find_call("s", "k") is None
        assert await store.find_call("s", "l") is not None, "its interaction still runs"

    async def test_what_is_not_to_be_kept_goes_once_its_caller_has_it(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        waited, answered, left, kept, without = (
            interaction_row(project, is_stored=is_stored) for is_stored in (False, False, False, True, False)
        )
        for number, row in enumerate((waited, answered, left, kept)):
            await store.create_interaction(row, [], call=CreateCall("s", None, bytes([number]), 1))
        await store.create_interaction(without, [])
        await store.note_answer(answered.id, was_delivered=True)
        await store.note_answer(left.id, was_delivered=False)
        await store.note_answer(kept.id, was_delivered=True)
        now = clock.now()
        assert set(await store.unstored(now)) == {answered.id, without.id}
        assert set(await store.unstored(now + timedelta(seconds=1))) == {answered.id, without.id, left.id}

    async def test_an_environment_comes_with_its_interaction_or_not_at_all(self, store: Store, project: str) -> None:
        environment = environment_row(project, template="t")
        row = interaction_row(project, environment_id=environment.id)
        await store.create_interaction(row, deltas(2), environment, "{}")
        assert await store.environment(project, environment.id) == environment
        assert await store.template("t") == "{}"
        assert len(await store.read(row.id)) == 2

        refused = environment_row(project, template="u")
        with pytest.raises(StoreError):
            await store.create_interaction(row, [], refused, "{}")
        assert await store.environment(project, refused.id) is None
        assert await store.template("u") is None

    async def test_the_keys_of_runs_come_oldest_first(self, store: Store, project: str) -> None:
        other = (await store.ensure_project("other")).id
        young = interaction_row(project, created=START + timedelta(seconds=1), environment_id="a" * 32)
        old = interaction_row(other)
        for row in (young, old, interaction_row(project, status="completed")):
            await store.create_interaction(row, [])
        await store.request_cancel(young.id)
        assert await store.run_keys("in_progress") == [
            RunKey(old.id, other, None, False),
            RunKey(young.id, project, "a" * 32, True),
        ]

    async def test_a_cancel_is_remembered_whoever_holds_the_run(self, store: Store, log: str) -> None:
        await store.claim(log, 5)
        assert await store.request_cancel(log)
        assert await store.request_cancel(log)
        row = await store.interaction(None, log)
        assert row is not None
        assert (row.is_cancelling, row.status) == (True, "in_progress")
        await store.append(log, deltas(1), generation=5, expected_seq=1, status="requires_action")
        assert await store.request_cancel(log)
        await store.append(log, deltas(1), generation=5, expected_seq=2, status="cancelled")
        assert not await store.request_cancel(log)
        assert not await store.request_cancel(new_interaction_id())

    async def test_rows_come_back_as_they_were_given(self, store: Store, project: str) -> None:
        previous = new_interaction_id()
        row = interaction_row(
            project,
            id=new_interaction_id(previous),
            previous_id=previous,
            environment_id=new_environment_id(),
            is_background=True,
            generation=7,
            request='{"input":"ä \\u0000 🐎"}',
            created=START + timedelta(microseconds=1),
            updated=START + timedelta(microseconds=3),
        )
        await store.create_interaction(row, [])
        assert await store.interaction(project, row.id) == row
        unusual = interaction_row(project, is_model=True, is_stored=False, tier="flex", labels={"a-b": "1", "c_d": ""})
        await store.create_interaction(unusual, [])
        assert await store.interaction(project, unusual.id) == unusual

    # logs

    async def test_events_come_back_byte_for_byte(self, store: Store, log: str, clock: ManualClock) -> None:
        odd = [b"", b"\x00\xff", '{"text":"\u2028 ä 🐎"}'.encode(), b"x" * 300_000]
        await store.append(log, [NewEvent("step.delta", body) for body in odd], generation=1, expected_seq=1)
        clock.advance(0.000_001)
        await store.append(log, [NewEvent("tool.output", b"{}")], generation=1, expected_seq=5)
        events = await store.read(log)
        assert bodies(events) == [*odd, b"{}"]
        assert [event.seq for event in events] == [1, 2, 3, 4, 5]
        assert [event.kind for event in events] == ["step.delta"] * 4 + ["tool.output"]
        assert [event.at for event in events] == [START] * 4 + [START + timedelta(microseconds=1)]
        assert bodies(await take(store.tail(log), 5)) == bodies(events)

    async def test_reading_starts_after_a_position(self, store: Store, log: str) -> None:
        await store.append(log, deltas(10), generation=1, expected_seq=1)
        assert [event.seq for event in await store.read(log, after=7)] == [8, 9, 10]
        assert [event.seq for event in await store.read(log, after=2, limit=3)] == [3, 4, 5]
        assert await store.read(log, after=10) == []
        assert await store.read(log, after=10**30) == []
        assert await store.read(log, limit=0) == []
        assert len(await store.read(log, after=-1)) == 10
        assert await store.read(new_interaction_id()) == []

    async def test_an_append_moves_the_row_with_it(self, store: Store, log: str, clock: ManualClock) -> None:
        clock.advance(3)
        event = NewEvent("interaction.status_update", b'{"status":"completed"}')
        await store.append(log, [event], generation=1, expected_seq=1, status="completed")
        row = await store.interaction(None, log)
        assert row is not None
        assert (row.status, row.updated, row.created) == ("completed", clock.now(), START)
        clock.advance(3)
        await store.append(log, deltas(1), generation=1, expected_seq=2)
        row = await store.interaction(None, log)
        assert row is not None
        assert (row.status, row.updated) == ("completed", clock.now())

    @pytest.mark.parametrize(("generation", "expected_seq"), [(0, 3), (2, 3), (1, 2), (1, 4)])
    async def test_only_the_holder_at_the_right_seq_appends(
        self, store: Store, log: str, generation: int, expected_seq: int
    ) -> None:
        await store.append(log, deltas(2), generation=1, expected_seq=1)
        with pytest.raises(LeaseLost):
            await store.append(log, deltas(2), generation=generation, expected_seq=expected_seq, status="completed")
        row = await store.interaction(None, log)
        assert row is not None
        assert row.status == "in_progress"
        assert len(await store.read(log)) == 2

    async def test_an_empty_append_checks_the_lease_and_sets_the_status(self, store: Store, log: str) -> None:
        await store.append(log, [], generation=1, expected_seq=1, status="cancelled")
        row = await store.interaction(None, log)
        assert row is not None
        assert row.status == "cancelled"
        with pytest.raises(LeaseLost):
            await store.append(log, [], generation=1, expected_seq=2)

    async def test_a_claim_takes_the_log_from_older_generations(self, store: Store, log: str) -> None:
        await store.claim(log, 5)
        await store.claim(log, 5)
        with pytest.raises(LeaseLost):
            await store.append(log, deltas(1), generation=1, expected_seq=1)
        await store.append(log, deltas(1), generation=5, expected_seq=1)
        with pytest.raises(LeaseLost):
            await store.claim(log, 4)
        with pytest.raises(LeaseLost):
            await store.claim(new_interaction_id(), 9)
        row = await store.interaction(None, log)
        assert row is not None
        assert row.generation == 5

    async def test_times_of_a_log_never_go_back_though_the_clock_does(
        self, store: Store, project: str, clock: ManualClock
    ) -> None:
        environment = environment_row(project, created=clock.now())
        row = interaction_row(project, created=clock.now())
        await store.create_environment(environment)
        await store.create_interaction(row, deltas(1))
        clock.advance(5)
        before = clock.now()
        await store.append(row.id, deltas(1), generation=1, expected_seq=2)
        await store.note(environment.id, deltas(1))
        clock.jump(-3600)
        await store.append(row.id, deltas(1), generation=1, expected_seq=3)
        await store.note(environment.id, deltas(1))
        await store.update_environment(environment.id, status="active")
        clock.jump(7200)
        await store.append(row.id, deltas(1), generation=1, expected_seq=4)
        assert [event.at for event in await store.read(row.id)] == [START, before, before, clock.now()]
        assert [event.at for event in await store.read(environment.id)] == [before, before]
        assert await take(store.tail(row.id), 4) == await store.read(row.id)

    async def test_a_clock_that_was_put_back_while_the_store_was_closed_changes_no_order(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        first = self.make(tmp_path, clock)
        await first.open()
        row = interaction_row((await first.default_project()).id, created=clock.now())
        await first.create_interaction(row, deltas(1))
        await first.aclose()
        clock.jump(-60)
        second = self.make(tmp_path, clock)
        await second.open()
        await second.append(row.id, deltas(1), generation=1, expected_seq=2)
        await assert_store_consistent(second)
        await second.aclose()

    async def test_a_store_says_whether_it_takes_writes(self, tmp_path: Path, clock: ManualClock) -> None:
        store = self.make(tmp_path, clock)
        await store.open()
        await store.check()
        await store.aclose()
        with pytest.raises(StoreError):
            await store.check()

    async def test_of_two_appends_at_one_seq_one_wins(self, store: Store, log: str) -> None:
        results = await asyncio.gather(
            *(store.append(log, [delta(str(number))], generation=1, expected_seq=1) for number in range(5)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["LeaseLost"] * 4 + ["NoneType"]
        winner = next(number for number, result in enumerate(results) if result is None)
        assert bodies(await store.read(log)) == [delta(str(winner)).body]

    async def test_a_deleted_interaction_is_gone_with_its_log(self, store: Store, log: str) -> None:
        await store.append(log, deltas(3), generation=1, expected_seq=1)
        await store.delete_interaction(log)
        await store.delete_interaction(log)
        assert await store.interaction(None, log) is None
        assert await store.read(log) == []
        with pytest.raises(LeaseLost):
            await store.append(log, deltas(1), generation=1, expected_seq=4)

    async def test_notes_take_the_next_seq(self, store: Store, project: str, log: str) -> None:
        row = environment_row(project)
        await store.create_environment(row)
        tail = store.tail(row.id)
        await asyncio.gather(*(store.note(row.id, [delta(f"{n}a"), delta(f"{n}b")]) for n in range(5)))
        events = await store.read(row.id)
        assert [event.seq for event in events] == list(range(1, 11))
        assert await take(tail, 10) == events
        with pytest.raises(StoreError):
            await store.note(log, deltas(1))
        assert await store.read(log) == []

    # tails

    async def test_a_tail_replays_and_then_follows(self, store: Store, log: str) -> None:
        await store.append(log, deltas(3), generation=1, expected_seq=1)
        tail = store.tail(log, after=1)
        assert [event.seq for event in await take(tail, 2)] == [2, 3]
        waiting = asyncio.create_task(take(tail, 2))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await store.append(log, deltas(2, first=4), generation=1, expected_seq=4)
        assert [event.seq for event in await waiting] == [4, 5]
        assert await take(store.tail(log), 5) == await store.read(log)

    async def test_what_append_returned_is_visible(self, store: Store, log: str) -> None:
        tail = store.tail(log)
        for seq in range(1, 20):
            await store.append(log, [delta(str(seq))], generation=1, expected_seq=seq)
            assert (await store.read(log))[-1].seq == seq
            assert [event.seq for event in await take(tail, 1)] == [seq]

    async def test_readers_anywhere_get_the_same_bytes(self, store: Store, log: str) -> None:
        """Readers that join at any time and place, some slow, while appends go on."""
        total = 400

        async def follow(after: int, pause_s: float) -> list[Event]:
            seen: list[Event] = []
            async for batch in store.tail(log, after=after):
                seen += batch
                if seen[-1].seq == total:
                    break
                await asyncio.sleep(pause_s)
            return seen

        readers = []
        for seq in range(1, total + 1, 4):
            if seq % 20 == 1:
                readers.append((seq // 2, asyncio.create_task(follow(seq // 2, (seq % 3) / 500))))
            body = [NewEvent("step.delta", b"%d" % number * 500) for number in range(4)]
            await store.append(log, body, generation=1, expected_seq=seq)
        stored = await store.read(log)
        async with asyncio.timeout(LIMIT_S):
            for after, reader in readers:
                assert await reader == stored[after:]

    async def test_a_reader_far_behind_catches_up(self, store: Store, log: str) -> None:
        tail = store.tail(log)
        await store.append(log, deltas(1), generation=1, expected_seq=1)
        await take(tail, 1)
        for seq in range(2, 1_002, 100):
            batch = [NewEvent("step.delta", b"y" * 1_000)] * 100
            await store.append(log, batch, generation=1, expected_seq=seq)
        assert await take(tail, 1_000) == (await store.read(log))[1:]

    async def test_a_position_beyond_the_end_waits_for_it(self, store: Store, log: str) -> None:
        tail = store.tail(log, after=3)
        waiting = asyncio.create_task(anext(tail))
        await asyncio.sleep(0)
        await store.append(log, deltas(2), generation=1, expected_seq=1)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await store.append(log, deltas(3, first=3), generation=1, expected_seq=3)
        assert [event.seq for event in await waiting] == [4, 5]

    async def test_a_deleted_log_ends_its_tails(self, store: Store, log: str) -> None:
        await store.append(log, deltas(1), generation=1, expected_seq=1)
        tails = [store.tail(log, after=1) for _ in range(3)]
        waiting = [asyncio.create_task(assert_ended(tail)) for tail in tails]
        await asyncio.sleep(0.02)
        await store.delete_interaction(log)
        await asyncio.gather(*waiting)
        await assert_ended(store.tail(log))
        await assert_ended(store.tail(new_interaction_id()))

    async def test_closing_ends_tails(self, tmp_path: Path, clock: ManualClock) -> None:
        store = self.make(tmp_path, clock)
        await store.open()
        project = (await store.default_project()).id
        row = interaction_row(project)
        await store.create_interaction(row, deltas(2))
        waiting, held = store.tail(row.id), store.tail(row.id)
        await take(waiting, 2)
        await take(held, 2)
        end = asyncio.create_task(assert_ended(waiting))
        await asyncio.sleep(0.02)
        await store.aclose()
        await end
        await assert_ended(held)

    async def test_a_cancelled_reader_harms_nobody(self, store: Store, log: str) -> None:
        tails = [store.tail(log) for _ in range(4)]
        waiting = [asyncio.create_task(anext(tail)) for tail in tails]
        await asyncio.sleep(0.02)
        for task in waiting[:2]:
            task.cancel()
        await store.append(log, deltas(1), generation=1, expected_seq=1)
        assert [[event.seq for event in await task] for task in waiting[2:]] == [[1], [1]]
        for task in waiting[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_a_cancelled_append_is_whole_or_absent(self, store: Store, log: str) -> None:
        tail = store.tail(log)
        task = asyncio.create_task(store.append(log, deltas(5), generation=1, expected_seq=1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.next_generation()  # goes through the same queue
        events = await store.read(log)
        assert len(events) in (0, 5)
        if events:
            assert await take(tail, 5) == events
