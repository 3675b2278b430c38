"""A run's log as its model is to be told of it, which is not quite what readers see. Fed event by event; no I/O.

Told beside the steps: answers that were refused, each with what was wrong. Not told: turns that broke off, since they
were asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import LogDamaged
from orchestrator.models.port import Correction
from orchestrator.wire.content import TextContent
from orchestrator.wire.events import PUBLIC_KINDS, Folder
from orchestrator.wire.steps import ModelOutput, Step

_TELL = (
    "That answer does not have the form that was asked for: {problem}. "
    "Answer again, with the JSON document and nothing else."
)


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that the client never sees, and the model is told is wrong."""

    at: int
    """After so many of the run's steps."""
    text: str
    problem: str

    def steps(self) -> list[Step]:
        """It, and what was wrong."""
        said: list[Step] = [ModelOutput(content=[TextContent(text=self.text)])] if self.text else []
        return [*said, Correction(content=[TextContent(text=_TELL.format(problem=self.problem))])]


@dataclass(frozen=True, slots=True)
class Shortening:
    """How the conversation was shortened for the model. Places count the run's steps, below zero those before it."""

    begin: int
    """What comes before is told by the summary, if there is one."""
    elided: int
    """Of results before this only the ends are told."""
    summary: str


class Transcript:
    """One run's. Attributes are as of the last event fed."""

    def __init__(self) -> None:
        self.folder = Folder()
        self.refused: list[Refused] = []
        self.shortening: Shortening | None = None
        """The latest."""
        self.is_in_turn = False
        """Whether a model was asked that has not come to an end."""
        self._turn_begin = 0
        self._broken: list[range] = []

    def feed(self, kind: str, body: bytes) -> None:
        """Takes the next event. Raises `LogDamaged` if it cannot be read; it is passed over."""
        if kind in PUBLIC_KINDS:
            self.folder.feed(kind, body)
        elif kind in _READERS:
            try:
                _READERS[kind](self, json.loads(body))
            except (KeyError, TypeError, ValueError) as error:
                raise LogDamaged(kind) from error

    def told(self) -> list[Step]:
        """The steps for the model."""
        return [step for _, step in self._placed()]

    def told_later(self) -> list[Step]:
        """The steps for later interactions of the conversation: what was refused is of no use any more. An open step
        counts as far as it can stand.
        """
        hidden = {at for turn in self._broken for at in turn}
        return [step for at, step in enumerate(self.folder.all_steps()) if at not in hidden]

    def place(self, number: int) -> int:
        """Where in `told` the run's step of this number is."""
        return sum(each < number for each, _ in self._placed())

    def number(self, place: int) -> int:
        """The number of the run's step that stands at a place of `told`, or is the first after it."""
        return self._placed()[place][0]

    def _placed(self) -> list[tuple[int, Step]]:
        steps = self.folder.steps
        hidden = {at for turn in self._broken for at in turn}
        placed: list[tuple[int, Step]] = []
        done = 0
        for each in (*self.refused, None):
            until = len(steps) if each is None else each.at
            placed += [(at, steps[at]) for at in range(done, until) if at not in hidden]
            done = until
            if each is not None:
                placed += [(until, step) for step in each.steps()]
        return placed

    def _begin(self, _note: Mapping[str, Any]) -> None:
        self.is_in_turn = True
        self._turn_begin = len(self.folder.steps)

    def _end(self, _note: Mapping[str, Any]) -> None:
        self.is_in_turn = False

    def _break(self, _note: Mapping[str, Any]) -> None:
        self.is_in_turn = False
        self._broken.append(range(self._turn_begin, len(self.folder.steps)))

    def _refuse(self, note: Mapping[str, Any]) -> None:
        self.refused.append(Refused(len(self.folder.steps), note["text"], note["problem"]))

    def _shorten(self, note: Mapping[str, Any]) -> None:
        self.shortening = Shortening(int(note["begin"]), int(note["elided"]), str(note["summary"]))


_READERS: Mapping[str, Callable[[Transcript, Mapping[str, Any]], None]] = {
    "turn.started": Transcript._begin,
    "turn.ended": Transcript._end,
    "turn.broken": Transcript._break,
    "answer.refused": Transcript._refuse,
    "context.shortened": Transcript._shorten,
}
