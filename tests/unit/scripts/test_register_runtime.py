from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "register_runtime.py"
Register = Callable[[Path, str, str, list[str]], None]


@pytest.fixture
def register() -> Register:
    found: Register = runpy.run_path(str(_SCRIPT))["register"]
    return found


def test_a_file_is_made_where_there_is_none(register: Register, tmp_path: Path) -> None:
    file = tmp_path / "docker" / "daemon.json"
    register(file, "runsc", "/usr/bin/runsc", ["--network=none"])
    assert json.loads(file.read_text()) == {
        "runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}
    }


def test_what_the_operator_wrote_stays(register: Register, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"log-driver": "none", "runtimes": {"kata": {"path": "/opt/kata"}}}')
    file.chmod(0o600)
    register(file, "runsc", "/usr/bin/runsc", [])
    settings = json.loads(file.read_text())
    assert settings["log-driver"] == "none"
    assert set(settings["runtimes"]) == {"kata", "runsc"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_runtime_of_that_name_stays_as_it_is(register: Register, tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    before = '{"runtimes": {"runsc": {"path": "/elsewhere"}}}'
    file.write_text(before)
    register(file, "runsc", "/usr/bin/runsc", [])
    assert file.read_text() == before


@pytest.mark.parametrize("content", ["[]", '{"runtimes": []}', "not JSON", ""])
def test_what_cannot_be_read_is_left_alone(register: Register, tmp_path: Path, content: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"."):
        register(file, "runsc", "/usr/bin/runsc", [])
    assert file.read_text() == content
