"""What is true of every run in an environment and a model cannot see. Pure.

No date: a prompt that is the same tomorrow is one that providers have cached, and `date` in the sandbox knows it.
"""

from __future__ import annotations

from collections.abc import Mapping

_SHIPPED_IMAGE = "corral/base"
_INSTALLED = (
    "Python 3.11 with numpy, pandas, matplotlib, requests, beautifulsoup4, pyyaml, pillow; Node.js 18 with npm; "
    "git, curl, jq, ripgrep, make"
)


def facts_of(image: str) -> Mapping[str, str]:
    """Name to value, always in the same order. Of an operator's own image nobody knows what is in it."""
    is_shipped = image.partition(":")[0] == _SHIPPED_IMAGE
    facts = {
        "working directory": "/workspace",
        "network": "none",
        "user": "agent, without root",
        "operating system": "Debian 12 (bookworm)" if is_shipped else "Linux",
    }
    return {**facts, "installed": _INSTALLED} if is_shipped else facts
