"""What the files of an environment tell the agents that work in it: guides (`AGENTS.md`), skills and hooks. Pure;
imports `policy` only.

All of it comes out of a sandbox: it is bounded, and what is invisible in it is taken out, before anything else is done
with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.policy.redaction import redact

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but tabs and line ends
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # of no width, or they reverse the order of text
    "\ud800-\udfff"  # halves of characters
    "\U000e0000-\U000e007f]"  # letters that models read and people do not see
)
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Guide:
    """A file of instructions."""

    path: str
    text: str
    left_out_bytes: int = 0
    """How much of its end is missing."""


@dataclass(frozen=True, slots=True)
class Skill:
    """Instructions that a model reads itself when it needs them."""

    name: str
    description: str
    """One line."""
    path: str
    """Of its `SKILL.md`."""


@dataclass(frozen=True, slots=True)
class Unread:
    """What there is, but cannot be used."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class HooksFile:
    """A `hooks.json`, as it stood when the run began."""

    path: str
    text: str
    problem: str = ""
    """Why it cannot be used; then there is no text."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """All that an environment tells, most general first."""

    guides: tuple[Guide, ...] = ()
    skills: tuple[Skill, ...] = ()
    unread: tuple[Unread, ...] = ()
    hooks: tuple[HooksFile, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.guides or self.skills or self.unread or self.hooks)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, dumped: Mapping[str, Any]) -> Guidance:
        """Of what `dump` gave. Raises `KeyError`, `TypeError`."""
        return cls(
            tuple(Guide(**each) for each in dumped["guides"]),
            tuple(Skill(**each) for each in dumped["skills"]),
            tuple(Unread(**each) for each in dumped["unread"]),
            tuple(HooksFile(**each) for each in dumped.get("hooks", ())),  # older logs have none
        )


NO_GUIDANCE = Guidance()


def plain(text: str) -> str:
    """The text as a person sees it: without controls and invisible characters, and without keys of this server."""
    return redact(_INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
