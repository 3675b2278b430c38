"""What a call inside a sandbox came to: a result that the model reads, never an exception (design 2, rule 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.errors import SandboxGone


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
    KILLED = "killed"
    """By a signal from inside the sandbox."""


@dataclass(frozen=True, slots=True)
class CallError:
    """What the caller of a file operation can mend. `code` is `no_match`, `enoent`, …"""

    code: str
    message: str


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
        tail_bytes = int(message["tail_bytes"])
        sizes = [int(each) for each in message["attachment_bytes"]]
        kinds = [str(each) for each in message.get("attachment_types") or []]
        if tail_bytes + sum(sizes) != len(rest) or min([tail_bytes, *sizes]) < 0 or len(kinds) < len(sizes):
            raise ValueError("sizes do not add up")
        attachments, start = [], tail_bytes
        for kind, size in zip(kinds, sizes, strict=False):
            attachments.append(Attachment(kind, rest[start : start + size]))
            start += size
        error = message.get("error")
        return CallOutcome(
            verdict=Verdict(message["verdict"]),
            exit_code=_optional_int(message.get("exit_code")),
            signal=_optional_int(message.get("signal")),
            head=head,
            tail=rest[:tail_bytes],
            dropped_bytes=int(message["dropped_bytes"]),
            duration_ms=float(message.get("duration_ms") or 0.0),
            attachments=tuple(attachments),
            result=message.get("result"),
            error=CallError(str(error["code"]), str(error["message"])) if error else None,
            is_state_lost=message.get("state") == "lost",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SandboxGone(f"the guest's answer cannot be read: {error}") from error


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)
