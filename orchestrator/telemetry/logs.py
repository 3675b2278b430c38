"""Logging set-up: structlog rendering through the standard library, so that our lines and those of libraries have one
shape. Imports nothing of Corral.

Events are constant snake-case phrases (`sandbox_started`), everything else is a field. `bound(...)` adds fields to all
lines of the current task and its children. Secrets are removed twice: by the name of the field and by the look of
the text, since a library may log a URL with a key in it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import structlog

REDACTED = "***"

_SECRET_NAME = re.compile(
    r"(^|[-_.])(authorization|cookie|passphrase|passwd|password|secret|token|credential"
    r"|(?:api|private|secret|access|signing)[-_]?key)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""(?P<lead>[?&]key=|\b(?:client_secret|(?:access|refresh)_token)=|\bBearer\s+|\bBasic\s+)[^\s&"',]+"""
    r"""|(?P<own>crl_)[A-Za-z0-9_-]{43}""",
    re.IGNORECASE,
)
_MAX_DEPTH = 6
"""Deeper values are shown as they are: log fields are shallow by house rule, this only bounds the work."""

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:
    """Sends all logging to `stream` (standard error) in one format, warnings of libraries included. May be called
    again; the last call holds.

    `auto` is `console` where `stream` is a terminal and `json` elsewhere.
    """
    out = stream if stream is not None else sys.stderr
    as_json = format == "json" or (format == "auto" and not out.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    tail: list[structlog.types.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        # Text of tracebacks is made before redaction: an exception's message may hold what must not be logged.
        tail += [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    else:
        tail += [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer(colors=out.isatty())]

    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=tail))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(False)  # for one who has put the module's function back since
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; `name` is the caller's `__name__`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Adds `fields` (`request_id`, `interaction_id`, …) to every line of this context, also in tasks started inside."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def redact(logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: replaces secrets, by field name and by the look of the text."""
    return {key: _clean(key, value, 0) for key, value in fields.items()}


def _clean(name: str, value: Any, depth: int) -> Any:
    if value is not None and _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda match: (match["lead"] or match["own"]) + REDACTED, value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {key: _clean(str(key), item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_clean("", item, depth + 1) for item in value]
    return value
