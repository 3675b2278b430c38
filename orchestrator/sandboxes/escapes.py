"""Known ways out of containers that depend on the version of runc, and whether a version has them. Pure.

Distributions mend old versions without changing the upstream number, so a number alone says little about their
packages: what a package's revision is known to hold is listed here, anything else is `UNKNOWN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:[-~]rc\.?(\d+))?")
_FINAL = 1 << 30
"""Stands for "no release candidate": 1.4.0 is later than each of its candidates."""

Version = tuple[int, int, int, int]


class Exposure(StrEnum):
    FIXED = "fixed"
    OPEN = "open"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Escape:
    """One known way out."""

    cves: tuple[str, ...]
    fixed_in: tuple[tuple[Version, Version], ...]
    """Ranges of fixed upstream versions, the end excluded."""
    advice: str
    is_grave: bool
    """Whether it works against containers as Corral starts them."""


_END: Version = (_FINAL, 0, 0, 0)

ESCAPES = (
    Escape(
        cves=("CVE-2024-21626",),
        fixed_in=(((1, 1, 12, 0), _END),),
        advice="update runc to 1.1.12 or newer: a process in a sandbox may reach the host's files",
        is_grave=True,
    ),
    Escape(
        cves=("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
        fixed_in=(((1, 2, 8, 0), (1, 3, 0, 0)), ((1, 3, 3, 0), (1, 4, 0, 0)), ((1, 4, 0, 3), _END)),
        advice=(
            "update runc to 1.2.8, 1.3.3 or newer; the published attacks need containers with mounts of the attacker's "
            "choice or images of the attacker's making, and Corral starts neither"
        ),
        is_grave=False,
    ),
)

_PACKAGES: Mapping[str, tuple[str, ...]] = {"1.1.5+ds1-1+deb12u1": ("CVE-2024-21626",)}
"""Revisions of distribution packages whose changelog is known, and all that they mend beyond their number."""


def exposure(escape: Escape, version: str, revision: str = "") -> Exposure:
    """Whether a runc has a hole: `version` as the engine reports it, `revision` the package's, a commit, or empty."""
    number = _parse(version)
    if number is None:
        return Exposure.UNKNOWN
    if any(start <= number < end for start, end in escape.fixed_in):
        return Exposure.FIXED
    if revision in _PACKAGES:
        return Exposure.FIXED if set(escape.cves) <= set(_PACKAGES[revision]) else Exposure.OPEN
    return Exposure.UNKNOWN if _is_packaged(version) or _is_packaged(revision) else Exposure.OPEN


def _parse(version: str) -> Version | None:
    found = _VERSION.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch), int(candidate) if candidate else _FINAL


def _is_packaged(text: str) -> bool:
    return any(mark in text for mark in ("+", "~", "ubuntu", "deb", ".el", ".fc"))
