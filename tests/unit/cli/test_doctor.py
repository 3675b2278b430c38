from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from orchestrator.cli.doctor import Check
from orchestrator.config import Settings
from orchestrator.sandboxes import disks
from orchestrator.sandboxes.driver import DriverInfo
from orchestrator.sources import repository
from tests.unit.cli.conftest import Corral


@pytest.fixture(autouse=True)
def free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CORRAL_PORT", str(probe.getsockname()[1]))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks are possible and git is there, whoever runs the tests."""
    monkeypatch.setattr(disks, "can_use_disks", lambda _, **__: "")
    monkeypatch.setattr(disks, "can_share_blocks", lambda _: True)
    monkeypatch.setattr(repository, "has_git", lambda: True)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the look at the engine finds; tests change it."""
    found = [Check("engine", "ok", "Docker 99")]

    async def look(_: Settings) -> list[Check]:
        return found

    monkeypatch.setattr(doctor, "_engine", look)
    return found


def test_all_is_well(corral: Corral, engine: list[Check]) -> None:
    outcome = corral("doctor", "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["ok"]) == (0, True)
    assert [check["name"] for check in report["checks"]] == [
        "settings",
        "engine",
        "data folder",
        "sealing",
        "storage",
        "models",
        "agents",
        "sources",
        "port",
    ]
    assert {check["verdict"] for check in report["checks"]} == {"ok"}


def test_what_is_broken_says_what_to_do_and_sets_the_exit_code(corral: Corral, engine: list[Check]) -> None:
    engine[:] = [Check("image", "broken", "x is not on the engine", "make images")]
    outcome = corral("doctor")
    assert outcome.code == 1
    assert "✗ image        x is not on the engine" in outcome.out
    assert "→ make images" in outcome.out


@pytest.mark.parametrize(
    ("wanted", "reason", "shares", "verdict", "told"),
    [
        ("auto", "", True, "ok", "a disk of 11 GB for each sandbox"),
        ("auto", "", False, "warning", "install xfsprogs"),
        ("auto", "only root can mount disks", True, "warning", "without a hard limit: only root"),
        ("disks", "only root can mount disks", True, "broken", "not possible: only root"),
        ("layers", "", True, "warning", "as set"),
    ],
)
def test_where_files_are_kept(
    corral: Corral,
    engine: list[Check],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    reason: str,
    shares: bool,
    verdict: str,
    told: str,
) -> None:
    monkeypatch.setenv("CORRAL_STORAGE", wanted)
    monkeypatch.setattr(disks, "can_use_disks", lambda _, **__: reason)
    monkeypatch.setattr(disks, "can_share_blocks", lambda _: shares)
    checks = json.loads(corral("doctor", "--json").out)["checks"]
    (check,) = (check for check in checks if check["name"] == "storage")
    assert check["verdict"] == verdict
    assert told in f"{check['found']} {check['advice']}"


def test_a_machine_without_git_is_told_what_fails(
    corral: Corral, engine: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "has_git", lambda: False)
    outcome = corral("doctor")
    assert outcome.code == 0
    assert "! sources      no git: sources of the type repository fail" in outcome.out
    assert "install git" in outcome.out


def test_sealing_keys_that_others_may_read_are_broken(corral: Corral, engine: list[Check], folder: Path) -> None:
    assert corral("keys", "rotate").code == 0
    assert "and 0 older" in corral("doctor").out
    (folder / "data/sealing_keys").chmod(0o644)
    outcome = corral("doctor")
    assert outcome.code == 1
    assert "others may read the sealing keys" in outcome.out


def test_a_warning_is_not_broken(corral: Corral, engine: list[Check]) -> None:
    engine[:] = [Check("runtime", "warning", "old", "update")]
    assert corral("doctor").code == 0


def test_no_engine_is_broken(corral: Corral, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("CORRAL_ENGINE_URL", f"unix://{folder}/none.sock")
    outcome = corral("doctor", "--json")
    (check,) = (check for check in json.loads(outcome.out)["checks"] if check["name"] == "engine")
    assert outcome.code == 1
    assert check["verdict"] == "broken"
    assert "CORRAL_ENGINE_URL" in check["advice"]


def test_wrong_settings_end_the_examination(corral: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_MAX_TURNS", "none")
    outcome = corral("doctor", "--json")
    (check,) = json.loads(outcome.out)["checks"]
    assert (outcome.code, check["name"]) == (1, "settings")
    assert "CORRAL_MAX_TURNS" in check["found"]


def test_a_taken_port_is_broken(corral: Corral, engine: list[Check], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_server", lambda _: False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("CORRAL_PORT", str(other.getsockname()[1]))
        assert "is taken by another program" in corral("doctor").out
        monkeypatch.setattr(doctor, "_is_server", lambda _: True)
        assert "a server runs at" in corral("doctor").out


def test_a_data_folder_that_cannot_be_made_is_broken(
    corral: Corral, engine: list[Check], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("CORRAL_DATA_DIR", str(folder / "file/data"))
    outcome = corral("doctor")
    assert outcome.code == 1
    assert "✗ data folder" in outcome.out


def test_a_model_without_provider_is_broken(
    corral: Corral, engine: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_MODEL", "gemini:x")
    outcome = corral("doctor")
    assert outcome.code == 1
    assert "Model 'gemini" in outcome.out


@pytest.mark.parametrize(
    ("version", "verdicts"),
    [("1.3.3", ["ok"]), ("1.1.12", ["warning"]), ("1.1.11", ["broken", "warning"]), ("", ["warning"])],
)
def test_the_runtime(version: str, verdicts: list[str]) -> None:
    info = DriverInfo("Docker", details={"runc": version, "runc.revision": ""})
    assert [check.verdict for check in doctor.escapes(info)] == verdicts


@pytest.mark.parametrize(
    ("url", "has_tls", "verdict"),
    [
        ("unix:///run/docker.sock", False, "ok"),
        ("ssh://host", False, "ok"),
        ("tcp://host:2376", True, "ok"),
        ("tcp://127.0.0.1:2375", False, "warning"),
    ],
)
def test_who_else_commands_the_engine(url: str, has_tls: bool, verdict: str) -> None:
    assert doctor.reach("Docker 99", url, has_tls=has_tls).verdict == verdict


@pytest.mark.parametrize(
    ("names", "found", "says_how"),
    [
        (("io.containerd.runc.v2", "runc", "runsc"), "runc, runsc", False),
        (("io.containerd.runc.v2", "runc"), "runc", True),
        ((), "only the engine's own", True),
    ],
)
def test_runtimes_are_listed_and_how_to_get_gvisor(names: tuple[str, ...], found: str, says_how: bool) -> None:
    check = doctor.runtimes(DriverInfo("Docker 99", names))
    assert (check.verdict, check.found) == ("ok", found)
    assert ("install runsc" in check.advice) is says_how
