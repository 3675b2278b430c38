"""Sources on their way into a sandbox: what is packed, and that all of them arrive or none counts."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.errors import SourceFailed
from orchestrator.sandboxes.sources import inline_archive
from orchestrator.sources import Delivery, Link
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.sources import InlineSource
from tests.fakes.lives import World, says, spec_of

pytestmark = pytest.mark.anyio

FETCHED = {"type": "remote", "sources": [{"type": "local", "target": "workspace/in", "source": "data"}]}


def source(target: str, content: str = "content", **fields: str) -> InlineSource:
    return InlineSource.model_validate({"type": "inline", "target": target, "content": content, **fields})


def members(archive: bytes) -> dict[str, tuple[bytes, int]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = (file.read(), member.mode)
        return found


def test_members_are_relative_and_readable() -> None:
    archive = inline_archive([source("workspace/a.txt"), source("/workspace//b/./c", "AAEC", encoding="base64")])
    assert members(archive) == {"workspace/a.txt": (b"content", 0o644), "workspace/b/c": (b"\0\1\2", 0o644)}


def test_long_and_odd_names_survive() -> None:
    names = [f"workspace/{'x' * 200}/{'y' * 200}", "workspace/ä 漢\n.txt", "workspace/-rf"]
    assert list(members(inline_archive([source(name) for name in names]))) == names


def test_nothing_is_an_empty_archive() -> None:
    assert members(inline_archive([])) == {}


class Prepared:
    """Delivers `files`, and links; `faults` are raised first, one each time."""

    def __init__(
        self, folder: Path, files: dict[str, bytes], *links: Link, faults: tuple[SourceFailed, ...] = ()
    ) -> None:
        self.asked = 0
        self._tar = folder / "prepared.tar"
        self._links = links
        self._faults = list(faults)
        with tarfile.open(self._tar, "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    @asynccontextmanager
    async def fetched(self, _spec: EnvironmentSpec, _project_id: str) -> AsyncGenerator[Delivery, None]:
        self.asked += 1
        if self._faults:
            raise self._faults.pop(0)
        yield Delivery(self._tar, self._links)


async def test_what_is_fetched_is_there_from_the_first_call_on(world: World, tmp_path: Path) -> None:
    content = b"x" * 3_000_000
    port = Prepared(tmp_path, {"workspace/in/big": content, "workspace/in/a b": b"1"})
    environments = await world.server(sources=port)
    row = await environments.create(world.project, spec_of(FETCHED))
    assert port.asked == 0, "nothing is fetched before its first use"
    sandbox = await environments.sandbox(row.id)
    assert await says(sandbox, "stat -c %s in/big; cat in/a*") == f"{len(content)}\n1"
    await sandbox.link.aclose()
    await environments.sandbox(row.id)
    assert port.asked == 1


async def test_links_are_made_after_the_files_and_made_again(world: World, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "link"
    place.parent.mkdir()
    place.symlink_to("of-an-earlier-start")
    links = (Link(str(place), "no such\nfile"), Link(str(tmp_path / "new" / "link"), "../x"))
    environments = await world.server(sources=Prepared(tmp_path, {"workspace/in/a": b"1"}, *links))
    row = await environments.create(world.project, spec_of(FETCHED))
    await environments.sandbox(row.id)
    assert {str(place.readlink()), str((tmp_path / "new" / "link").readlink())} == {"no such\nfile", "../x"}


async def test_a_link_that_cannot_be_made_is_a_failed_start(world: World, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    port = Prepared(tmp_path, {"workspace/in/a": b"1"}, Link(str(tmp_path / "taken"), "x"))
    environments = await world.server(sources=port)
    row = await environments.create(world.project, spec_of(FETCHED))
    with pytest.raises(SourceFailed, match="taken: File exists"):
        await environments.sandbox(row.id)
    assert await world.owned() == set()
    assert await world.status(row.id) == "pending"


async def test_sources_that_cannot_be_had_leave_no_sandbox_and_may_be_had_later(world: World, tmp_path: Path) -> None:
    fault = SourceFailed("source 0 (local) could not be fetched: away")
    port = Prepared(tmp_path, {"workspace/in/a": b"late"}, faults=(fault,))
    environments = await world.server(sources=port)
    row = await environments.create(world.project, spec_of(FETCHED))
    with pytest.raises(SourceFailed, match="away"):
        await environments.sandbox(row.id)
    assert await world.owned() == set()
    assert await world.status(row.id) == "pending"
    assert await says(await environments.sandbox(row.id), "cat in/a") == "late"


async def test_a_template_fetches_once_for_all_of_it(world: World, tmp_path: Path) -> None:
    fault = SourceFailed("source 0 (local) could not be fetched: away")
    port = Prepared(tmp_path, {"workspace/in/a": b"base"}, faults=(fault,))
    environments = await world.server(sources=port)
    rows = [await environments.create(world.project, spec_of(), base=spec_of(FETCHED)) for _ in range(2)]
    with pytest.raises(SourceFailed, match="away"):
        await environments.sandbox(rows[0].id)
    assert await world.owned() == set()
    for sandbox in await asyncio.gather(*(environments.sandbox(row.id) for row in rows)):
        assert await says(sandbox, "cat in/a") == "base"
    assert port.asked == 2


async def test_without_a_fetcher_a_source_is_refused_and_not_dropped(world: World) -> None:
    environments = await world.server()
    row = await environments.create(world.project, spec_of(FETCHED))
    with pytest.raises(SourceFailed, match="fetches no sources"):
        await environments.sandbox(row.id)
    assert await world.owned() == set()
