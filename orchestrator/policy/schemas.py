"""JSON schemas that callers bring along: checked when they come, held against what a model answers. Pure.

The library is imported at first use. Nothing outside the schema is ever fetched, patterns are matched in linear time,
and what would take too many steps is not begun, so that a schema can hold up nobody.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from orchestrator.errors import InvalidRequest
from orchestrator.policy.effort import Effort

_SHOWN_CHARS = 300
_SCHEMA_CHARS = 256 << 10
"""Reading one of that size takes a fifth of a second."""
_STEPS = 100_000
"""A tenth of a second; real schemas take some hundreds."""
_STEPS_PER_CHAR = 10


class AnswerSchema:
    """What a final answer must be: JSON, and if there is a schema, fitting it. Immutable."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        """Raises `InvalidRequest` without a path if it is no schema, or refers to something outside itself."""
        self.schema = schema
        text = json.dumps(schema)
        if len(text) > _SCHEMA_CHARS:
            raise InvalidRequest(f"the schema has more than {_SCHEMA_CHARS >> 10} KiB")
        self._effort = None if schema is None else Effort(schema)
        self._validator = None if schema is None else _compiled(text)

    def read(self, text: str) -> tuple[str, str]:
        """The JSON text in an answer, and what is wrong with it; empty if nothing is.

        A fence around it is taken off: models put one there.
        """
        body = _without_fence(text.strip())
        try:
            value = json.loads(body, parse_constant=_refuse_constant)
        except ValueError as error:
            return body, f"it is not JSON: {error}"
        except RecursionError:
            return body, "it is nested too deeply"
        if self._validator is None or self._effort is None:
            return body, ""
        if not self._effort.fits(value, _STEPS + _STEPS_PER_CHAR * len(body)):
            return body, "it takes too many steps to hold it against the schema"
        import jsonschema_rs

        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as fault:
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
            return body, f"at '${path}': {str(fault.message)[:_SHOWN_CHARS]}"
        except ValueError as error:
            return body, f"it cannot be held against the schema: {str(error)[:_SHOWN_CHARS]}"
        return body, ""


@lru_cache(maxsize=128)
def _compiled(schema: str) -> Any:
    import jsonschema_rs

    try:
        # No retriever: what is not in the schema itself is not there.
        return jsonschema_rs.validator_for(
            json.loads(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        told = getattr(error, "message", "") or str(error).splitlines()[0]
        at = "".join(f".{part}" for part in getattr(error, "instance_path", ()))
        raise InvalidRequest(
            f"not a usable JSON schema{f' (at {at[1:]})' if at else ''}: {told[:_SHOWN_CHARS]}"
        ) from error


def _refuse_constant(name: str) -> Any:
    """Python's parser knows more numbers than JSON has; other parsers do not."""
    raise ValueError(f"{name} is no JSON value")


def _without_fence(text: str) -> str:
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    first, _, rest = text.partition("\n")
    return rest[:-3].strip() if first[3:].strip().lower() in ("", "json") else text
