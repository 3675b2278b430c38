"""A run in the background: polled to its end, and another one cancelled."""

from __future__ import annotations

from typing import Any

from tests.e2e.clients.observing import AGENT, await_end, bash, is_busy, results
from tests.e2e.clients.telling import until


def look(sdk: Any) -> dict[str, Any]:
    begun = sdk.interactions.create(
        agent=AGENT, input=bash("sleep 1; echo done"), environment="remote", background=True
    )
    ended = await_end(sdk, begun.id)
    long = sdk.interactions.create(
        agent=AGENT, input=bash("sleep 300"), environment=begun.environment_id, background=True
    )
    until(lambda: sdk.interactions.get(long.id), is_busy)
    cancelled = sdk.interactions.cancel(long.id)
    after = sdk.interactions.get(long.id)
    processes = sdk.interactions.create(agent=AGENT, input=bash("ps -eo args"), environment=begun.environment_id)
    return {
        "began_as": begun.status,
        "environment_id": begun.environment_id,
        "status": ended.status,
        "results": results(ended),
        "cancel_says": cancelled.status,
        "then_reads": after.status,
        "still_there": "sleep 300" in results(processes)[0],
    }
