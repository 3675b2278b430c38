"""Files of Git LFS: fetched from the repository's own server, put where the text lies that stands for them. Blocking.

The repository says what it wants in that text, and nothing else is believed of it: its `.lfsconfig` is not read.
Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md and …/api/batch.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.egress.http import HttpClient
from orchestrator.errors import InvalidRequest, SourceFailed
from orchestrator.policy.network import may_be_set
from orchestrator.policy.urls import Url, UrlProblem
from orchestrator.sources.delivery import shown
from orchestrator.sources.fetch import Fetch
from orchestrator.sources.web import check_status
from orchestrator.wire.jsontext import JsonLimits, parse_json
from orchestrator.wire.network import is_header

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:[a-z0-9.-]+ [^\n]*\n)*?"
    rb"oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,15})\n(?:[a-z0-9.-]+ [^\n]*\n)*"
)
_POINTER_LIMIT_BYTES = 1024
"""The specification's own."""
_AT_ONCE = 100
"""Objects of one request, as git-lfs has it."""
_MEDIA_TYPE = "application/vnd.git-lfs+json"
_ANSWER_LIMIT_BYTES = 1 << 20
_ANSWER_LIMITS = JsonLimits(depth=16, values=20_000)
_HEADERS = 32


@dataclass(frozen=True, slots=True)
class _Object:
    oid: str
    size_bytes: int


def fetch_objects(repository: Url, root: Path, names: Sequence[str], client: HttpClient, fetch: Fetch) -> None:
    """Puts the files themselves in the place of what stands for them, of those below `root` that `names` lists.

    Raises `SourceFailed`, `NetworkError`: one cannot be had, or is not what was announced.
    """
    places: dict[_Object, list[Path]] = {}
    for name in names:
        path = root / name
        if (found := _pointer(path)) is not None:
            places.setdefault(found, []).append(path)
    wanted = list(places)
    for each in wanted:
        fetch.check_room(each.size_bytes, 0)
    suffix = "" if repository.path.rstrip("/").endswith(".git") else ".git"
    batch = repository.with_path(f"{repository.path.rstrip('/')}{suffix}/info/lfs/objects/batch", "")
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        for found, url, headers in _located(batch, some, client):
            content = _download(found, url, headers, client, fetch)
            _put(content, places[found])


def _pointer(path: Path) -> _Object | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # a link, or not checked out
    with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
        is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        text = file.read(_POINTER_LIMIT_BYTES + 1) if is_file else b""
    said = _POINTER.fullmatch(text) if len(text) <= _POINTER_LIMIT_BYTES else None
    return _Object(said[1].decode(), int(said[2])) if said else None


def _located(
    batch: Url, wanted: Sequence[_Object], client: HttpClient
) -> Iterator[tuple[_Object, Url, Mapping[str, str]]]:
    """Where each object is, and what a request for it needs."""
    asked = {
        "operation": "download",
        "transfers": ["basic"],
        "hash_algo": "sha256",
        "objects": [{"oid": each.oid, "size": each.size_bytes} for each in wanted],
    }
    headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
    with client.post(batch, headers, json.dumps(asked).encode()) as answer:
        check_status(answer)
        said = answer.read_all(_ANSWER_LIMIT_BYTES)
    try:
        listed = parse_json(said, _ANSWER_LIMITS)["objects"]
        by_oid = {each["oid"]: each for each in listed}
        for each in wanted:
            entry = by_oid.get(each.oid, {})
            action = entry.get("actions", {}).get("download")
            if action is None:
                raise SourceFailed(f"the LFS object {each.oid} cannot be had: {_reason(entry)}")
            yield each, Url.parse(action["href"], ("https",)), _headers(action.get("header") or {})
    except (InvalidRequest, KeyError, TypeError, AttributeError) as error:
        raise SourceFailed(f"{batch.shown} did not answer as an LFS server does") from error
    except UrlProblem as error:
        raise SourceFailed(f"{batch.shown} gave an address that cannot be used: {error}") from None


def _headers(given: Any) -> Mapping[str, str]:
    headers = {str(name): str(value) for name, value in dict(given).items()}
    if len(headers) > _HEADERS or not all(is_header(*each) and may_be_set(each[0]) for each in headers.items()):
        raise SourceFailed("the LFS server wants headers that cannot be sent")
    return headers


def _reason(entry: Mapping[str, Any]) -> str:
    error = entry.get("error")
    return shown(str(error.get("message", ""))) if isinstance(error, dict) else "its server does not have it"


def _download(found: _Object, url: Url, headers: Mapping[str, str], client: HttpClient, fetch: Fetch) -> Path:
    digest = hashlib.sha256()
    taken_bytes = 0
    with client.get(url, headers) as answer:
        check_status(answer)

        def read() -> bytes:
            nonlocal taken_bytes
            piece = answer.read()
            digest.update(piece)
            taken_bytes += len(piece)
            if taken_bytes > found.size_bytes:
                raise SourceFailed(f"the LFS object {found.oid} is longer than its announced size")
            return piece

        path = fetch.spool(read, "object")
    if taken_bytes != found.size_bytes or digest.hexdigest() != found.oid:
        raise SourceFailed(f"the LFS object {found.oid} is not what its name says")
    return path


def _put(content: Path, paths: Sequence[Path]) -> None:
    """In each of these places, whose modes stay."""
    for path in paths:
        mode = stat.S_IMODE(path.lstat().st_mode)
        path.unlink()
        if path == paths[-1]:
            content.rename(path)
        else:
            shutil.copyfile(content, path)
        path.chmod(mode)
