from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.server import Marks

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path
from orchestrator import moments
from tests.crash.server import Marks
Marks(Path(sys.argv[1])).arm("call.sent", int(sys.argv[2]))
for _ in range(3):
    moments.passed("run.claimed")
    moments.passed("call.sent")
"""


@pytest.mark.parametrize(("passing", "code", "times"), [(2, -signal.SIGKILL, 2), (3, -signal.SIGKILL, 3), (4, 0, 3)])
def test_a_process_ends_itself_where_it_is_told(tmp_path: Path, passing: int, code: int, times: int):
    file = tmp_path / "marks"
    marks = Marks(file)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(file), str(passing)], cwd=ROOT, check=False)
    assert done.returncode == code
    assert marks.passed["call.sent"] == marks.passed["run.claimed"] == times
    assert marks.take_death() == ("call.sent" if code else "")
    assert marks.take_death() == ""
    marks.close()
