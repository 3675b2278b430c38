"""What projects may define as agents: which ids, how many, of what. Pure."""

from __future__ import annotations

from orchestrator.errors import InvalidRequest, NotSupported
from orchestrator.policy.sources import check_base
from orchestrator.policy.variables import check_variables
from orchestrator.wire.environments import EnvironmentSpec

AGENTS_LIMIT = 1000
"""Of one project."""
VERSIONS_LIMIT = 1000
"""Of one agent: each holds its whole definition."""
DEPTH_LIMIT = 8
"""Agents that are built on each other."""

RESERVED_PREFIXES = (
    "antigravity-",
    "veo-",
    "omni-",
    "lyria-",
    "imagen-",
    "gemma-",
    "gemini-",
    "google-",
    "youtube-",
    "android-",
    "chrome-",
    "pixel-",
    "waze-",
    "fitbit-",
    "nest-",
    "kaggle-",
)
"""Reference, 6.1: names of public agents and models, which the operator may give to agents of the server."""


def check_new_id(agent_id: str, at: str = "id") -> None:
    """Raises `InvalidRequest` if the beginning of the id is reserved, in whatever case."""
    for prefix in RESERVED_PREFIXES:
        if agent_id.lower().startswith(prefix):
            raise InvalidRequest(f"Invalid value at '{at}': ids that begin with '{prefix}' are reserved.")


def check_base_environment(spec: EnvironmentSpec, at: str = "base_environment") -> None:
    """Whether new environments can begin with it. Raises `InvalidRequest` or `NotSupported`, naming the field."""
    if spec.environment_id is not None:
        for field in ("sources", "setup"):
            if getattr(spec, field):
                raise NotSupported(f"Not supported: '{at}.{field}' together with 'environment_id'.")
    check_variables(spec.env, f"{at}.env")
    # Variables and a network that is switched off are each new environment's own, and no part of the template.
    rules = None if spec.network == "disabled" else spec.network
    check_base(spec.model_copy(update={"network": rules, "env": {}, "environment_id": None}), at)
