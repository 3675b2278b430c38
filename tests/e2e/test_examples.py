"""The examples of the documentation run as they stand, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.server import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"


def _run(server: ServerProcess, *command: str) -> str:
    result = subprocess.run(
        command,
        env={**server.variables, "CORRAL_URL": server.url, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_quickstart_with_curl(server: ServerProcess) -> None:
    output = _run(server, str(QUICKSTART / "curl.sh"))
    assert "event: interaction.completed" in output
    assert "\\n12" in output or "12\\n" in output, "the second call no longer knows the variable of the first"
    assert "4 sales.csv" in output
    assert "as it is stored: completed" in output


def test_quickstart_with_the_sdk(server: ServerProcess) -> None:
    output = _run(server, str(ROOT / ".venv-clients" / "bin" / "python"), str(QUICKSTART / "sdk.py"))
    assert output.startswith("completed ")
    assert "in all: 12" in output


def test_quickstart_with_the_command_line(server: ServerProcess) -> None:
    output = _run(server, str(QUICKSTART / "cli.sh"))
    assert "the longest word: " in output
    environment = output.split()[-1]
    assert all(row["id"] != environment for row in json.loads(server.cli("ps", "--json").stdout)["environments"])


def test_the_demo(server: ServerProcess) -> None:
    variables = {**os.environ, "CORRAL_IMAGE": server.variables["CORRAL_IMAGE"]}
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env={**variables, "CORRAL_ENGINE_URL": server.variables["CORRAL_ENGINE_URL"]},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert "statements agree with the data" in result.stdout
