"""Archives from outside: cases F3 and F4 of the attacks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SourceFailed
from orchestrator.sources import archives
from orchestrator.sources.archives import unpack
from orchestrator.sources.delivery import Link
from orchestrator.sources.fetch import FetchLimits
from tests.unit.sources.conftest import Basket

Member = tuple[str, bytes] | tarfile.TarInfo


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return target.getvalue()


def special(name: str, kind: bytes, link: str = "", **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def unpacked(basket: Basket, content: bytes) -> dict[str, bytes | None]:
    path = basket.folder / "download"
    path.write_bytes(content)
    unpack(path, basket.tree, basket.fetch)
    return {name.removeprefix("workspace/in/"): data for name, data in basket.files().items()}


def refused(basket: Basket, content: bytes, told: str) -> None:
    with pytest.raises(SourceFailed, match=told):
        unpacked(basket, content)


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tar_in_all_its_ways(basket: Basket, packed: Callable[[bytes], bytes]) -> None:
    content = tar(
        special("./", tarfile.DIRTYPE),
        special("./d", tarfile.DIRTYPE),
        ("./d/" + "long" * 40, b"content"),
        ("d/ä", b""),
        special("d/link", tarfile.SYMTYPE, "ä"),
        special("same", tarfile.LNKTYPE, "d/ä"),
    )
    assert unpacked(basket, packed(content)) == {"d": None, "d/" + "long" * 40: b"content", "d/ä": b"", "same": b""}
    assert basket.links == [Link("/workspace/in/d/link", "ä")]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_in_all_its_formats(basket: Basket, format: int) -> None:
    name = "a" * 90 + "/" + "b" * 90
    assert unpacked(basket, tar((name, b"x" * 1000), ("z", b"y"), format=format)) == {name: b"x" * 1000, "z": b"y"}


def test_zip_with_folders_modes_and_links(basket: Basket) -> None:
    content = zipped(
        ("d/", b""), ("d/a", b"content"), (entry("run", 0o100755), b"#!"), (entry("link", 0o120777), b"d/a")
    )
    assert unpacked(basket, content) == {"d": None, "d/a": b"content", "run": b"#!"}
    assert basket.links == [Link("/workspace/in/link", "d/a")]


BAD_TARS: dict[str, tuple[bytes, str]] = {
    "up": (tar(("../out", b"x")), "not a name below"),
    "up inside": (tar(("a/../../out", b"x")), "not a name below"),
    "absolute": (tar(("/etc/passwd", b"x")), "not a name below"),
    "link out": (tar(special("link", tarfile.SYMTYPE, "../..")), "leads out"),
    "absolute link": (tar(special("link", tarfile.SYMTYPE, "/etc/passwd")), "leads out"),
    "through a link": (tar(special("link", tarfile.SYMTYPE, "d"), ("link/x", b"x")), "file or a link"),
    "hard link out": (tar(special("link", tarfile.LNKTYPE, "/etc/passwd")), "hard link"),
    "hard link to a later one": (tar(special("link", tarfile.LNKTYPE, "a"), ("a", b"x")), "hard link"),
    "device": (tar(special("dev", tarfile.BLKTYPE, devmajor=8)), "neither a file"),
    "character device": (tar(special("dev", tarfile.CHRTYPE, devmajor=1)), "neither a file"),
    "pipe": (tar(special("pipe", tarfile.FIFOTYPE)), "neither a file"),
    "twice": (tar(("a", b"1"), ("a", b"2")), "twice"),
    "case": (tar(("a", b"1"), ("A", b"2")), "twice, or differs"),
    "form": (tar(("\u00e9", b"1"), ("e\u0301", b"2")), "twice, or differs"),
    "newline": (tar(("a\nb", b"1")), "control characters"),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_f3_tar_members_that_may_not_be(basket: Basket, name: str) -> None:
    content, told = BAD_TARS[name]
    refused(basket, gzip.compress(content), told)


@pytest.mark.parametrize(
    ("name", "told"),
    [("../out", "not a name"), ("/etc/passwd", "not a name"), ("a/../../x", "not a name"), ("a\nb", "control")],
)
def test_f3_zip_members_that_may_not_be(basket: Basket, name: str, told: str) -> None:
    refused(basket, zipped((name, b"x")), told)


def test_f3_zip_links_and_devices(basket: Basket) -> None:
    refused(basket, zipped((entry("link", 0o120777), b"/etc/passwd")), "leads out")
    refused(basket, zipped((entry("dev", 0o060644), b"")), "neither a file")


def test_f3_zip_names_twice(basket: Basket) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped(("a", b"1"), ("a", b"2"))
    refused(basket, content, "twice")


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124 : 124 + len(size)], block[156:157] = b"0000644\0", size, kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_f3_files_with_holes(basket: Basket) -> None:
    refused(basket, header(b"a", b"00000000000\0", b"S") + bytes(1024), "holes")
    pax = special("a", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "999999999999"})
    refused(basket, tar(pax), "holes")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_f4_headers_that_announce_gigabytes(basket: Basket, kind: bytes) -> None:
    refused(basket, header(b"a", b"37777777777\0", kind) + bytes(10_000), "more than 1 MiB")


def test_f4_sizes_that_two_readers_read_differently(basket: Basket) -> None:
    refused(basket, tar(special("a", tarfile.REGTYPE, pax_headers={"size": "5"}), ("b", b"x")), "8 GB")
    refused(basket, header(b"a/", b"00000000777\0", b"\0") + bytes(10_000), "damaged")
    refused(basket, header(b"a", b"\xff" * 12, b"0") + bytes(10_000), "damaged")
    refused(basket, header(b"a", b"-0000000777\0", b"0") + bytes(10_000), "damaged")


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_f4_bombs_of_compressed_tar(basket: Basket, packed: Callable[[bytes], bytes]) -> None:
    bomb = packed(tar(("zeros", bytes(5 << 20))))
    assert len(bomb) < 50_000
    refused(basket, bomb, "more than 1048576 bytes")


def test_f4_the_ratio_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FROM_BYTES", 1 << 20)
    basket = Basket(tmp_path, FetchLimits(size_bytes=1 << 30, max_members=50, timeout_s=30))
    with basket.fetch:
        refused(basket, gzip.compress(tar(("zeros", bytes(3 << 20)))), "200 times")
        refused(basket, zipped(("zeros", bytes(3 << 20))), "200 times")
    basket.close()


def test_f4_bombs_of_zip(basket: Basket) -> None:
    refused(basket, zipped(("zeros", bytes(5 << 20))), "more than 1048576 bytes")


def test_f4_a_zip_that_lies_about_sizes(basket: Basket) -> None:
    honest = zipped(("zeros", bytes(2 << 20)))
    lying = honest.replace(struct.pack("<L", 2 << 20), struct.pack("<L", 10))
    assert lying != honest
    refused(basket, lying, "damaged")


def test_f4_zip_members_that_overlap(basket: Basket) -> None:
    content = bytearray(zipped(("a", b"x" * 100), ("b", b"y" * 100), compression=zipfile.ZIP_STORED))
    second = content.rindex(b"PK\1\2")
    content[second + 42 : second + 46] = struct.pack("<L", 0)
    refused(basket, bytes(content), "overlap")


def test_f4_archives_inside_stay_as_they_are(basket: Basket) -> None:
    inner = zipped(("a", b"x"))
    assert unpacked(basket, zipped(("inner.zip", inner))) == {"inner.zip": inner}


def test_f4_empty_members_without_end(basket: Basket, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        basket, gzip.compress(tar(*(special(f"{number}", tarfile.DIRTYPE) for number in range(51)))), "more than 50"
    )
    many = gzip.compress(tar(*(special("./", tarfile.DIRTYPE) for _ in range(201))))
    refused(basket, many, "more than 50 members")
    content = zipped(*((f"{number}", b"") for number in range(51)))
    # Seen before one object is made of them.
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refused(basket, content, "more than 50 members")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x1f\x8b" + b"x" * 100,
        gzip.compress(tar(("a", b"x" * 5000)))[:-20],
        tar(("a", b"x" * 5000))[:3000],
        zipped(("a", b"x" * 5000))[:-10],
        b"PK\3\4" + b"x" * 100,
        tar(("a", b"x")) [:1024] + b"not a header" * 100,
    ],
    ids=["empty", "text", "no-gzip", "cut-gzip", "cut-tar", "cut-zip", "no-zip", "no-header"],
)  # fmt: skip
def test_what_is_no_archive_is_said(basket: Basket, content: bytes) -> None:
    refused(basket, content, "not an archive|damaged|known")


def test_a_zip_with_a_password_is_said(basket: Basket) -> None:
    content = bytearray(zipped(("a", b"x")))
    for mark in (b"PK\3\4", b"PK\1\2"):
        at = content.index(mark) + (6 if mark == b"PK\3\4" else 8)
        content[at] |= 1
    refused(basket, bytes(content), "password")
