"""Sources of type `gcs` and `s3`: objects of buckets, listed page by page and read one after another. Blocking.

A name is one object if there is one of exactly that name, else the folder of all that begin with it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import quote, unquote
from xml.parsers import expat

from orchestrator.clock import Clock
from orchestrator.egress.http import Answer, HttpClient
from orchestrator.errors import SourceFailed
from orchestrator.policy.urls import Url
from orchestrator.sources.delivery import Tree, shown
from orchestrator.sources.fetch import Fetch
from orchestrator.sources.profiles import S3Profile
from orchestrator.sources.signing import signed
from orchestrator.sources.web import check_status

_PAGE_LIMIT_BYTES = 16 << 20
_TOKEN_CHARS = 4096
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One that a listing names."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Of a listing."""

    objects: list[StoredObject]
    following: str | None
    """Asks for the next one; None: there is none."""


class Bucket(ABC):
    """One bucket of one server."""

    @abstractmethod
    def page(self, prefix: str, token: str | None) -> Page:
        """Objects whose names begin with `prefix`. Raises `SourceFailed`, `NetworkError`."""

    @abstractmethod
    def get(self, name: str) -> AbstractContextManager[Answer]:
        """An object."""


def fetch_bucket(bucket: Bucket, path: str, tree: Tree, fetch: Fetch) -> None:
    """Brings the object `path`, or everything below it. Raises `SourceFailed`, `NetworkError`."""
    folder = path if not path or path.endswith("/") else f"{path}/"
    found = _objects(bucket, path, fetch)
    if path and path != folder:
        for each in found:
            if each.name == path:
                with bucket.get(path) as answer:
                    check_status(answer)
                    tree.add_only_file(_Body(answer), each.size_bytes)
                return
            break  # in order of names the object comes before everything below it
        found = _objects(bucket, folder, fetch)
    is_empty = True
    for each in found:
        if not each.name.startswith(folder):
            raise SourceFailed(f"the bucket lists {shown(each.name)}, which does not begin with {shown(folder)}")
        is_empty = False
        name = each.name[len(folder) :]
        if name.endswith("/") or not name:
            # Folders do not exist there: consoles make empty objects to show one.
            if each.size_bytes:
                raise SourceFailed(f"{shown(each.name)} is named as a folder, and holds data")
            if name.strip("/"):
                tree.add_folder(name)
            continue
        with bucket.get(each.name) as answer:
            check_status(answer)
            tree.add_file(_checked(name), _Body(answer), each.size_bytes)
    if is_empty:
        raise SourceFailed("there is no object of this name, and none below it")


def _checked(name: str) -> str:
    """`a//b` and `a/./b` are objects of their own: as files they would be others."""
    if any(part in ("", ".") for part in name.split("/")):
        raise SourceFailed(f"{shown(name)} cannot be the name of a file")
    return name


def _objects(bucket: Bucket, prefix: str, fetch: Fetch) -> Iterator[StoredObject]:
    token: str | None = None
    seen = 0
    while True:
        page = bucket.page(prefix, token)
        yield from page.objects
        seen += max(1, len(page.objects))  # empty pages without end are no way out
        if page.following is None:
            return
        if page.following == token or len(page.following) > _TOKEN_CHARS or seen > 2 * fetch.limits.max_members:
            raise SourceFailed("the listing of the bucket has no end")
        token = page.following
        fetch.check()


class _Body:
    """An object's bytes for a tar, which needs exactly as many as were listed."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""

    def read(self, size: int) -> bytes:
        piece = self._rest or self._answer.read()
        self._rest = piece[size:]
        return piece[:size]


class GcsBucket(Bucket):
    """By the JSON API. A token, where one is needed, is a header of the network rules."""

    def __init__(self, client: HttpClient, endpoint: Url, bucket: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._bucket = bucket

    def page(self, prefix: str, token: str | None) -> Page:
        query = f"fields={quote('items(name,size),nextPageToken', safe='')}&prefix={quote(prefix, safe='')}"
        if token is not None:
            query += f"&pageToken={quote(token, safe='')}"
        with self._client.get(self._endpoint.with_path(f"/storage/v1/b/{self._bucket}/o", query)) as answer:
            check_status(answer)
            body = answer.read_all(_PAGE_LIMIT_BYTES)
        try:
            listing = json.loads(body)
            objects = [StoredObject(str(each["name"]), int(each["size"])) for each in listing.get("items", [])]
            following = listing.get("nextPageToken")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SourceFailed(f"the listing of the bucket cannot be read: {type(error).__name__}") from error
        return Page(objects, str(following) if following else None)

    def get(self, name: str) -> AbstractContextManager[Answer]:
        path = f"/storage/v1/b/{self._bucket}/o/{quote(name, safe='')}"
        return self._client.get(self._endpoint.with_path(path, "alt=media"))


class S3Bucket(Bucket):
    """By S3's own API, the bucket in the path: all servers that speak it know that form."""

    def __init__(
        self,
        client: HttpClient,
        endpoint: Url,
        bucket: str,
        region: str,
        profile: S3Profile | None,
        clock: Clock,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._base = f"{endpoint.path.rstrip('/')}/{bucket}"
        self._region = region
        self._profile = profile
        self._clock = clock

    def page(self, prefix: str, token: str | None) -> Page:
        fields = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if token is not None:
            fields["continuation-token"] = token
        query = "&".join(f"{quote(name, safe='')}={quote(fields[name], safe='')}" for name in sorted(fields))
        with self._get(self._endpoint.with_path(self._base, query)) as answer:
            body = answer.read_all(_PAGE_LIMIT_BYTES)
            if answer.status != 200:
                code = _CODE.search(body)
                told = f" ({code[1].decode()})" if code else ""
                raise SourceFailed(f"{answer.url.shown} answered {answer.status}{told}")
        return _read_listing(body)

    def get(self, name: str) -> AbstractContextManager[Answer]:
        return self._get(self._endpoint.with_path(f"{self._base}/{quote(name, safe='/-._~')}"))

    def _get(self, url: Url) -> AbstractContextManager[Answer]:
        headers: Mapping[str, str] = {}
        if self._profile is not None:
            headers = signed(
                url,
                key_id=self._profile.access_key_id,
                secret=self._profile.secret_access_key,
                token=self._profile.session_token,
                region=self._region,
                now=self._clock.now(),
            )
        # A redirect of S3 is to another region, for which the signature would be wrong.
        return self._client.get(url, headers, redirects=0)


def _read_listing(body: bytes) -> Page:
    """Of ListObjectsV2. Entities, which can be bombs, are refused."""
    reader = _Listing()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(body, True)
        return reader.page()
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise SourceFailed(f"the listing of the bucket cannot be read: {type(error).__name__}") from error


class _Listing:
    def __init__(self) -> None:
        self._path: list[str] = []
        self._text = ""
        self._object: dict[str, str] = {}
        self._objects: list[StoredObject] = []
        self._top: dict[str, str] = {}

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._text = ""
        if self._path[1:] == ["Contents"]:
            self._object = {}

    def text(self, text: str) -> None:
        self._text += text

    def end(self, _name: str) -> None:
        match self._path[1:]:
            case ["Contents"]:
                self._objects.append(StoredObject(self._object["Key"], int(self._object["Size"])))
            case ["Contents", name]:
                self._object[name] = self._text
            case [name]:
                self._top[name] = self._text
        self._path.pop()

    def refuse(self, *_: object) -> None:
        raise ValueError

    def page(self) -> Page:
        is_encoded = self._top.get("EncodingType") == "url"
        objects = [
            StoredObject(unquote(each.name.replace("+", " ")) if is_encoded else each.name, each.size_bytes)
            for each in self._objects
        ]
        following = self._top.get("NextContinuationToken") if self._top.get("IsTruncated") == "true" else None
        return Page(objects, following)
