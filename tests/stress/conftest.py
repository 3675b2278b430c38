"""A server as a process of its own, begun with as few open files allowed as is usual; its client may have many."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fakes.local_driver import LocalDriver
from tests.fakes.local_server import ServerProcess

_USUAL_FILES = 1024
_FILES = 8192


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stress)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))


class UsualServer(ServerProcess):
    """Starts as from a shell or systemd: 1,024 open files, and the right to more."""

    def launch(self) -> None:
        with _allowed_files(_USUAL_FILES):
            super().launch()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def open_connections(self) -> int:
        """Its own among them: of the event loop, of links."""
        links = []
        for file in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(file.readlink()))
        return sum(link.startswith("socket:") for link in links)


@pytest.fixture(autouse=True)
def may_open_many_files() -> Iterator[None]:
    with _allowed_files(_FILES):
        yield


@pytest.fixture
def sandboxes(short_path: Path) -> Iterator[Path]:
    """The folder of sandboxes; nothing runs in it afterwards."""
    yield short_path
    LocalDriver(short_path).kill_all()


@pytest.fixture
def process(tmp_path: Path, sandboxes: Path) -> Iterator[UsualServer]:
    """A server that runs, without a pool; it must not log a traceback."""
    process = UsualServer(tmp_path / "data", sandboxes, POOL__SIZE="0")
    process.start()
    yield process
    if process.is_running:
        process.end(signal.SIGTERM)
    assert "Traceback" not in process.log, process.log


@contextmanager
def _allowed_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.fail(f"{hard} open files are allowed here; these tests need {count}: ulimit -Hn", pytrace=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
