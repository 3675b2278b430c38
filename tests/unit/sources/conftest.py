from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.sources.delivery import Link, Tree
from orchestrator.sources.fetch import Fetch, FetchLimits


class Basket:
    """A tree whose contents can be looked at."""

    def __init__(self, folder: Path, limits: FetchLimits, **ways: bool) -> None:
        self.folder = folder / "fetch"
        self.folder.mkdir()
        self.fetch = Fetch(self.folder, limits)
        self.links: list[Link] = []
        self._path = folder / "sources.tar"
        self._tar = tarfile.open(self._path, "w")  # noqa: SIM115 - closed by `close`
        self.tree = Tree(self._tar, self.links, "/workspace/in", self.fetch, **ways)

    def files(self) -> dict[str, bytes | None]:
        """Names and contents; None for folders."""
        self._tar.close()
        found: dict[str, bytes | None] = {}
        with tarfile.open(self._path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                found[member.name] = content.read() if content is not None else None
        return found

    def close(self) -> None:
        self._tar.close()


@pytest.fixture
def limits() -> FetchLimits:
    return FetchLimits(size_bytes=1 << 20, max_members=50, timeout_s=30)


@pytest.fixture
def basket(tmp_path: Path, limits: FetchLimits) -> Iterator[Basket]:
    made = Basket(tmp_path, limits)
    with made.fetch:
        yield made
    made.close()
