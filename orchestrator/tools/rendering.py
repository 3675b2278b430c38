"""From bytes and verdicts to what a model reads: decoding, truncation, the line that says how a command ended. Pure."""

from __future__ import annotations

import base64
from dataclasses import replace

from orchestrator.policy.limits import Limits
from orchestrator.policy.redaction import redact, without_cut_keys
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
from orchestrator.tools.port import ToolResult
from orchestrator.wire.content import Content, ImageContent, TextContent

_IMAGES_LIMIT_BYTES = 8 << 20
"""Of one call: they stay in the log and go to every reader."""


def decode(data: bytes) -> str:
    """Text of what a process wrote: UTF-8, everything else replaced; NUL, which databases and clients stumble over,
    too.
    """
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def output_of(outcome: CallOutcome) -> str:
    """Head and tail of the output, with a line between that says how much was dropped; secrets taken out."""
    if not outcome.dropped_bytes:
        return redact(decode(outcome.head + outcome.tail))
    head, tail = _whole_start(outcome.head), _whole_end(outcome.tail)
    dropped_bytes = outcome.dropped_bytes + len(outcome.head) - len(head) + len(outcome.tail) - len(tail)
    before, after = redact(decode(head)), redact(decode(tail))
    shown_before, shown_after = without_cut_keys(before, after)
    dropped_bytes += (
        len(before) - len(shown_before) + len(after) - len(shown_after)
    )  # of a key all characters are bytes
    return f"{shown_before}\n[… {dropped_bytes} bytes of output dropped …]\n{shown_after}"


def ending_of(outcome: CallOutcome, limits: Limits) -> str:
    """One line on how a call under `limits` ended, empty if it ended well."""
    lines = {
        Verdict.EXITED: f"exit code {outcome.exit_code}",
        Verdict.TIMEOUT: f"timed out after {limits.call_timeout_s:g} s; everything it had started was killed",
        Verdict.CANCELLED: "cancelled; everything it had started was killed",
        Verdict.OOM: "out of memory: the sandbox's memory limit was reached and what took most of it was killed",
        Verdict.PIDS: "too many processes: the sandbox's limit was reached",
        Verdict.DISK_FULL: _disk_full(outcome),
        Verdict.OUTPUT_LIMIT: (
            f"too much output: more than {size_of(limits.output_total_limit_bytes)}, so it was stopped; "
            "write to a file instead"
        ),
        Verdict.KILLED: f"killed by signal {outcome.signal}",
        Verdict.REFUSED: outcome.error.message if outcome.error else "refused",
        Verdict.DONE: "",
    }
    said = [] if outcome.is_ok else [lines[outcome.verdict] or outcome.verdict.value]
    if outcome.is_state_lost:
        said.append("the Python interpreter was restarted: variables are gone, files are not")
    return f"[{'; '.join(said)}]" if said else ""


def _disk_full(outcome: CallOutcome) -> str:
    full = outcome.full
    if full is not None and full.lacks_files:
        return f"disk full: {full.path} has no room for another file; delete files and try again"
    if full is not None:
        size = size_of(full.size_bytes)
        return f"disk full: {full.path} has no room (limit {size}); delete files and try again"
    return f"disk full: {outcome.error.message if outcome.error else 'no room'}; delete files and try again"


def size_of(count_bytes: int) -> str:
    """A number of bytes as people read it: `10 GiB`, `1.5 MiB`, `100 bytes`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count_bytes >= unit:
            return f"{round(count_bytes / unit, 1):g} {name}"
    return f"{count_bytes} bytes"


def with_ending(text: str, ending: str) -> str:
    """The output with its last line, on a line of its own."""
    if not ending:
        return text
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{ending}"


def with_last_line(result: ToolResult, line: str) -> ToolResult:
    """A result with one more line for the model to read."""
    if isinstance(result.content, str):
        return replace(result, content=with_ending(result.content, line))
    return replace(result, content=[*result.content, TextContent(text=f"\n{line}")])


def with_images(text: str, outcome: CallOutcome) -> str | list[Content]:
    """Plain text, or content blocks if there are images."""
    images: list[Content] = []
    room_bytes = _IMAGES_LIMIT_BYTES
    for each in outcome.attachments:
        room_bytes -= len(each.content)
        if room_bytes >= 0:
            images.append(ImageContent(mime_type=each.media_type, data=base64.b64encode(each.content).decode()))
    if len(images) < len(outcome.attachments):
        text = with_ending(text, f"[{len(outcome.attachments) - len(images)} images dropped: together too large]")
    if not images:
        return text
    blocks: list[Content] = [TextContent(text=text)] if text else []
    return [*blocks, *images]


def _whole_start(data: bytes) -> bytes:
    """Without a character that the cut went through, at the end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 if byte < 0x80 else 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4
            return data[:-back] if needed > back else data
    return data


def _whole_end(data: bytes) -> bytes:
    """Without a character that the cut went through, at the start."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]
