"""Create calls that come again: which one is a repetition, and whether a caller has its answer.

A client repeats a call when its answer did not come, and cannot know whether the call did. With an `Idempotency-Key`
the two are one whatever happens. Without one, a call is a repetition only of an equal one of the same caller that was
left without an answer: its connection was lost, or the server that was to answer died. Two equal calls whose callers
both wait are two runs. No HTTP here: who delivers answers says what became of them. Owns the tasks that note it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import structlog

from orchestrator.clock import Clock
from orchestrator.errors import InvalidRequest, StoreError
from orchestrator.store.port import Store
from orchestrator.store.records import CreateCall, InteractionRow
from orchestrator.wire.base import encode_json
from orchestrator.wire.interactions import InteractionRequest, dump_request

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallerKey:
    """Who makes a create call, and what its maker calls it."""

    scope: str
    """An API key's id, or the project's in single-user mode."""
    idempotency_key: str | None = None


class Replies:
    """Of one server."""

    def __init__(self, store: Store, clock: Clock, generation: int, retry_window_s: float) -> None:
        self._store = store
        self._clock = clock
        self._generation = generation
        self._window = timedelta(seconds=retry_window_s)
        self._notes: set[asyncio.Task[None]] = set()
        self._losses: set[asyncio.Task[None]] = set()
        """Those of them that an equal call must find."""
        self._creating: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """What earlier servers have not answered is lost from now on."""
        await self._store.lose_answers(self._generation)

    async def aclose(self) -> None:
        """Returns when all that was said so far is stored."""
        await asyncio.gather(*self._notes)

    @asynccontextmanager
    async def creating(
        self, caller: CallerKey, request: InteractionRequest
    ) -> AsyncGenerator[InteractionRow | CreateCall, None]:
        """The interaction that the call repeats, or what is to be stored with a new one, within the block.

        Raises:
            InvalidRequest: the key was used for another request.
        """
        call = CreateCall(caller.scope, caller.idempotency_key, _digest(request), self._generation)
        # Two calls with one key that come at once are one, too.
        name = (caller.scope, caller.idempotency_key or call.digest.hex())
        lock = self._creating.setdefault(name, asyncio.Lock())
        async with lock:
            yield await self._earlier(call) or call

    async def _earlier(self, call: CreateCall) -> InteractionRow | None:
        if call.key is not None:
            found = await self._store.find_call(call.scope, call.key)
            if found is None:
                return None
            interaction_id, digest = found
            if digest != call.digest:
                raise InvalidRequest(
                    "Invalid value at 'Idempotency-Key': it was used for another request before; use a new one."
                )
        else:
            await asyncio.gather(*self._losses)
            since = self._clock.now() - self._window
            unanswered = await self._store.find_unanswered(call.scope, call.digest, since)
            if unanswered is None:
                return None
            interaction_id = unanswered
        row = await self._store.interaction(None, interaction_id)
        if row is not None:
            # From now on it is this caller who waits: the next equal call is another one's.
            await self._store.await_answer(row.id, self._generation)
            log.info("create_repeated", interaction_id=row.id, has_key=call.key is not None)
        return row

    def delivered(self, row: InteractionRow) -> None:
        """The caller has its answer, or the beginning of its stream, which names the interaction."""
        self._note(row, was_delivered=True)

    def lost(self, row: InteractionRow) -> None:
        """The caller has left without one."""
        log.info("caller_left", interaction_id=row.id)
        self._note(row, was_delivered=False)

    def _note(self, row: InteractionRow, *, was_delivered: bool) -> None:
        """Nobody waits for it: the answer is out, and who has left is gone."""
        task = asyncio.create_task(self._write(row, was_delivered), name=f"answer-{row.id}")
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
        if not was_delivered:
            self._losses.add(task)
            task.add_done_callback(self._losses.discard)

    async def _write(self, row: InteractionRow, was_delivered: bool) -> None:
        try:
            await self._store.note_answer(row.id, was_delivered=was_delivered)
        except StoreError as error:
            # What this costs: a repetition may be taken for a call of its own, or the reverse.
            log.warning("answer_not_noted", interaction_id=row.id, reason=error.message)


def _digest(request: InteractionRequest) -> bytes:
    """Equal for requests that mean the same, however they are written."""
    fields = InteractionRequest.model_fields
    given = {name: value for name, value in dump_request(request).items() if value != fields[name].default}
    return hashlib.sha256(encode_json(_in_order(given))).digest()


def _in_order(value: Any) -> Any:
    """The value with the names of its objects in order."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(each) for each in value] if isinstance(value, list) else value
