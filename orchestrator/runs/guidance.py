"""Reading what an environment tells its agents: once for a run, in one round trip, before its model is first asked.

The paths are those of the reference, 6.3. Of `/.agents` and the same in the working directory the first counts more:
it is where agents and requests put what is theirs, the other may have come with somebody's data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from orchestrator import ids
from orchestrator.agents.guidance import Guidance, Guide, HooksFile, Skill, Unread, plain
from orchestrator.agents.skills import FRONT_MATTER_LIMIT_BYTES, read_skill
from orchestrator.errors import InvalidRequest, SandboxGone
from orchestrator.sandboxes.handle import Sandbox
from orchestrator.sandboxes.outcome import CallOutcome
from orchestrator.tools.hooks import HOOKS_FILE_LIMIT_BYTES, read_hooks

log = structlog.get_logger(__name__)

_FOLDERS = ("/.agents", "/workspace/.agents")
_GUIDES = (*(f"{folder}/AGENTS.md" for folder in _FOLDERS), "/workspace/AGENTS.md")
_HOOKS = tuple(f"{folder}/hooks.json" for folder in _FOLDERS)
_SKILLS = tuple(f"{folder}/skills" for folder in _FOLDERS)
PLACES = (*_FOLDERS, "/workspace/AGENTS.md")
"""Where an environment may tell something: files, and folders with all that is below them."""

_LINKS_WITHIN = ("/.agents", "/workspace", "/home/agent")
_GUIDE_LIMIT_BYTES = 64 * 1024
_GUIDES_LIMIT_BYTES = 128 * 1024
_SKILL_LIMIT_BYTES = FRONT_MATTER_LIMIT_BYTES + 1024
"""The front matter with its fences, and a beginning of what is below."""
_SKILLS_LIMIT_BYTES = 256 * 1024
_SKILLS_LIMIT = 100
_FILE_LIMIT = len(_HOOKS) + len(_GUIDES) + 2 * _SKILLS_LIMIT
_PATH_CHARS = 256
_REASON_CHARS = 200
_ANSWER_LIMIT_BYTES = 16 << 20
"""More than the limits above can come to as JSON."""
_TIMEOUT_S = 10.0
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0
_PLACE = "/.agents and /workspace"


async def read_guidance(sandbox: Callable[[], Awaitable[Sandbox]], patience_s: float) -> Guidance:
    """What the files say, and what of them cannot be used: the operator's log is told, too.

    A link that is cut is no end of it: it is read again for up to `patience_s`.

    Raises:
        SandboxError: there is no sandbox, as for a tool call.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, SandboxGone) and error.retryable),
        stop=stop_after_delay(patience_s),
        wait=wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        reraise=True,
    )
    outcome: CallOutcome = await retrying(_read, sandbox)
    # Hostile front matter may take a second.
    guidance = await asyncio.to_thread(guidance_of, outcome)
    for each in guidance.unread:
        log.warning("guidance_not_read", path=each.path, reason=each.reason)
    return guidance


async def _read(sandbox: Callable[[], Awaitable[Sandbox]]) -> CallOutcome:
    inside = await sandbox()
    # Another id each time: it changes nothing, and nobody looks for the outcome of an earlier one.
    call_id = f"guidance-{ids.new_sandbox_id()[:12]}"
    wanted = [{"path": path, "limit_bytes": HOOKS_FILE_LIMIT_BYTES} for path in _HOOKS]
    wanted += [{"path": path, "limit_bytes": _GUIDE_LIMIT_BYTES} for path in _GUIDES]
    wanted += [{"path": f"{folder}/*/SKILL.md", "limit_bytes": _SKILL_LIMIT_BYTES} for folder in _SKILLS]
    arguments = {"wanted": wanted, "within": _LINKS_WITHIN, "file_limit": _FILE_LIMIT}
    try:
        outcome = await inside.file(
            call_id, "excerpts", arguments, output_limit_bytes=_ANSWER_LIMIT_BYTES, timeout_s=_TIMEOUT_S
        )
    except SandboxGone as cut:
        raise SandboxGone(cut.message, retryable=True) from cut
    inside.acknowledge(call_id)
    return outcome


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """The beginning of a file, as far as it may count."""

    path: str
    text: str
    left_out_bytes: int


def guidance_of(outcome: CallOutcome) -> Guidance:
    """What the sandbox's answer means. Whatever it is, the limits hold."""
    if outcome.result is None or outcome.dropped_bytes:
        reason = outcome.error.message if outcome.error else outcome.verdict.value
        unusable = _unread(_PLACE, f"not read: {reason}")
        return Guidance(unread=(unusable,), hooks=(HooksFile(_PLACE, "", unusable.reason),))
    guides: dict[str, Guide] = {}
    skills: dict[str, Skill] = {}
    unread: list[Unread] = []
    hooks: dict[str, HooksFile] = {}
    guides_bytes = skills_bytes = 0
    try:
        for each in _excerpts(outcome.head + outcome.tail):
            if isinstance(each, Unread):
                unread.append(each)
                if each.path in _HOOKS or each.path in _FOLDERS:
                    hooks.setdefault(each.path, HooksFile(each.path, "", each.reason))
            elif each.path in _HOOKS:
                hooks.setdefault(each.path, _hooks_file(each, unread))
            elif each.path in _GUIDES:
                guide = _guide(each, min(_GUIDE_LIMIT_BYTES, _GUIDES_LIMIT_BYTES - guides_bytes))
                guides_bytes += len(guide.text.encode())
                if guide.text.strip() or guide.left_out_bytes:
                    guides.setdefault(each.path, guide)
            elif _is_skill(each.path):
                skills_bytes += len(each.text.encode("utf-8", "replace"))
                skill = _skill(each, skills, skills_bytes)
                if isinstance(skill, Skill):
                    skills[skill.name] = skill
                else:
                    unread.append(skill)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        unread.append(Unread(_PLACE, "the sandbox's answer cannot be read"))
        hooks[_PLACE] = HooksFile(_PLACE, "", unread[-1].reason)
    if outcome.result.get("is_complete") is not True:
        unread.append(Unread(_PLACE, f"there are more than {_FILE_LIMIT} files; the rest was not read"))
    return Guidance(tuple(guides.values()), tuple(skills.values()), tuple(unread), tuple(hooks.values()))


def _excerpts(answer: bytes) -> Iterator[_Excerpt | Unread]:
    for line in answer.split(b"\n")[:_FILE_LIMIT]:
        if line:
            entry: Any = json.loads(line)
            if "problem" in entry:
                yield _unread(str(entry["path"]), str(entry["problem"]))
            else:
                text = str(entry["text"])
                left_out_bytes = max(0, int(entry["size_bytes"]) - len(text.encode("utf-8", "replace")))
                yield _Excerpt(str(entry["path"]), text, left_out_bytes)


def _hooks_file(found: _Excerpt, unread: list[Unread]) -> HooksFile:
    """The file, or what is wrong with it, which is also in `unread`."""
    text = plain(found.text)
    try:
        if found.left_out_bytes or len(text.encode()) > HOOKS_FILE_LIMIT_BYTES:
            raise InvalidRequest(f"it has more than {HOOKS_FILE_LIMIT_BYTES >> 10} KiB")
        read_hooks(text)
    except InvalidRequest as error:
        unread.append(_unread(found.path, error.message))
        return HooksFile(found.path, "", unread[-1].reason)
    return HooksFile(found.path, text)


def _guide(found: _Excerpt, limit_bytes: int) -> Guide:
    content = plain(found.text).encode()
    left_out_bytes = found.left_out_bytes + max(0, len(content) - limit_bytes)
    return Guide(found.path, content[:limit_bytes].decode("utf-8", "ignore"), left_out_bytes)


def _is_skill(path: str) -> bool:
    place = PurePosixPath(path)
    return place.name == "SKILL.md" and str(place.parent.parent) in _SKILLS


def _skill(found: _Excerpt, known: dict[str, Skill], all_bytes: int) -> Skill | Unread:
    if len(known) == _SKILLS_LIMIT or all_bytes > _SKILLS_LIMIT_BYTES:
        return _unread(found.path, f"left out: there may be {_SKILLS_LIMIT} skills, {_SKILLS_LIMIT_BYTES} bytes in all")
    skill = read_skill(found.path, found.text)
    if isinstance(skill, Unread):
        return _unread(skill.path, skill.reason)
    if skill.name in known:
        return _unread(found.path, f"left out: {known[skill.name].path} has the same name")
    return skill


def _unread(path: str, reason: str) -> Unread:
    """In one line that can be shown to anybody."""
    shown = "".join(each if each.isprintable() else "\ufffd" for each in path[:_PATH_CHARS])
    return Unread(plain(shown), " ".join(plain(reason).split())[:_REASON_CHARS])
