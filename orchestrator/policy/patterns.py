"""Regular expressions that callers bring along, matched in linear time whatever they are. Pure.

The syntax is RE2's but for its rarest parts; neither looks around nor refers back. The library is imported at first
use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from orchestrator.errors import InvalidRequest

_PATTERN_CHARS = 1000
_COMPILED_BYTES = 1 << 20
_SHOWN_CHARS = 100


class Pattern:
    """One expression. Immutable."""

    def __init__(self, text: str) -> None:
        """Raises `InvalidRequest` without a path if it is none, or one that is too large."""
        if len(text) > _PATTERN_CHARS:
            raise InvalidRequest(f"the pattern has more than {_PATTERN_CHARS} characters")
        self._validator = _compiled(text)

    def is_in(self, text: str) -> bool:
        """Whether it matches somewhere in `text`."""
        return bool(self._validator.is_valid(text))


@lru_cache(maxsize=256)
def _compiled(text: str) -> Any:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            {"type": "string", "pattern": text},
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_COMPILED_BYTES, dfa_size_limit=_COMPILED_BYTES),
        )
    except (ValueError, jsonschema_rs.ValidationError) as error:
        raise InvalidRequest(f"{text[:_SHOWN_CHARS]!r} is no pattern of RE2, or a too large one") from error
