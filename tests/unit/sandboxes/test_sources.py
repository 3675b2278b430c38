from __future__ import annotations

import io
import tarfile

from orchestrator.sandboxes.sources import inline_archive
from orchestrator.wire.environments import InlineSource


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
