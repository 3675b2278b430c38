"""Writing cassettes: a provider around another that writes down what is asked and answered. Imports `models`, `policy`
and `errors` only.

A run never fails of its recording: a disk that refuses is an error in the log, and the exchange is missing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

import structlog

from orchestrator.errors import ModelError
from orchestrator.models.cassettes import Exchange, Failure, Header, Key, dump_exchange, dump_header, merged, scrubbed
from orchestrator.models.port import ModelEvent, ModelProvider, ModelRequest, TurnEnd
from orchestrator.models.readings import Reading
from orchestrator.policy.redaction import Scrubber

log = structlog.get_logger(__name__)

SUFFIX = ".jsonl"
_BLOCK_BYTES = 64 * 1024


class Recordings:
    """The folder of a server's recordings: those of a project in a folder of its own, `PROJECT/INTERACTION.jsonl`."""

    def __init__(self, folder: Path, secrets: Iterable[str] = ()) -> None:
        """`secrets`: texts that must never be written, such as the keys of providers."""
        self._folder = folder
        self._secrets = tuple(secrets)

    def of(self, inner: ModelProvider, project_id: str, header: Header, variables: Mapping[str, str]) -> RecordedModel:
        """`inner`, recorded into the file of the header's interaction. A file that is there is gone on with.

        `variables` are those of the run's environment, whose values may be secrets.
        """
        file = self._folder / project_id / f"{header.interaction}{SUFFIX}"
        return RecordedModel(inner, Tape(file, header), Scrubber(variables, self._secrets))


class Tape:
    """One cassette as it is written: by one thread at a time, whole lines only."""

    def __init__(self, file: Path, header: Header) -> None:
        self.file = file
        self._header = header
        self._before: Reading | None = None
        """What the exchange on the last line read, if this object wrote it."""

    def add(self, exchange: Exchange) -> None:
        """Appends an exchange. Blocks. Raises `OSError`; then nothing of it counts."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nobody else's: a conversation may hold what its user would not show.
        with os.fdopen(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
            end = _end_of_whole_lines(file.fileno())
            line = dump_exchange(exchange, self._before if end else None)
            data = line if end else dump_header(self._header) + line
            # What an earlier write left unfinished is written over.
            os.ftruncate(file.fileno(), end)
            written = 0
            while written < len(data):
                written += os.pwrite(file.fileno(), memoryview(data)[written:], end + written)
        self._before = exchange.reading


class RecordedModel(ModelProvider):
    """A provider that is recorded. One run's, whose calls come one after the other."""

    def __init__(self, inner: ModelProvider, tape: Tape, scrubber: Scrubber) -> None:
        self._inner = inner
        self.context_limit_tokens = inner.context_limit_tokens
        self._tape = tape
        self._scrubber = scrubber

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        events: list[ModelEvent] = []
        try:
            async with aclosing(self._inner.stream(request)) as stream:
                async for event in stream:
                    events.append(event)
                    if isinstance(event, TurnEnd):
                        # Before the end is told: whoever hears it asks for nothing more.
                        await self._write(request, events)
                    yield event
        except ModelError as error:
            await self._write(request, events, error)
            raise
        if not events or not isinstance(events[-1], TurnEnd):
            await self._write(request, events)  # it broke off without a word, and does so in a replay

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _write(self, request: ModelRequest, events: list[ModelEvent], error: ModelError | None = None) -> None:
        try:
            await asyncio.to_thread(self._add, request, events, error)
        except OSError as failure:
            log.error("exchange_not_recorded", file=str(self._tape.file), reason=failure.strerror or str(failure))

    def _add(self, request: ModelRequest, events: list[ModelEvent], error: ModelError | None) -> None:
        failure = None if error is None else Failure.of(error)
        if failure is not None:
            failure = failure.model_copy(update={"message": self._scrubber.text(failure.message)})
        told = tuple(scrubbed(event, self._scrubber) for event in merged(events))
        self._tape.add(Exchange(Key.of(request), Reading.of(request, self._scrubber), told, failure))


def _end_of_whole_lines(file: int) -> int:
    """The bytes up to and with the last end of a line."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK_BYTES)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
