"""What a call inside a sandbox came to: a result that the model reads, never an exception (design 2, rule 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.errors import SandboxGone

_PICTURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "image/gif": re.compile(rb"GIF8[79]a"),
}


class Verdict(StrEnum):
    """How a call ended."""

    EXITED = "exited"
    """By itself; `exit_code` says how."""
    DONE = "done"
    """A file operation succeeded; `result` says what it did."""
    REFUSED = "refused"
    """A file operation, or the start of a command, was not possible; `error` says why."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    OOM = "oom"
    """The kernel killed something of the sandbox for memory while it ran, and it failed."""
    PIDS = "pids"
    """A process could not be made because the sandbox is full of them, and it failed."""
    DISK_FULL = "disk_full"
    """It failed, and there is no room where it may write. For a file operation `error` says what could not be done."""
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than one call may write at all and was stopped."""
    KILLED = "killed"
    """By a signal from inside the sandbox."""


@dataclass(frozen=True, slots=True)
class CallError:
    """What the caller of a file operation can mend. `code` is `no_match`, `enoent`, …"""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A file system of the sandbox that has no room."""

    path: str
    size_bytes: int
    lacks_files: bool
    """It holds as many files as it can; bytes there may be."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A picture that a Python cell made."""

    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The end of one call. Output is bytes, as the processes wrote it: standard output and error in their true
    order.
    """

    verdict: Verdict
    exit_code: int | None
    signal: int | None
    head: bytes
    tail: bytes
    dropped_bytes: int
    """Between head and tail."""
    duration_ms: float
    attachments: tuple[Attachment, ...] = ()
    result: dict[str, Any] | None = None
    error: CallError | None = None
    full: FullDisk | None = None
    """Which disk, if it is known; only with `DISK_FULL`."""
    is_state_lost: bool = False
    """A Python cell took its interpreter with it: variables are gone, files are not."""

    @property
    def is_ok(self) -> bool:
        return self.verdict is Verdict.DONE or (self.verdict is Verdict.EXITED and self.exit_code == 0)


def read_outcome(message: dict[str, Any], head: bytes, rest: bytes) -> CallOutcome:
    """Builds an outcome from the guest's message, the output before it and the bytes after it (tail, attachments).

    Raises:
        SandboxGone: the message is not what a guest says; nothing from that link can be relied on.
    """
    try:
        tail_bytes = _count(message["tail_bytes"])
        sizes = [_count(each) for each in message["attachment_bytes"]]
        if tail_bytes + sum(sizes) != len(rest):
            raise ValueError("sizes do not add up")
        attachments, start = [], tail_bytes
        for kind, size in zip(message.get("attachment_types") or (), sizes, strict=True):
            attachments.append(Attachment(str(kind), rest[start : start + size]))
            start += size
        verdict = Verdict(message["verdict"])
        error: Any = message.get("error")
        return CallOutcome(
            verdict=verdict,
            exit_code=_count_or_none(message, "exit_code", is_needed=verdict is Verdict.EXITED),
            signal=_count_or_none(message, "signal", is_needed=verdict is Verdict.KILLED),
            head=head,
            tail=rest[:tail_bytes],
            dropped_bytes=_count(message["dropped_bytes"]),
            duration_ms=float(message.get("duration_ms") or 0.0),
            # The types come from the agent's own interpreter: what is no picture is none of ours.
            attachments=tuple(each for each in attachments if _is_picture(each)),
            result=dict(message["result"].items()) if verdict is Verdict.DONE else None,
            error=CallError(str(error["code"]), str(error["message"])) if error or verdict is Verdict.REFUSED else None,
            full=_full_disk(message.get("full")) if verdict is Verdict.DISK_FULL else None,
            is_state_lost=message.get("state") == "lost",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SandboxGone(f"the guest's answer cannot be read: {error}") from error


def _full_disk(value: Any) -> FullDisk | None:
    if value is None:
        return None
    return FullDisk(str(value["path"]), _count(value["size_bytes"]), lacks_files=value["lacks"] == "files")


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _count_or_none(message: dict[str, Any], name: str, *, is_needed: bool) -> int | None:
    value = message.get(name)
    return None if value is None and not is_needed else _count(value)


def _is_picture(attachment: Attachment) -> bool:
    begins = _PICTURES.get(attachment.media_type)
    return begins is not None and begins.match(attachment.content) is not None
