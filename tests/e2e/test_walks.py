"""The walks of the documentation do what they say when somebody types them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.server import free_port
from orchestrator.config import Settings
from tests.e2e.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]


def blocks_of(page: Path) -> str:
    """The shell blocks of a page, as one program."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_killed_server(engine: Settings, tmp_path: Path) -> None:
    variables = {**ServerProcess(engine, tmp_path).variables, "CORRAL_PORT": str(free_port()), "TMPDIR": str(tmp_path)}
    program = "set -eu\n" + blocks_of(ROOT / "docs" / "walks" / "killed-server.md")
    done = subprocess.run(
        ["bash", "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = re.findall(r'"type":"code_execution_result","result":"([^"]*)"', done.stdout)
    assert result == "".join(f"line {number}\\n" for number in range(1, 11))
    assert "the same bytes" in done.stdout
    assert done.stdout.count("▶ bash") == 1, "the call was begun again"
