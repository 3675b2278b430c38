"""What a run of the benchmarks was asked to do, and where it may write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    settings: Settings
    """Engine and image are taken from here; the data folder is not touched."""
    rounds: int
    """How often each family goes through its measurements, baseline and ours by turns."""
    is_quick: bool
    """Whether it is about the benchmarks themselves: then what takes long may take less."""
    output: Path
    """A folder on a real disk: where files for temporary use are memory, fsync costs nothing."""
