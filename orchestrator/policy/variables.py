"""How large the environment variables of an environment may be. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.errors import InvalidRequest
from orchestrator.wire.environments import EnvVar

VARIABLE_LIMIT_BYTES = 64 << 10
"""One; the kernel takes at most 128 KiB, name included."""
VARIABLES_LIMIT_BYTES = 128 << 10
"""All of an environment, as JSON: so they go to the sandbox with every call, in one frame (attack case R11)."""


def check_variables(variables: Mapping[str, EnvVar], at: str = "environment.env") -> None:
    """Raises `InvalidRequest`, naming the field, if a variable or all together are too large."""
    total_bytes = 0
    for name, variable in variables.items():
        value = variable.inside
        total_bytes += len(json.dumps({name: value}))
        if len(value.encode("utf-8", "replace")) > VARIABLE_LIMIT_BYTES:
            raise InvalidRequest(f"Invalid value at '{at}.{name}': more than {VARIABLE_LIMIT_BYTES} bytes.")
    if total_bytes > VARIABLES_LIMIT_BYTES:
        raise InvalidRequest(f"Invalid value at '{at}': more than {VARIABLES_LIMIT_BYTES} bytes together, as JSON.")
