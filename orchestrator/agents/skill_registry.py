"""The skills that come with the server: which there are, what they say of themselves, whether they can be used.

They are looked at whenever one is asked for: a folder that is changed needs no new start. Reads the disk and nothing
else; imports `sources`, `wire` and `errors`, and `guidance` and `skills` beside it.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agents.guidance import Skill, Unread
from orchestrator.agents.skills import read_skill
from orchestrator.errors import InvalidRequest, SourceFailed
from orchestrator.sources import SkillFolders
from orchestrator.sources.skills import SKILL_FILE
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.sources import SkillRegistrySource


@dataclass(frozen=True, slots=True)
class RegisteredSkill:
    """A skill that can be had."""

    skill: Skill
    sha256: str
    """Of its folder."""


class SkillRegistry:
    """The skills of one server. All methods but `pinned` block on the disk."""

    def __init__(self, folders: SkillFolders | None = None) -> None:
        self._folders = folders if folders is not None else SkillFolders()

    @classmethod
    def of(cls, *folders: Path | None) -> SkillRegistry:
        """The skills of these folders; of the same name the first one's counts."""
        return cls(SkillFolders([folder for folder in folders if folder is not None]))

    @property
    def folders(self) -> SkillFolders:
        """What delivers them."""
        return self._folders

    def skills(self) -> list[RegisteredSkill | Unread]:
        """All, by name: those that can be had, and why the others cannot."""
        try:
            names = self._folders.names()
        except SourceFailed as error:
            return [Unread("", error.message)]
        return [found for name in names if (found := self.find(name)) is not None]

    def find(self, name: str) -> RegisteredSkill | Unread | None:
        """The skill of a name, read as models are told of it; None if there is none."""
        path = f"{name}/{SKILL_FILE}"
        try:
            found = self._folders.look(name)
        except SourceFailed as error:
            return Unread(path, error.message)
        if found is None:
            return None
        skill = read_skill(path, found.beginning)
        return skill if isinstance(skill, Unread) else RegisteredSkill(skill, found.sha256)

    async def pinned(self, spec: EnvironmentSpec, at: str = "environment.sources") -> EnvironmentSpec:
        """The environment with the digest of each of the server's skills in it: what was checked now is what will be
        delivered, or nothing is.

        Raises:
            InvalidRequest: there is no such skill, it cannot be used, or it is not the one that is asked for.
        """
        if not any(isinstance(source, SkillRegistrySource) for source in spec.sources):
            return spec
        return await asyncio.to_thread(self.pin, spec, at)

    def pin(self, spec: EnvironmentSpec, at: str = "environment.sources") -> EnvironmentSpec:
        """As `pinned`."""
        sources = [
            self._pin(source, f"{at}[{index}]") if isinstance(source, SkillRegistrySource) else source
            for index, source in enumerate(spec.sources)
        ]
        return spec.model_copy(update={"sources": sources})

    def _pin(self, source: SkillRegistrySource, at: str) -> SkillRegistrySource:
        found = self.find(source.source)
        if found is None:
            raise InvalidRequest(f"Invalid value at '{at}.source': {self._unknown(source.source)}.")
        if isinstance(found, Unread):
            raise InvalidRequest(
                f"Invalid value at '{at}.source': skill {source.source!r} cannot be used: {found.reason}."
            )
        if source.sha256 not in (None, found.sha256):
            raise InvalidRequest(
                f"Invalid value at '{at}.sha256': skill {source.source!r} is another one by now: {found.sha256}."
            )
        return source.model_copy(update={"sha256": found.sha256})

    def _unknown(self, name: str) -> str:
        try:
            known = self._folders.names()
        except SourceFailed as error:
            return error.message
        return f"the server has no skill {name!r}; it has {_listed(name, known)}"


def _listed(wanted: str, known: Sequence[str]) -> str:
    """The closest first, and not more than can be read."""
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    shown = [*close, *(name for name in known if name not in close)][:20]
    return ", ".join(shown) + (f" and {len(known) - len(shown)} more" if len(known) > len(shown) else "") or "none"
