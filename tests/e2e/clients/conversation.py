"""A conversation: chained calls, one environment with its files and variables, and the record deleted at the end."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.e2e.clients.observing import AGENT, bash, results


def look(sdk: Any) -> dict[str, Any]:
    first = sdk.interactions.create(
        agent=AGENT, input=bash("echo kept >kept.txt"), environment={"type": "remote", "env": {"NOTE": "mine"}}
    )
    same = {"agent": AGENT, "environment": first.environment_id}
    second = sdk.interactions.create(
        **same, input=[{"type": "text", "text": bash("cat kept.txt; echo $NOTE")}], previous_interaction_id=first.id
    )
    typed = sdk.interactions.create(
        **same,
        input=[{"type": "user_input", "content": [{"type": "text", "text": bash("ls")}]}],
        previous_interaction_id=second.id,
    )
    alone = sdk.interactions.create(agent=AGENT, input=bash("ls"), environment="remote")
    sdk.interactions.delete(second.id)
    try:
        sdk.interactions.get(second.id)
        after_delete = "still there"
    except Exception as error:
        after_delete = type(error).__name__
    asynchronous = asyncio.run(_asynchronously(sdk, first.environment_id))
    return {
        "statuses": [each.status for each in (first, second, typed, alone)],
        "previous": [second.previous_interaction_id == first.id, typed.previous_interaction_id == second.id],
        "one_environment": len({each.environment_id for each in (first, second, typed)}) == 1,
        "results": [results(each)[0] for each in (second, typed, alone)],
        "after_delete": after_delete,
        "asynchronous": asynchronous,
        "environment_ids": [first.environment_id, alone.environment_id],
    }


async def _asynchronously(sdk: Any, environment_id: str) -> list[str]:
    stream = await sdk.aio.interactions.create(
        agent=AGENT, input=bash("cat kept.txt"), environment=environment_id, stream=True
    )
    return [event.delta.result async for event in stream if getattr(getattr(event, "delta", None), "result", None)]
