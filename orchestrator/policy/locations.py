"""Where the data of a source is, read from what its caller wrote. Pure.

What is wrong raises `InvalidRequest` with the source's own field: `at` is the source's place in the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from orchestrator.errors import InvalidRequest
from orchestrator.policy.urls import Url, UrlProblem
from orchestrator.wire.sources import GcsSource, HttpSource, LocalSource, RepositorySource, S3Source, SftpSource, Source

DEFAULT_REGION = "us-east-1"
_SCP = re.compile(r"([A-Za-z0-9._-]{1,64})@([^:/@\[\]]+|\[[^\]]+\]):(?!//)(.+)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def repository_url(source: RepositorySource, at: str) -> Url:
    """Of `https://…`, `ssh://…` or `user@host:path`."""
    text = source.source
    if found := _SCP.fullmatch(text):
        text = f"ssh://{found[1]}@{found[2]}/{found[3].lstrip('/')}"
    url = _url(text, ("https", "ssh"), at)
    if url.path == "/" or url.query:
        raise _wrong(at, "it names no repository")
    if source.profile is not None and url.scheme != "ssh":
        raise InvalidRequest(f"Invalid value at '{at}.profile': it is for repositories over SSH.")
    if source.profile is None and url.scheme == "ssh":
        raise InvalidRequest(f"Missing required parameter 'profile' at '{at}': over SSH a key is needed.")
    return url


def web_url(source: HttpSource, at: str) -> Url:
    """Of a file."""
    return _url(source.source, ("https", "http"), at)


def sftp_url(source: SftpSource, at: str) -> Url:
    """Of a file or folder."""
    return _url(source.source, ("sftp",), at)


def bucket_of(source: GcsSource | S3Source, at: str) -> tuple[str, str]:
    """Bucket, and with what the names of objects begin: a whole name, or a folder of them."""
    scheme = "gs" if isinstance(source, GcsSource) else "s3"
    bucket, _, path = source.source.removeprefix(f"{scheme}://").partition("/")
    if not source.source.startswith(f"{scheme}://") or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise _wrong(at, f"expected '{scheme}://bucket/path'")
    if not path.isprintable() or len(path.encode()) > 1024:
        raise _wrong(at, "names of objects are at most 1024 printable bytes")
    return bucket, path


def s3_endpoint(source: S3Source, at: str, region: str, default: str | None = None) -> Url:
    """The server of a bucket: the source's own, `default`, or Amazon's of the region."""
    text = source.endpoint or default or f"https://s3.{region}.amazonaws.com"
    try:
        return Url.parse(text, ("https", "http"))
    except UrlProblem as error:
        raise InvalidRequest(f"Invalid value at '{at}.endpoint': {error}.") from None


def folder_of(source: LocalSource, at: str) -> tuple[str, str]:
    """Name of a folder in the settings, and the path below it."""
    name, _, path = source.source.partition("/")
    if not _FOLDER_NAME.fullmatch(name) or ".." in PurePosixPath(path).parts or "\0" in path:
        raise _wrong(at, "expected the name of a folder in the settings, or 'NAME/path'")
    return name, path


def hosts_of(source: Source, at: str) -> Iterator[tuple[str, int]]:
    """Whom it takes to fetch the source, as far as the source says it, without redirects."""
    match source:
        case RepositorySource():
            url = repository_url(source, at)
            yield url.host, url.port
        case HttpSource():
            url = web_url(source, at)
            yield url.host, url.port
        case SftpSource():
            url = sftp_url(source, at)
            yield url.host, url.port
        case GcsSource():
            bucket_of(source, at)
        case S3Source():
            bucket_of(source, at)
            url = s3_endpoint(source, at, source.region or DEFAULT_REGION)
            if source.endpoint is not None or source.profile is None:
                yield url.host, url.port
        case LocalSource():
            folder_of(source, at)


def _url(text: str, schemes: tuple[str, ...], at: str) -> Url:
    try:
        return Url.parse(text, schemes)
    except UrlProblem as error:
        raise _wrong(at, str(error)) from None


def _wrong(at: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value at '{at}.source': {why}.")
