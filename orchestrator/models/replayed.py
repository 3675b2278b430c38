"""Answers that were recorded: the provider `replay`, whose models are files, and what plays one of them. Imports
`models`, `policy` and `errors` only; no provider's library.

`replay:PATH` is looked for among the project's own recordings, then in the folder of recordings itself, which all
projects share; into the folder of another project no path leads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from orchestrator import ids
from orchestrator.errors import InvalidRequest, ModelError
from orchestrator.models.cassettes import Cassette, Exchange, Key, filled, parse_cassette
from orchestrator.models.port import (
    CallDelta,
    ModelEvent,
    ModelProvider,
    ModelRequest,
    TextDelta,
    ThoughtDelta,
    TurnEnd,
)
from orchestrator.models.readings import Reading, difference
from orchestrator.policy.redaction import Scrubber

NAME = "replay"
"""What models of this provider are named after: `replay:PATH`."""
_PIECE_CHARS = 64
_PIECES = 64
"""Texts are recorded whole and told in pieces of that size, as models do; long ones in so many larger pieces."""
_KEPT = 16
"""Cassettes that are kept in memory between the turns of the runs that play them."""


class Playback(ModelProvider):
    """Plays one cassette. Has no state: which exchange comes is in the request."""

    def __init__(self, cassette: Cassette, name: str, scrubber: Scrubber | None = None) -> None:
        """`name` is what errors call the cassette. `scrubber` takes out of what is read what the recording's took out
        of its own, and has the values for what is missing in the answers.
        """
        self._cassette = cassette
        self._name = name
        self._scrubber = scrubber or Scrubber()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        exchange = await asyncio.to_thread(self._exchange, request)
        for event in exchange.events:
            for piece in _pieces(filled(event, self._scrubber)):
                await asyncio.sleep(0)
                yield piece
        if (failure := exchange.failure) is not None:
            # The provider wanted to be left alone; nobody waits for a recording.
            is_tried_again = exchange.key._replace(attempt=exchange.key.attempt + 1) in self._cassette.exchanges
            wait_s = None if is_tried_again else failure.retry_after_s
            raise ModelError(failure.message, code=failure.code, retryable=failure.retryable, retry_after_s=wait_s)

    def _exchange(self, request: ModelRequest) -> Exchange:
        key = Key.of(request)
        exchange = self._cassette.exchanges.get(key)
        if exchange is None and key.purpose == "compaction" and not self._cassette.header.compare:
            return self._summary(key)
        if exchange is None:
            raise self._left(key, f"it has no such model call, of {len(self._cassette.exchanges)} in all")
        if exchange.reading is not None:
            now = Reading.of(request, self._scrubber)
            if found := difference(exchange.reading, now, self._cassette.header.compare):
                raise self._left(key, found)
        return exchange

    def _summary(self, key: Key) -> Exchange:
        """What is nearest to the summary that is wanted: results that differ are summarised at other turns."""
        known = [each for each in self._cassette.exchanges.values() if each.key.purpose == key.purpose]
        before = [each for each in known if each.key.turn <= key.turn]
        return replace(before[-1], key=key) if before else Exchange(key, None, (TurnEnd(),))

    def _left(self, key: Key, where: str) -> ModelError:
        return ModelError(f"The run leaves its recording {self._name!r} at {key}: {where}.", code="replay_diverged")


class ReplayedModel(ModelProvider):
    """All cassettes below a folder, as models."""

    def __init__(self, folder: Path, *, project_id: str | None = None, scrubber: Scrubber | None = None) -> None:
        self._folder = folder
        self._project_id = project_id
        self._scrubber = scrubber or Scrubber()
        self._shelf = _Shelf()

    def within(self, project_id: str, scrubber: Scrubber) -> ReplayedModel:
        """The same for a run of that project."""
        view = ReplayedModel(self._folder, project_id=project_id, scrubber=scrubber)
        view._shelf = self._shelf
        return view

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        name = request.model.partition(":")[2]
        cassette = await asyncio.to_thread(self._find, name)
        async for event in Playback(cassette, name, self._scrubber).stream(request):
            yield event

    def _find(self, name: str) -> Cassette:
        path = PurePosixPath(name)
        is_within = path.parts and "\0" not in name and not path.is_absolute() and ".." not in path.parts
        own = [] if self._project_id is None else [self._folder / self._project_id]
        try:
            for folder in (*own, self._folder) if is_within else ():
                if (file := self._inside(folder / path)) is not None:
                    return self._shelf.read(file)
        except InvalidRequest as error:
            message = f"The recording {name!r} cannot be read: {error.message}"
            raise ModelError(message, code="replay_unreadable") from error
        except OSError as error:
            message = f"The recording {name!r} cannot be read: {error.strerror}"
            raise ModelError(message, code="replay_unreadable") from error
        raise ModelError(
            f"There is no recording {name!r}; 'replay:PATH' names a file in the folder of recordings, by a path within "
            "it.",
            code="replay_not_found",
        )

    def _inside(self, path: Path) -> Path | None:
        """The file that a path leads to, if it is one of ours: links may lead out, or to another project's."""
        try:
            root, file = self._folder.resolve(), path.resolve()
        except RuntimeError:  # links that go round in circles
            return None
        # What is no file, such as a pipe, could be read for ever.
        if not file.is_relative_to(root) or not file.is_file():
            return None
        first = file.relative_to(root).parts[0]
        return None if ids.is_project_id(first) and first != self._project_id else file


class _Shelf:
    """The cassettes that were read last, as long as their files do not change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[Path, tuple[tuple[int, int, int], Cassette]] = OrderedDict()

    def read(self, file: Path) -> Cassette:
        """Blocks. Raises `OSError`, `InvalidRequest`."""
        with self._lock:
            found = file.stat()
            state = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._read.pop(file, None)
            cassette = known[1] if known is not None and known[0] == state else parse_cassette(file.read_bytes())
            self._read[file] = (state, cassette)
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
            return cassette


def _pieces(event: ModelEvent) -> Iterator[ModelEvent]:
    if isinstance(event, TextDelta | ThoughtDelta):
        yield from (replace(event, text=text) for text in _cut(event.text))
    elif isinstance(event, CallDelta):
        yield from (replace(event, arguments=text) for text in _cut(event.arguments))
    else:
        yield event


def _cut(text: str) -> Iterator[str]:
    size = max(_PIECE_CHARS, -(-len(text) // _PIECES))
    return (text[at : at + size] for at in range(0, len(text) or 1, size))
