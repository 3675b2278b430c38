"""The digests that name an image: they change with their inputs and with nothing else."""

import dataclasses
import importlib
import io
from pathlib import Path

import pytest

from orchestrator.sandboxes import guest_bundle

inputs = importlib.import_module("image_build.inputs")
engine = importlib.import_module("image_build.engine")
problem = importlib.import_module("image_build.problem")

BEFORE = inputs.Inputs(
    name="base",
    tools={"Dockerfile": b"FROM x", "requirements.txt": b"a==1"},
    guest_recipe=b"FROM y",
    guest={"main.py": b"1"},
    guest_digest="0" * 16,
)


def test_a_change_of_the_guest_keeps_the_tools() -> None:
    for change in ({"guest": {"main.py": b"2"}}, {"guest_recipe": b"FROM z"}):
        after = dataclasses.replace(BEFORE, **change)
        assert after.tools_tag == BEFORE.tools_tag
        assert after.image_tag != BEFORE.image_tag


def test_a_change_of_the_tools_changes_both_names() -> None:
    after = dataclasses.replace(BEFORE, tools={"Dockerfile": b"FROM x", "requirements.txt": b"a==2"})
    assert after.tools_tag != BEFORE.tools_tag
    assert after.image_tag != BEFORE.image_tag


def test_the_digest_sees_names_and_borders_but_no_order() -> None:
    assert inputs.digest({"a": b"1", "b": b"2"}) == inputs.digest({"b": b"2", "a": b"1"})
    different = [{"a": b"12"}, {"a1": b"2"}, {"a": b"1", "2": b""}, {"b": b"12"}, {}]
    assert len({inputs.digest(parts) for parts in different}) == len(different)


def test_read_takes_every_file_of_the_folder_and_keeps_the_guest_apart(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM x")
    (folder / "guest.Dockerfile").write_text("FROM y")
    (folder / "notes").mkdir()
    found = inputs.read(folder)
    assert found.tools == {"Dockerfile": b"FROM x"}
    assert found.guest_recipe == b"FROM y"
    assert found.image_tag.startswith("corral/small:")
    assert found.guest == guest_bundle.files()


def test_the_guest_digest_follows_the_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_bundle, "GUEST_DIR", tmp_path)
    (tmp_path / "main.py").write_bytes(b"1")
    (tmp_path / "notes.md").write_bytes(b"ignored")
    before = guest_bundle.digest()
    assert len(before) == 16
    assert guest_bundle.files() == {"main.py": b"1"}
    (tmp_path / "notes.md").write_bytes(b"changed")
    assert guest_bundle.digest() == before
    (tmp_path / "main.py").rename(tmp_path / "other.py")
    assert guest_bundle.digest() != before


def test_equal_contexts_pack_to_equal_bytes(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"wheel")
    packed = []
    for context in (
        {"Dockerfile": b"FROM x", "wheels/a.whl": wheel},
        {"wheels/a.whl": b"wheel", "Dockerfile": b"FROM x"},
    ):
        target = io.BytesIO()
        engine.pack(context, target)
        packed.append(target.getvalue())
    assert packed[0] == packed[1]


@pytest.mark.parametrize(
    ("error", "log", "said"),
    [
        ("write /x: no space left on device", "", "disk is full"),
        ("returned a non-zero code: 100", "No space left on device", "disk is full"),
        ("returned a non-zero code: 100", "Temporary failure resolving 'mirror.example'", "--network host"),
        ("The command 'apt-get\n install' returned a non-zero code: 7", "E: broken", "exit code 7"),
        ("pull access\ndenied", "", "pull access denied"),
    ],
)
def test_engine_errors_become_one_line_with_a_remedy(error: str, log: str, said: str) -> None:
    found = problem.from_engine(error, log)
    assert said in str(found)
    assert "\n" not in str(found)
    assert found.remedy
