"""A provider of models beside the tests, which are not asynchronous: a wire server in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator

from tests.fakes.model_servers import SERVERS, ModelServer, Reply, Turns

KEY = "canary-0123456789"


@contextlib.contextmanager
def provider(kind: str, *turns: Reply, model: str = "agent") -> Iterator[ModelServer]:
    """A server of that format whose `model` answers with one of `turns` after the other."""
    server = SERVERS[kind]({model: Turns(*turns)})
    is_up, loop, ending = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with server.running():
            is_up.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert is_up.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()


def settings_of(server: ModelServer, name: str = "local") -> dict[str, str]:
    """What a `ServerProcess` is given so that it has that provider, and its agents ask its model `agent`."""
    given = {name: {"kind": server.kind, "base_url": server.url, "api_key": KEY}}
    return {"PROVIDERS": json.dumps(given), "MODEL": f"{name}:agent"}
