"""Archives from outside: looked through as a whole before the first file is taken out. Blocking.

Tar is unpacked on disk first, so that its headers can be walked without believing anything in them: `tarfile` reads
long names and extended headers into memory, whatever their size. The same for the list of members of a zip.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from orchestrator.errors import SourceFailed
from orchestrator.sources.delivery import Tree, shown
from orchestrator.sources.fetch import Fetch

_PIECE_BYTES = 256 << 10
_RATIO = 200
_RATIO_FROM_BYTES = 64 << 20
"""Below that a good ratio is no attack: text of zeros compresses a thousandfold."""
_BLOCK = 512
_HEADER_LIMIT_BYTES = 1 << 20
_LINK_BYTES = 4096
_HEADERS_OF_A_MEMBER = 4
"""Its own, a long name, a long target, extended ones."""
_WRITES_SIZE = re.compile(rb"(?:^|\n)[0-9]+ (?:size|GNU\.sparse\.[a-z.]+)=")
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_PLACE = struct.Struct("<4sLQL")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_ZIP_ENTRY_BYTES = 46
_ZIP_END_SEARCHED_BYTES = 65_536 + _ZIP_END.size

_ARCHIVE_FAULTS = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError)
"""What the libraries raise for archives that are none; the last is what `zipfile` says of one with a password."""


def unpack(path: Path, tree: Tree, fetch: Fetch) -> None:
    """Takes every file out of an archive and adds it to `tree`; its kind is seen by its first bytes.

    Raises:
        SourceFailed: it is none, it is damaged, it is more than the source may take, or one of its members may not be.
    """
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    try:
        if head[:4] in (b"PK\3\4", b"PK\5\6"):
            _unpack_zip(path, tree, fetch)
        else:
            _unpack_tar(_plain(path, head, fetch), tree, fetch)
    except NotImplementedError:
        raise SourceFailed("the archive is compressed in a way that is not known here") from None
    except (OSError, *_ARCHIVE_FAULTS) as error:
        fetch.check()
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; without a number it is of a decompressor
        raise SourceFailed(f"the archive is damaged: {type(error).__name__}") from error


# tar


def _plain(path: Path, head: bytes, fetch: Fetch) -> Path:
    """The archive without compression."""
    opened: Callable[[Path], IO[bytes]]
    if head.startswith(b"\x1f\x8b"):
        opened = gzip.open  # type: ignore[assignment]  # without a mode it opens for reading bytes
    elif head.startswith(b"BZh"):
        opened = bz2.open
    elif head.startswith(b"\xfd7zXZ\0"):
        opened = lzma.open
    elif head[257:262] == b"ustar":
        return path
    else:
        raise SourceFailed("it is not an archive that is known here: tar, tar.gz, tar.bz2, tar.xz or zip")
    packed_bytes = path.stat().st_size
    plain_bytes = 0
    target = path.with_name("plain.tar")
    with opened(path) as packed, target.open("wb") as plain:
        while piece := packed.read(_PIECE_BYTES):
            fetch.check()
            plain_bytes += len(piece)
            _check_ratio(packed_bytes, plain_bytes)
            # Headers come on top of what the files hold.
            if plain_bytes > fetch.limits.size_bytes + fetch.limits.max_members * 4 * _BLOCK:
                raise SourceFailed(f"the archive holds more than {fetch.limits.size_bytes} bytes")
            plain.write(piece)
            if plain_bytes % (16 << 20) < _PIECE_BYTES:
                fetch.check_space()
    return target


def _check_ratio(packed_bytes: int, plain_bytes: int) -> None:
    if plain_bytes > _RATIO_FROM_BYTES and plain_bytes > _RATIO * packed_bytes:
        raise SourceFailed(f"the archive unpacks to more than {_RATIO} times its size")


def _unpack_tar(path: Path, tree: Tree, fetch: Fetch) -> None:
    with path.open("rb") as file:
        _walk_headers(file, fetch)
        file.seek(0)
        files: dict[str, tarfile.TarInfo] = {}
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                _add_member(tar, member, files, tree)
            _check_end(tar)


def _add_member(tar: tarfile.TarFile, member: tarfile.TarInfo, files: dict[str, tarfile.TarInfo], tree: Tree) -> None:
    if member.issparse():
        raise SourceFailed(f"{shown(member.name)} is a file with holes")
    if member.isdir():
        if member.name.strip("./"):
            tree.add_folder(member.name)
    elif member.issym():
        tree.add_link(member.name, member.linkname)
    elif member.islnk():
        linked = files.get(member.linkname)
        if linked is None:
            raise SourceFailed(f"{shown(member.name)} is a hard link to what is not in the archive before it")
        _add_content(tar, linked, member.name, tree)
    elif member.isreg():
        files[member.name] = member
        _add_content(tar, member, member.name, tree)
    else:
        raise SourceFailed(f"{shown(member.name)} is neither a file nor a folder nor a link")


def _add_content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, tree: Tree) -> None:
    content = tar.extractfile(member)
    assert content is not None  # noqa: S101 - it is a file
    tree.add_file(name, content, member.size, is_executable=bool(member.mode & stat.S_IXUSR))


def _walk_headers(file: BinaryIO, fetch: Fetch) -> None:
    """Every header as it is written, without reading what it announces. Reads as `tarfile` will read."""
    headers = 0
    while True:
        header = file.read(_BLOCK)
        if len(header) < _BLOCK or header == bytes(_BLOCK):
            return
        headers += 1
        if headers > _HEADERS_OF_A_MEMBER * fetch.limits.max_members:
            raise SourceFailed(f"the archive has more than {fetch.limits.max_members} members")
        size_bytes, kind, name = _number(header[124:136]), header[156:157], header[:100].split(b"\0", 1)[0]
        if kind == b"S":
            raise SourceFailed("the archive has a file with holes")
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            continue
        if kind == b"\0" and size_bytes and (not name or name.endswith(b"/")):
            raise tarfile.HeaderError  # a folder to some programs, a file to others
        if kind in (b"x", b"g", b"X", b"L", b"K"):
            if size_bytes > _HEADER_LIMIT_BYTES:
                raise SourceFailed("the archive has a header of more than 1 MiB")
            # What some of these say would make members begin elsewhere than they do here.
            if _WRITES_SIZE.search(file.read(size_bytes)) and kind not in (b"L", b"K"):
                raise SourceFailed("the archive has a file with holes, or one of more than 8 GB")
            file.seek(-size_bytes % _BLOCK, 1)
        else:
            file.seek(size_bytes + -size_bytes % _BLOCK, 1)


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not re.fullmatch(rb"[0-7]+", text):
        raise tarfile.HeaderError
    return int(text, 8)


def _check_end(tar: tarfile.TarFile) -> None:
    """A tar that ends without its end, or goes on behind a header that cannot be read, was cut."""
    assert tar.fileobj is not None  # noqa: S101 - it is open
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_BLOCK).strip(b"\0"):
        raise tarfile.ReadError("unreadable header")


# zip


def _unpack_zip(path: Path, tree: Tree, fetch: Fetch) -> None:
    with path.open("rb") as file:
        _count_entries(file, fetch.limits.max_members)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > fetch.limits.size_bytes:
            raise SourceFailed(f"the archive holds more than {fetch.limits.size_bytes} bytes")
        _check_ratio(path.stat().st_size, sum(member.file_size for member in members))
        _check_overlaps(members)
        for member in members:
            _add_entry(archive, member, tree)


def _add_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tree: Tree) -> None:
    mode = member.external_attr >> 16
    if member.flag_bits & 1:
        raise SourceFailed("the archive has a password")
    if "\0" in member.orig_filename:
        raise SourceFailed(f"{shown(member.orig_filename)} has control characters in its name")
    if member.is_dir():
        if member.filename.strip("./"):
            tree.add_folder(member.filename)
    elif stat.S_ISLNK(mode):
        if member.file_size > _LINK_BYTES:
            raise SourceFailed(f"{shown(member.filename)} is a link that is too long")
        tree.add_link(member.filename, archive.read(member).decode("utf-8", "surrogateescape"))
    elif mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise SourceFailed(f"{shown(member.filename)} is neither a file nor a folder nor a link")
    else:
        with archive.open(member) as content:
            tree.add_file(member.filename, content, member.file_size, is_executable=bool(mode & stat.S_IXUSR))


def _check_overlaps(members: list[zipfile.ZipInfo]) -> None:
    """Members that share their bytes are how a small zip holds petabytes."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise SourceFailed("the archive has members that overlap")
        end = member.header_offset + 30 + member.compress_size


def _count_entries(file: BinaryIO, max_members: int) -> None:
    """`zipfile` makes an object of each entry before one can be counted."""
    size_bytes = file.seek(0, 2)
    searched_from = max(0, size_bytes - _ZIP_END_SEARCHED_BYTES)
    file.seek(searched_from)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _ZIP_END.size:
        raise zipfile.BadZipFile("no end")
    *_, list_bytes, _, _ = _ZIP_END.unpack_from(tail, at)
    list_end = searched_from + at
    if at >= _ZIP64_PLACE.size and tail[at - _ZIP64_PLACE.size : at].startswith(b"PK\6\7"):
        place = list_end - _ZIP64_PLACE.size - _ZIP64_END.size
        file.seek(max(0, place))
        record = file.read(_ZIP64_END.size)
        if len(record) == _ZIP64_END.size and record.startswith(b"PK\6\6"):
            list_bytes, list_end = _ZIP64_END.unpack(record)[8], place
    if list_bytes > list_end:
        raise zipfile.BadZipFile("the list of members is longer than the archive")
    file.seek(list_end - list_bytes)
    for count, _ in enumerate(_entries(file, list_bytes), 1):
        if count > max_members:
            raise SourceFailed(f"the archive has more than {max_members} members")


def _entries(file: BinaryIO, list_bytes: int) -> Iterator[None]:
    while list_bytes >= _ZIP_ENTRY_BYTES:
        entry = file.read(_ZIP_ENTRY_BYTES)
        if not entry.startswith(b"PK\1\2"):
            return
        more = sum(struct.unpack_from("<3H", entry, 28))
        file.seek(more, 1)
        list_bytes -= _ZIP_ENTRY_BYTES + more
        yield
