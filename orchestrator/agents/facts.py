"""What is true of every run in an environment and a model cannot see. Pure.

No date: a prompt that is the same tomorrow is one that providers have cached, and `date` in the sandbox knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.wire.environments import SandboxReach

_SHIPPED_IMAGE = "corral/base"
_INSTALLED = (
    "Python 3.11 with numpy, pandas, matplotlib, requests, beautifulsoup4, pyyaml, pillow; Node.js 18 with npm; "
    "git, curl, jq, ripgrep, make"
)
_DOMAINS_SHOWN = 30


def facts_of(image: str, reach: SandboxReach = "none", domains: Sequence[str] = ()) -> Mapping[str, str]:
    """Name to value, always in the same order. Of an operator's own image nobody knows what is in it. `domains` are
    those of an allowlist.
    """
    is_shipped = image.partition(":")[0] == _SHIPPED_IMAGE
    facts = {
        "working directory": "/workspace",
        "network": _network(reach, domains),
        "user": "agent, without root",
        "operating system": "Debian 12 (bookworm)" if is_shipped else "Linux",
    }
    return {**facts, "installed": _INSTALLED} if is_shipped else facts


def _network(reach: SandboxReach, domains: Sequence[str]) -> str:
    if reach == "none":
        return "none"
    more = f" and {len(domains) - _DOMAINS_SHOWN} more" if len(domains) > _DOMAINS_SHOWN else ""
    whom = "everybody" if reach == "open" else f"only {', '.join(domains[:_DOMAINS_SHOWN])}{more}"
    return f"{whom}, through the HTTP proxy that the environment variables name"
