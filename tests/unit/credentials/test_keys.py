from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.credentials.keys import GivenKeys, KeyFile
from orchestrator.credentials.sealing import SealingKey
from orchestrator.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data" / "sealing_keys")


def test_a_file_is_made_once_for_its_owner_alone(file: KeyFile) -> None:
    file.ensure()
    content = file.path.read_text()
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    file.ensure()
    assert file.path.read_text() == content
    assert {each.name for each in file.path.parent.iterdir()} == {"sealing_keys", "sealing_keys.lock"}


def test_what_another_process_adds_is_seen_and_seals(file: KeyFile) -> None:
    file.ensure()
    first = file.ring()
    added = KeyFile(file.path).add()
    second = file.ring()
    assert second.newest == added
    assert second.ids == {first.newest.id, added.id}
    assert file.ring() is second


def test_keys_are_dropped_but_for_the_newest_and_those_in_use(file: KeyFile) -> None:
    keys = [file.add() for _ in range(4)]
    assert file.drop_others(frozenset([keys[1].id])) == 2
    assert file.ring().ids == {keys[1].id, keys[3].id}
    assert file.ring().newest == keys[3]
    assert file.drop_others(frozenset()) == 1
    assert file.drop_others(frozenset()) == 0
    assert file.ring().ids == {keys[3].id}


def test_of_keys_that_are_added_at_once_none_is_lost(file: KeyFile) -> None:
    added: list[SealingKey] = []
    threads = [threading.Thread(target=lambda: added.append(KeyFile(file.path).add())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.ring().ids == {key.id for key in added}
    assert len(added) == 8


def test_a_write_that_fails_leaves_the_file_as_it_was(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.ensure()
    content = file.path.read_text()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigError, match="cannot be changed: No space left"):
        file.add()
    assert file.path.read_text() == content
    assert {each.name for each in file.path.parent.iterdir()} == {"sealing_keys", "sealing_keys.lock"}


def test_files_that_cannot_be_used_are_refused_without_showing_them(file: KeyFile) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        file.ring()
    file.ensure()
    file.path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read .* chmod 600"):
        file.ring()
    file.path.chmod(0o600)
    for content in ("canary\n", "# nothing\n", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n"):
        file.path.write_text(content)
        with pytest.raises(ConfigError, match="is not a file of sealing keys") as caught:
            file.ring()
        assert "canary" not in caught.value.message


def test_keys_of_a_setting(file: KeyFile) -> None:
    keys = [SealingKey.new(), SealingKey.new()]
    ring = GivenKeys([key.text for key in keys]).ring()
    assert ring.newest == keys[1]
    assert ring.ids == {key.id for key in keys}
    for wrong in (["canary"], []):
        with pytest.raises(ConfigError, match="setting 'sealing_keys'") as caught:
            GivenKeys(wrong)
        assert "canary" not in caught.value.message
