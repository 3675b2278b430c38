"""What is true of every run in an environment and a model cannot see. Pure.

No date: a prompt that is the same tomorrow is one that providers have cached, and `date` in the sandbox knows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.wire.environments import SandboxReach

_SHIPPED_IMAGE = "corral/base"
_INSTALLED = (
    "Python 3.11 with numpy, pandas, matplotlib, requests, beautifulsoup4, pyyaml, pillow; Node.js 18 with npm; "
    "git, curl, jq, ripgrep, make"
)
_DOMAINS_SHOWN = 30


def facts_of(
    image: str,
    reach: SandboxReach = "none",
    domains: Sequence[str] = (),
    granted: Sequence[str] = (),
    placeholders: Sequence[str] = (),
) -> Mapping[str, str]:
    """Name to value, always in the same order. Of an operator's own image nobody knows what is in it. `domains` are
    those of an allowlist, `granted` those of them whose requests get a credential, `placeholders` variables that hold
    what is swapped for one.
    """
    is_shipped = image.partition(":")[0] == _SHIPPED_IMAGE
    facts = {
        "working directory": "/workspace",
        "network": _network(reach, domains),
        "user": "agent, without root",
        "operating system": "Debian 12 (bookworm)" if is_shipped else "Linux",
    }
    if secrets := [*_granted(granted), *_placeholders(placeholders)]:
        facts["secrets"] = "; ".join(secrets)
    return {**facts, "installed": _INSTALLED} if is_shipped else facts


def _granted(domains: Sequence[str]) -> Iterator[str]:
    if domains:
        yield f"requests to {_listed(domains)} are authorized on their way out, so send none of your own"


def _placeholders(variables: Sequence[str]) -> Iterator[str]:
    if variables:
        yield f"placeholders stand for them in {_listed(variables)}: send those as they are to whom they are meant for"


def _network(reach: SandboxReach, domains: Sequence[str]) -> str:
    if reach == "none":
        return "none"
    whom = "everybody" if reach == "open" else f"only {_listed(domains)}"
    return f"{whom}, through the HTTP proxy that the environment variables name"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _DOMAINS_SHOWN} more" if len(names) > _DOMAINS_SHOWN else ""
    return f"{', '.join(names[:_DOMAINS_SHOWN])}{more}"
