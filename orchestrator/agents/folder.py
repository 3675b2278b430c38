"""An agent as a folder: `agent.yaml`, `AGENTS.md`, `skills/`, `workspace/`; read, checked, folded into a create call.

The command line deploys such folders, the server reads its own agents from them. Reads the disk and nothing else;
imports `policy`, `wire` and `errors`, and `marked` and `skills` beside it.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from orchestrator.agents.guidance import Unread
from orchestrator.agents.marked import Marked, read_yaml
from orchestrator.agents.skills import read_skill
from orchestrator.errors import CallerError, ConfigError, InvalidRequest
from orchestrator.policy.agents import check_base_environment
from orchestrator.policy.sources import INLINE_LIMIT_BYTES
from orchestrator.wire.agents import AgentCreate, AgentId, AgentParts
from orchestrator.wire.base import ListOf, WireModel, parse
from orchestrator.wire.environments import EnvironmentField, EnvironmentSpec
from orchestrator.wire.generation import AntigravityConfig
from orchestrator.wire.interactions import AgentName
from orchestrator.wire.sources import InlineSource, Source

FILE = "agent.yaml"
GUIDE = "AGENTS.md"
FILES_LIMIT = 1000
FILES_LIMIT_BYTES = 20 << 20
"""All files together: as base64 they must fit into one request."""

_TARGETS = {"skills": ".agents/skills", "workspace": "workspace"}
"""Folder → where its files go in an environment."""
_LEFT_OUT = frozenset({".git", ".gemini", ".venv", "node_modules", "__pycache__", ".DS_Store"})
_QUOTED = re.compile(r"'([^']*)'")
_OF_BASE = re.compile(r"(?:base_)?environment((?:\.sources\[(\d+)\])?.*)")


class SandboxBlock(WireModel):
    """What the sandbox of an agent of the server and its calls may take."""

    runtime: str | None = None
    memory_bytes: Annotated[int, Field(ge=64 << 20)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    pids: Annotated[int, Field(ge=32)] | None = None
    open_files: Annotated[int, Field(ge=256)] | None = None
    disk_bytes: Annotated[int, Field(ge=64 << 20)] | None = None
    call_timeout_s: Annotated[float, Field(gt=0)] | None = None
    run_timeout_s: Annotated[float, Field(gt=0)] | None = None
    output_limit_bytes: Annotated[int, Field(ge=1024)] | None = None
    max_turns: Annotated[int, Field(gt=0)] | None = None


class Example(WireModel):
    """Something to ask the agent, and what its answer must hold."""

    prompt: Annotated[str, Field(min_length=1)]
    name: str | None = None
    expect: ListOf[str] = []
    """Texts that the final answer holds, in whatever case."""


def _as_example(value: Any) -> Any:
    return {"prompt": value} if isinstance(value, str) else value


class AgentFile(AgentParts):
    """`agent.yaml`."""

    id: AgentId
    base_agent: AgentName | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    model: str | None = None
    """Short for that of `agent_config`."""
    environment: EnvironmentField = None
    """Another name of `base_environment`."""
    sources: ListOf[Source] = []
    """Adds to those of the environment."""
    examples: ListOf[Annotated[Example, BeforeValidator(_as_example)]] = []
    metadata: dict[str, Any] = {}
    """The owner's own notes; they stay in the file."""
    sandbox: SandboxBlock | None = None
    """Of agents of the server only."""


@dataclass(frozen=True, slots=True)
class AgentFolder:
    """A folder that was read."""

    place: Path
    file: AgentFile
    guide: str
    """The text of `AGENTS.md`; empty if there is none."""
    files: Mapping[str, InlineSource]
    """Those of `skills/` and `workspace/`, by their path in the folder."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    marked: Marked

    @property
    def environment(self) -> EnvironmentSpec | None:
        """What new environments begin with, without the guide; None if the folder says nothing of it."""
        said = self.file.base_environment if self.file.base_environment is not None else self.file.environment
        more = [*self.file.sources, *self.files.values()]
        if not more:
            return said
        said = said if said is not None else EnvironmentSpec()
        return said.model_copy(update={"sources": [*said.sources, *more]})

    @property
    def parts(self) -> AgentParts:
        """As `agent.yaml` says, without the guide."""
        config = self.file.agent_config
        if self.file.model is not None:
            known = dict(config) if isinstance(config, AntigravityConfig) else {}
            config = AntigravityConfig(**{**known, "model": self.file.model})
        return AgentParts(
            system_instruction=self.file.system_instruction,
            tools=self.file.tools,
            agent_config=config,
            base_environment=self.environment,
        )

    def request(self) -> AgentCreate:
        """The create call that the folder stands for: the guide is a file of the environment, where runs find it.

        Raises:
            ConfigError: the folder cannot be deployed; names file, line and field.
        """
        if self.file.sandbox is not None:
            raise ConfigError(f"{self._line('sandbox')}: 'sandbox' is for agents of the server, in its own folder")
        parts = self.parts
        base = parts.base_environment
        if self.guide:
            base = base if base is not None else EnvironmentSpec()
            guide = InlineSource(target=f".agents/{GUIDE}", content=self.guide)
            base = base.model_copy(update={"sources": [*base.sources, guide]})
        if base is not None and base.environment_id is not None and base.sources:
            raise ConfigError(
                f"{self._line('environment')}: files and sources cannot be added to an environment that exists"
            )
        return AgentCreate(
            id=self.file.id,
            base_agent=self.file.base_agent,
            description=self.file.description,
            **{**dict(parts), "base_environment": base},
        )

    def located(self, error: CallerError) -> ConfigError:
        """What is said of the folded call, with the file and line that it is about."""
        for field in _fields_of(error.message):
            if (found := self._place_of(field)) is not None:
                return ConfigError(f"{found}: {error.message}")
        return ConfigError(f"{self.place / FILE}: {error.message}")

    def _place_of(self, field: str) -> str | None:
        base = _OF_BASE.fullmatch(field)
        if base is None:
            return self._line(field) if field in self.marked.lines else None
        own = self._count("base_environment.sources") + self._count("environment.sources")
        more = self._count("sources")
        names = [name + base[1] for name in ("base_environment", "environment")]
        if base[2] is not None and (number := int(base[2])) >= own:
            names = [f"sources[{number - own}]" + base[1].partition("]")[2]]
            if number >= own + more:
                inside = [*self.files, GUIDE]
                return str(self.place / inside[min(number - own - more, len(inside) - 1)])
        return next((self._line(name) for name in names if name in self.marked.lines), None)

    def _count(self, field: str) -> int:
        return next(number for number in itertools.count() if f"{field}[{number}]" not in self.marked.lines)

    def _line(self, field: str) -> str:
        line = self.marked.lines.get(field)
        return f"{self.place / FILE}:{line}" if line is not None else str(self.place / FILE)


def read_folder(place: Path) -> AgentFolder:
    """The agent of a folder. Blocks on the disk.

    Raises:
        ConfigError: a file is missing, unreadable, too large or wrong; names file, line and field.
    """
    file = place / FILE
    try:
        marked = read_yaml(file.read_text(encoding="utf-8"), str(file))
        guide = place / GUIDE
        text = guide.read_text(encoding="utf-8") if guide.is_file() else ""
        files = _read_files(place)
    except FileNotFoundError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: {FILE} and {GUIDE} must be UTF-8 text") from error
    folder = AgentFolder(place, AgentFile(id="unread"), text.strip(), files, _notes(place), marked)
    try:
        parsed = parse(AgentFile, _without_silence(marked.value))
    except InvalidRequest as error:
        raise folder.located(error) from error
    if parsed.environment is not None and parsed.base_environment is not None:
        raise ConfigError(f"{folder._line('environment')}: give either 'environment' or 'base_environment', not both")
    folder = AgentFolder(place, parsed, folder.guide, files, folder.notes, marked)
    if folder.environment is not None and folder.environment.environment_id is None:
        try:
            check_base_environment(folder.environment)
        except CallerError as error:
            raise folder.located(error) from error
    return folder


def _without_silence(value: Any) -> Any:
    """Without what the public command line writes and nobody reads."""
    if isinstance(value, dict) and value.get("subagents") in ([], None):
        return {name: item for name, item in value.items() if name != "subagents"}
    return value


def _fields_of(message: str) -> list[str]:
    """Paths that a message names, the most exact first: a name that is unknown at a place is below that."""
    quoted = _QUOTED.findall(message)
    below = [f"{at}.{name}" for at in quoted for name in quoted if at != name]
    renamed = [name.replace("system_instruction", "instructions") for name in quoted]
    return sorted({*quoted, *below, *renamed}, key=len, reverse=True)


def _read_files(place: Path) -> dict[str, InlineSource]:
    files: dict[str, InlineSource] = {}
    total_bytes = 0
    for folder, target in _TARGETS.items():
        for path in _walk(place / folder):
            inside = PurePosixPath(*path.relative_to(place / folder).parts)
            name = f"{folder}/{inside}"
            size_bytes = path.stat().st_size
            total_bytes += size_bytes
            if size_bytes > INLINE_LIMIT_BYTES:
                raise ConfigError(f"{path}: {size_bytes} bytes; a file may have {INLINE_LIMIT_BYTES}")
            if total_bytes > FILES_LIMIT_BYTES:
                raise ConfigError(f"{path}: the files have more than {FILES_LIMIT_BYTES} bytes together; use a source")
            if len(files) >= FILES_LIMIT:
                raise ConfigError(f"{place / folder}: more than {FILES_LIMIT} files; use a source")
            files[name] = _inline(f"{target}/{inside}", path)
    for skill in sorted({Path(name).parts[1] for name in files if name.startswith("skills/")}):
        if f"skills/{skill}/SKILL.md" not in files:
            raise ConfigError(f"{place / 'skills' / skill}: a skill is a folder with a file SKILL.md")
        file = f"skills/{skill}/SKILL.md"
        found = read_skill(file, files[file].data.decode("utf-8", "replace"))
        if isinstance(found, Unread):
            raise ConfigError(f"{place / file}: {found.reason}")
    return files


def _walk(root: Path) -> Iterator[Path]:
    """Regular files below, sorted; never anything that a link leads to."""
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConfigError(f"{root}: must be a folder, not a link or a file")
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in sorted([*names, *folders]):
            path = Path(folder, name)
            if path.is_symlink():
                raise ConfigError(f"{path}: links are not followed; put the file itself here")
            if name in folders or name in _LEFT_OUT:
                continue
            if not path.is_file():
                raise ConfigError(f"{path}: neither a file nor a folder")
            yield path


def _inline(target: str, path: Path) -> InlineSource:
    try:
        target.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{path}: its name is not UTF-8") from None
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text:
        return InlineSource(target=target, content=base64.b64encode(data).decode(), encoding="base64")
    return InlineSource(target=target, content=text)


def _notes(place: Path) -> tuple[str, ...]:
    if (place / ".env").exists():
        return (f"{place / '.env'} is left out: secrets do not go into sandboxes",)
    return ()
