"""Disks on this machine: loop devices, ext4 and XFS. Needs root where the engine runs, as disks themselves do."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import Settings
from orchestrator.errors import SandboxGone, SandboxStartFailed
from orchestrator.sandboxes import disks as module
from orchestrator.sandboxes import guest_bundle, systems
from orchestrator.sandboxes.disks import Disks, can_use_disks
from orchestrator.sandboxes.docker.storage import DiskStorage, Image

reason = can_use_disks(Settings.load().engine_url)
pytestmark = pytest.mark.skipif(bool(reason), reason=f"no disks here: {reason}")

SIZE_BYTES = 64 << 20


def fill(root: Path) -> None:
    (root / "workspace").mkdir()
    (root / "workspace" / "readme").write_text("from the image")


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Nothing below it is mounted afterwards, and no test leaves anything mounted by itself."""
    yield tmp_path / "disks"
    left = mounts_below(tmp_path)
    for at in reversed(left):
        subprocess.run(["umount", "--lazy", at], check=True)
    assert left == []


@pytest.fixture
def disks(folder: Path) -> Iterator[Disks]:
    disks = Disks(folder, pool_bytes=2 << 30)
    disks.open()
    yield disks
    for sandbox_id in disks.sandbox_ids():
        disks.remove(sandbox_id)
    disks.close()


def made(disks: Disks, sandbox_id: str = "a") -> Path:
    """The workspace of a new disk."""
    disks.make(sandbox_id, disks.template("image", SIZE_BYTES, fill))
    return disks.mount(sandbox_id) / "workspace"


def test_a_disk_begins_as_its_template(disks: Disks) -> None:
    assert disks.is_sharing
    assert (made(disks) / "readme").read_text() == "from the image"
    assert disks.sandbox_ids() == {"a"}


def test_a_template_is_made_once(disks: Disks) -> None:
    calls: list[Path] = []

    def counted(root: Path) -> None:
        calls.append(root)
        fill(root)

    threads = [threading.Thread(target=disks.template, args=("image", SIZE_BYTES, counted)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    disks.template("image", 2 * SIZE_BYTES, counted)
    assert len(calls) == 2, "another size is another template"


def test_a_template_that_cannot_be_filled_leaves_nothing(disks: Disks, folder: Path) -> None:
    def broken(root: Path) -> None:
        raise SandboxStartFailed("the image cannot be read", stage="disk")

    with pytest.raises(SandboxStartFailed):
        disks.template("image", SIZE_BYTES, broken)
    assert [each for each in mounts_below(folder) if "/mounts/" in each] == []
    assert made(disks).exists()


def test_a_template_is_not_disturbed_by_another_open(disks: Disks) -> None:
    def slow(root: Path) -> None:
        disks.open()
        fill(root)

    assert disks.template("image", SIZE_BYTES, slow).exists()
    assert (made(disks) / "readme").read_text() == "from the image"


def test_a_full_disk_is_full_for_itself_alone(disks: Disks) -> None:
    full, other = made(disks, "a"), made(disks, "b")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (full / "big").write_bytes(bytes(2 * SIZE_BYTES))
    (other / "fine").write_bytes(bytes(SIZE_BYTES // 4))


def test_so_is_one_that_is_full_of_empty_files(disks: Disks) -> None:
    full, other = made(disks, "a"), made(disks, "b")
    room = os.statvfs(full).f_favail
    for number in range(room):
        (full / str(number)).touch()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (full / "one more").touch()
    (other / "fine").touch()


def test_what_is_deleted_inside_is_given_back(disks: Disks, folder: Path) -> None:
    def taken_bytes() -> int:
        os.sync()
        return sum(each.stat().st_blocks * 512 for each in (folder / "files" / "sandboxes").iterdir())

    workspace = made(disks)
    before = taken_bytes()
    (workspace / "big").write_bytes(os.urandom(SIZE_BYTES // 2))
    assert taken_bytes() > before + SIZE_BYTES // 4
    (workspace / "big").unlink()
    deadline = time.monotonic() + 20
    while taken_bytes() >= before + SIZE_BYTES // 8:  # the kernel discards when it commits
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_snapshot_of_a_disk_in_use_is_whole_and_independent(disks: Disks) -> None:
    workspace = made(disks)
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        with (workspace / "log").open("a") as log:
            number = 0
            while not stop.is_set():
                log.write(f"{number}\n")
                log.flush()
                begun.set()
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(10)
    try:
        disks.snapshot("a", "kept")
    finally:
        stop.set()
        writer.join()
    disks.make("b", disks.snapshot_file("kept"))
    lines = (disks.mount("b") / "workspace" / "log").read_text().splitlines()
    assert lines == [str(number) for number in range(len(lines))]
    assert len(lines) < len((workspace / "log").read_text().splitlines())
    (disks.mount("b") / "workspace" / "readme").write_text("changed")
    assert (workspace / "readme").read_text() == "from the image"


def test_a_snapshot_may_be_repeated_and_dropped(disks: Disks) -> None:
    workspace = made(disks)
    (workspace / "file").write_text("first")
    disks.snapshot("a", "kept")
    (workspace / "file").write_text("second")
    disks.snapshot("a", "kept")
    assert disks.snapshots() == {"kept"}
    disks.make("b", disks.snapshot_file("kept"))
    disks.drop_snapshot("kept")
    disks.drop_snapshot("kept")
    assert disks.snapshots() == set()
    assert (disks.mount("b") / "workspace" / "file").read_text() == "first"


def test_a_snapshot_of_a_stopped_disk(disks: Disks) -> None:
    (made(disks) / "file").write_text("kept")
    disks.unmount("a")
    disks.snapshot("a", "kept")
    disks.make("b", disks.snapshot_file("kept"))
    assert (disks.mount("b") / "workspace" / "file").read_text() == "kept"


def test_what_is_not_there(disks: Disks) -> None:
    for act in (lambda: disks.mount("none"), lambda: disks.snapshot("none", "kept")):
        with pytest.raises(SandboxGone):
            act()
    with pytest.raises(SandboxStartFailed):
        disks.make("a", disks.snapshot_file("none"))
    assert disks.sandbox_ids() == set()
    disks.remove("none")
    disks.unmount("none")


def test_making_and_mounting_may_be_repeated(disks: Disks) -> None:
    (made(disks) / "file").write_text("kept")
    assert (made(disks) / "file").read_text() == "kept"
    disks.unmount("a")
    assert (disks.mount("a") / "workspace" / "file").read_text() == "kept"


def test_no_devices_and_no_setuid(disks: Disks, folder: Path) -> None:
    made(disks)
    (line,) = [each for each in Path("/proc/self/mounts").read_text().splitlines() if f"{folder}/mounts/a " in each]
    assert {"nodev", "nosuid"} <= set(line.split()[3].split(","))


def test_the_next_server_finds_everything_and_thaws_what_a_crash_froze(folder: Path, disks: Disks) -> None:
    workspace = made(disks)
    (workspace / "file").write_text("kept")
    root = os.open(folder / "mounts" / "a", os.O_RDONLY)
    fcntl.ioctl(root, module._FIFREEZE, 0)
    try:
        (folder / "files" / "snapshots" / ".half.img").touch()
        following = Disks(folder)
        following.open()
        (workspace / "file").write_text("not frozen")
        assert following.sandbox_ids() == {"a"}
        assert following.snapshots() == set()
        assert not (folder / "files" / "snapshots" / ".half.img").exists()
    finally:
        os.close(root)


def test_opening_again_leaves_alone_what_is_being_made(disks: Disks) -> None:
    def opened_meanwhile(root: Path) -> None:
        fill(root)
        disks.open()
        assert (root / "workspace" / "readme").exists()

    disks.make("a", disks.template("image", SIZE_BYTES, opened_meanwhile))
    assert (disks.mount("a") / "workspace" / "readme").read_text() == "from the image"


def test_the_pool_stays_while_a_disk_is_in_use(folder: Path, disks: Disks) -> None:
    (made(disks) / "file").write_text("kept")
    disks.close()
    assert (folder / "mounts" / "a" / "workspace" / "file").read_text() == "kept"
    disks.unmount("a")
    disks.close()
    assert mounts_below(folder) == []
    disks.open()
    assert (disks.mount("a") / "workspace" / "file").read_text() == "kept"


def test_without_shared_blocks_copies_are_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_shares_blocks", lambda folder: False)
    monkeypatch.setattr(Disks, "_make_pool", lambda self: False)
    plain = Disks(folder)
    plain.open()
    try:
        assert not plain.is_sharing
        (made(plain) / "file").write_text("kept")
        plain.snapshot("a", "kept")
        plain.make("b", plain.snapshot_file("kept"))
        assert (plain.mount("b") / "workspace" / "file").read_text() == "kept"
        assert plain.snapshot_file("kept").stat().st_blocks * 512 < SIZE_BYTES // 2, "holes stay holes"
    finally:
        for sandbox_id in plain.sandbox_ids():
            plain.remove(sandbox_id)
        plain.close()


@pytest.mark.parametrize("url", ["ssh://host", "tcp://host:2375"])
def test_an_engine_elsewhere_has_no_disks_of_ours(url: str) -> None:
    assert "another machine" in can_use_disks(url)


def test_a_full_pool_stays_and_takes_no_further_disk(disks: Disks, folder: Path) -> None:
    (made(disks) / "file").write_text("kept")
    filler = folder / "files" / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(os.statvfs(folder / "files").f_bavail * 4096 * 0.97))
    with pytest.raises(SandboxStartFailed, match="left"):
        made(disks, "b")
    assert (made(disks, "a") / "file").read_text() == "kept", "one that is there is taken up"
    disks.unmount("a")
    disks.close()
    following = Disks(folder)
    following.open()
    assert following.is_sharing
    assert (following.mount("a") / "workspace" / "file").read_text() == "kept"
    filler.unlink()
    deadline = time.monotonic() + 20
    while os.statvfs(folder / "files").f_bavail < 1 << 16:  # XFS frees behind the caller's back
        assert time.monotonic() < deadline
        time.sleep(0.05)
    following.make("b", following.template("image", SIZE_BYTES, fill))


def test_the_next_server_lets_go_of_what_nothing_runs_on(disks: Disks, folder: Path) -> None:
    runs, ended = made(disks, "runs"), made(disks, "ended")
    disks.template("gone", SIZE_BYTES, fill)
    (folder / "guests" / "old").mkdir(parents=True)
    (folder / "guests" / "bound").mkdir()
    storage = DiskStorage(Disks(folder), lambda image, path: None, lambda name: Image(name, carries_guest=True))
    assert storage.open()
    assert not storage.open(), "only the first look may tidy up: later ones come while sandboxes are made"
    bound = {str(folder / "guests" / "bound")}
    storage.tidy(running={"runs"}, bound=bound, images={"sha256:image"})
    assert runs.exists()
    assert not ended.exists()
    assert disks.sandbox_ids() == {"runs", "ended"}
    assert {each.name for each in (folder / "files" / "templates").iterdir()} == {f"image-{SIZE_BYTES}.img"}
    assert {each.name for each in (folder / "guests").iterdir()} == {"bound", guest_bundle.digest()}


# changes of an image


IMAGE = "0123456789ab"
CHANGED = Image(f"sha256:{IMAGE}cdef", carries_guest=True)


@pytest.fixture
def layers(tmp_path: Path) -> tuple[str, ...]:
    """An image of two layers; the upper one takes a file of the lower away."""
    upper, lower = tmp_path / "layers" / "upper", tmp_path / "layers" / "lower"
    for folder in (upper / "usr", lower / "usr", lower / "etc", lower / "proc", lower / "workspace"):
        folder.mkdir(parents=True)
    for name in ("taken", "below"):
        (lower / "usr" / name).write_text(name)
    os.mknod(upper / "usr" / "taken", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    (lower / "bin").symlink_to("/etc")
    return str(upper), str(lower)


def test_changes_of_an_image_are_on_the_disk_and_in_its_copies(disks: Disks, layers: tuple[str, ...]) -> None:
    disks.make("a", disks.template("image", SIZE_BYTES, fill), image=IMAGE)
    at = disks.mount("a")
    systems.mount(at, layers, is_writable=True)
    usr = systems.folders(at)["/usr"]
    assert [each.name for each in usr.iterdir()] == ["below"]
    (usr / "made").write_text("by setup")
    (usr / "below").unlink()
    disks.snapshot("a", "kept")
    assert disks.changed_image("", "kept") == IMAGE
    disks.make("b", disks.snapshot_file("kept"))
    assert disks.changed_image("b") == IMAGE
    copy = disks.mount("b")
    systems.mount(copy, layers, is_writable=False)
    usr = systems.folders(copy)["/usr"]
    assert [each.name for each in usr.iterdir()] == ["made"]
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (usr / "more").touch()
    disks.unmount("b")
    assert not copy.exists()


def test_links_of_an_image_are_no_way_to_the_host(disks: Disks, layers: tuple[str, ...]) -> None:
    disks.make("a", disks.template("image", SIZE_BYTES, fill), image=IMAGE)
    at = disks.mount("a")
    systems.mount(at, layers, is_writable=True)
    assert set(systems.folders(at)) == {"/usr", "/etc", "/workspace"}


def test_what_setup_writes_is_bounded_by_the_disk(disks: Disks, layers: tuple[str, ...]) -> None:
    disks.make("a", disks.template("image", SIZE_BYTES, fill), image=IMAGE)
    at = disks.mount("a")
    systems.mount(at, layers, is_writable=True)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (systems.folders(at)["/etc"] / "big").write_bytes(bytes(2 * SIZE_BYTES))


def test_a_disk_without_changes_says_so(disks: Disks) -> None:
    made(disks)
    assert disks.changed_image("a") == disks.changed_image("", "there-is-none") == ""


def test_without_the_layers_of_its_image_nothing_is_set_up(disks: Disks, folder: Path) -> None:
    """As on an engine that keeps images in another way."""
    storage = DiskStorage(disks, lambda image, path: None, lambda name: CHANGED)
    disks.make("a", disks.template("image", SIZE_BYTES, fill), image=IMAGE)
    with pytest.raises(SandboxStartFailed, match="'setup' needs an engine") as raised:
        storage.mount("a", is_setup=True)
    assert raised.value.stage == "setup"


def test_the_next_server_lets_go_of_systems_too(disks: Disks, folder: Path, layers: tuple[str, ...]) -> None:
    for name in ("runs", "ended"):
        disks.make(name, disks.template("image", SIZE_BYTES, fill), image=IMAGE)
        systems.mount(disks.mount(name), layers, is_writable=name == "runs")
    storage = DiskStorage(Disks(folder), lambda image, path: None, lambda name: CHANGED)
    assert storage.open()
    storage.tidy(running={"runs"}, bound=set(), images=set())
    assert [at for at in mounts_below(folder) if "ended" in at] == []
    assert len([at for at in mounts_below(folder) if "runs" in at]) == 2
