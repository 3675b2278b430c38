"""The frame of an interaction: what is told of it in every answer and event beside its steps. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.clock import rfc3339
from orchestrator.store.records import InteractionRow


def public_id(row: InteractionRow) -> str:
    """The id that callers are told; empty for what is not kept, so that nobody asks for it later (reference, 2.2)."""
    return row.id if row.is_stored else ""


def frame_of(row: InteractionRow, updated: datetime) -> dict[str, Any]:
    """The fields of an `Interaction` that its row has."""
    return {
        "id": public_id(row),
        "model" if row.is_model else "agent": row.agent,
        "agent_version": row.agent_version,
        "created": rfc3339(row.created),
        "updated": rfc3339(updated),
        "environment_id": row.environment_id,
        "service_tier": row.tier,
    }
