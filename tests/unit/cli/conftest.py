from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import client
from orchestrator.cli.main import main
from tests.fakes.wire_server import FakeServer


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Corral = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and data folder; a terminal of known width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path


@pytest.fixture
def corral(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Corral:
    """Runs the command against a fake server: `corral("ps", server=FakeServer(...))`."""

    def run(*arguments: str, server: FakeServer | None = None) -> Outcome:
        monkeypatch.setattr(client, "transport", (server or FakeServer()).transport)
        monkeypatch.setattr(sys, "argv", ["corral", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        written = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), written.out, written.err)

    return run
