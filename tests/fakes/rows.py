"""Rows and events for tests of the store, complete and plain; a test names what it is about."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime
from typing import Any

from orchestrator.ids import (
    conversation_of,
    new_agent_uid,
    new_credential_uid,
    new_environment_id,
    new_interaction_id,
    new_key_id,
)
from orchestrator.store.records import AgentRow, CredentialRow, EnvironmentRow, InteractionRow, KeyRow, NewEvent

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def interaction_row(project_id: str, **changes: Any) -> InteractionRow:
    row_id = changes.get("id") or new_interaction_id()
    created = changes.get("created", START)
    row = InteractionRow(
        id=row_id,
        project_id=project_id,
        conversation=conversation_of(row_id),
        previous_id=None,
        environment_id=None,
        agent="general",
        status="in_progress",
        is_background=False,
        generation=1,
        request='{"input":"hello"}',
        created=created,
        updated=created,
    )
    return dataclasses.replace(row, **changes)


def environment_row(project_id: str, **changes: Any) -> EnvironmentRow:
    created = changes.get("created", START)
    row = EnvironmentRow(
        id=new_environment_id(),
        project_id=project_id,
        status="pending",
        sandbox_id=None,
        sandbox_ref=None,
        spec='{"type":"remote"}',
        created=created,
        updated=created,
        last_accessed=created,
    )
    return dataclasses.replace(row, **changes)


def agent_row(project_id: str, **changes: Any) -> AgentRow:
    row = AgentRow(new_agent_uid(), project_id, "clerk", 1, START, START, '{"n":1}', '{"id":"clerk"}', "{}")
    return dataclasses.replace(row, **changes)


def credential_row(project_id: str, **changes: Any) -> CredentialRow:
    uid = new_credential_uid()
    row = CredentialRow(uid, project_id, "crm", "bearer_token", 1, START, START, "key-1", sealed=b"sealed")
    return dataclasses.replace(row, **changes)


def key_row(project_id: str, **changes: Any) -> KeyRow:
    row = KeyRow(new_key_id(), project_id, "laptop", "corral_ab", False, START, None)
    return dataclasses.replace(row, **changes)


def key_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def delta(text: str, kind: str = "step.delta") -> NewEvent:
    return NewEvent(kind, f'{{"text":"{text}"}}'.encode())


def deltas(count: int, first: int = 1) -> list[NewEvent]:
    return [delta(str(number)) for number in range(first, first + count)]
