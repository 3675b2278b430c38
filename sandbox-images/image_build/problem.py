"""The one error of an image build."""

from __future__ import annotations

import re


class BuildProblem(Exception):
    """The build cannot go on. `what` is one sentence for people, `remedy` says what they can do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


DISK_FULL = BuildProblem(
    "The disk is full.",
    "Free about 4 GB (`docker system df` shows what images and containers take), then run this again.",
)


def from_engine(error: str, log: str = "") -> BuildProblem:
    """The problem behind an error text of the engine, and what the failed step printed. Knows disk and network."""
    if "no space left on device" in f"{error}{log}".lower():
        return DISK_FULL
    if any(sign in log for sign in ("Temporary failure resolving", "Could not resolve", "Failed to fetch")):
        return BuildProblem(
            "Debian's packages cannot be fetched from inside the build.",
            "Check the network of the engine's containers, or build with `--network host`.",
        )
    if failed := re.search(r"returned a non-zero code: (\d+)", error):
        return BuildProblem(f"A step of the build failed with exit code {failed[1]}.", "The lines above are its last.")
    return BuildProblem(f"The engine refused: {' '.join(error.split())}.", "See its log for more.")
