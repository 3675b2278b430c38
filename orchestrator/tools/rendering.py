"""From bytes and verdicts to what a model reads: decoding, truncation, the line that says how a command ended. Pure."""

from __future__ import annotations

import base64

from orchestrator.policy.redaction import redact
from orchestrator.sandboxes.outcome import CallOutcome, Verdict
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
    head, tail = decode(_whole_start(outcome.head)), decode(_whole_end(outcome.tail))
    return redact(f"{head}\n[… {outcome.dropped_bytes} bytes of output dropped …]\n{tail}")


def ending_of(outcome: CallOutcome, timeout_s: float) -> str:
    """One line on how a command ended, empty if it ended well."""
    lines = {
        Verdict.EXITED: f"exit code {outcome.exit_code}",
        Verdict.TIMEOUT: f"timed out after {timeout_s:g} s; everything it had started was killed",
        Verdict.CANCELLED: "cancelled; everything it had started was killed",
        Verdict.OOM: "out of memory: the sandbox's memory limit was reached and the command was killed",
        Verdict.PIDS: "too many processes: the sandbox's limit was reached",
        Verdict.KILLED: f"killed by signal {outcome.signal}",
        Verdict.REFUSED: outcome.error.message if outcome.error else "refused",
        Verdict.DONE: "",
    }
    said = [] if outcome.is_ok else [lines[outcome.verdict] or outcome.verdict.value]
    if outcome.is_state_lost:
        said.append("the Python interpreter was restarted: variables are gone, files are not")
    return f"[{'; '.join(said)}]" if said else ""


def with_ending(text: str, ending: str) -> str:
    """The output with its last line, on a line of its own."""
    if not ending:
        return text
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{ending}"


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
