"""What a server finds at the platform, against what its rows say. Decides nothing but what is to be looked at; pure.

May import the driver port and the store's rows. Whoever acts on a difference asks the platform again first: a list is
old by the time that it has been read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from orchestrator.sandboxes.driver import Found, SandboxRef, SandboxState
from orchestrator.store.records import SandboxRow

_SETTLED = frozenset({"active", "paused", "stopped", "lost"})
"""Statuses that say something about a sandbox that was once complete."""


def status_of(state: SandboxState, *, has_files: bool) -> str | None:
    """What the row of an environment should say whose sandbox is in `state`; None if nobody knows."""
    match state:
        case SandboxState.RUNNING:
            return "active"
        case SandboxState.PAUSED:
            return "paused"
        case SandboxState.UNKNOWN:
            return None
        case SandboxState.ABSENT if not has_files:
            return "lost"
    return "stopped"


@dataclass(frozen=True, slots=True)
class Differences:
    """What rows and platform do not agree on."""

    changed: frozenset[str]
    """Environments whose row says something else than the platform does."""
    orphans: tuple[SandboxRef, ...]
    """Sandboxes of ours that no row knows and nobody has in hand."""


def compare(found: Iterable[Found], rows: Iterable[SandboxRow], in_hand: Collection[str]) -> Differences:
    """`in_hand`: ids of sandboxes that are being made, or wait."""
    there = {each.ref.sandbox_id: each for each in found}
    changed, known = set(), set(in_hand)
    for row in rows:
        known.add(row.sandbox_id or "")
        if row.status in _SETTLED and row.sandbox_id and row.sandbox_id not in in_hand:
            each = there.get(row.sandbox_id)
            status = status_of(each.state, has_files=each.has_files) if each is not None else "lost"
            if status not in (None, row.status):
                changed.add(row.id)
    orphans = tuple(each.ref for sandbox_id, each in there.items() if sandbox_id not in known)
    return Differences(frozenset(changed), orphans)
