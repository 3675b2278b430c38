"""A short run of the crash harness: servers with sandboxes that are plain processes die two dozen times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_servers_die_and_nothing_is_lost_done_twice_or_left_over(tmp_path: Path) -> None:
    chosen = ["--driver", "local", "--kills", "24", "--seed", "7", "--allow-unreached", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *chosen], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
