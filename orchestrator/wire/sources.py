"""Data sources of environments as callers describe them (reference, 7.2). No I/O.

Owns the grammar of targets and addresses. Which hosts and sizes are allowed is policy's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import (
    BASE64_PATTERN,
    AnyCase,
    Base64,
    ByType,
    Flag,
    WireModel,
    base64_bytes,
    described,
    either,
    problem,
    spelled,
)

_GIT_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/@+{}#-]{0,254}")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SKILL_NAME = re.compile(r"(?:[a-z0-9]+-)*[a-z0-9]+")
_HOST_KEY_LINE = re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{1,8192}={0,2}")
_TARGET_BYTES = 4096
_BASE64: TypeAdapter[str] = TypeAdapter(Base64)


def _target(value: str) -> str:
    if "\0" in value or len(value.encode()) > _TARGET_BYTES:
        raise PydanticCustomError("problem", "expected a path of at most 4096 bytes without NUL")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts:
        raise PydanticCustomError("problem", "must name a path below '/'")
    if ".." in parts:
        raise PydanticCustomError("problem", "must not contain '..'")
    return value


Target = Annotated[
    str, AfterValidator(_target), described(pattern="^[^\\u0000]*[^\\u0000/.][^\\u0000]*$", maxLength=_TARGET_BYTES)
]


def _matching(pattern: re.Pattern[str]) -> AfterValidator:

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise PydanticCustomError("problem", "must match {pattern}", {"pattern": pattern.pattern})
        return value

    return AfterValidator(check)


def _git_ref(value: str) -> str:
    if not _GIT_REF.fullmatch(value) or ".." in value or "@{" in value or value.endswith((".lock", "/", ".")):
        raise PydanticCustomError("problem", "expected a branch, a tag or a commit")
    return value


def _below(value: str) -> str:
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or not value.isprintable() or len(value.encode()) > _TARGET_BYTES:
        raise PydanticCustomError("problem", "expected the path of a folder, without '..'")
    return "/".join(parts)


_GitRef = Annotated[str, AfterValidator(_git_ref), spelled(_GIT_REF)]
_Folder = Annotated[str, AfterValidator(_below), described(minLength=1, maxLength=_TARGET_BYTES)]
_Profile = Annotated[str, _matching(_PROFILE), spelled(_PROFILE)]
_Region = Annotated[str, _matching(_REGION), spelled(_REGION)]
_Sha256 = Annotated[str, AnyCase, _matching(_SHA256), spelled(_SHA256)]
_SkillName = Annotated[str, Field(max_length=64), _matching(_SKILL_NAME), spelled(_SKILL_NAME)]
_HostKey = Annotated[str, _matching(_HOST_KEY_LINE), spelled(_HOST_KEY_LINE)]


class BaseSource(WireModel):
    """What all sources have in common. Relative targets are relative to `/`."""

    type: str
    target: Target

    @property
    def path(self) -> str:
        """The target, absolute and normalised: `/workspace/data.csv`."""
        return str(PurePosixPath("/", *(part for part in self.target.split("/") if part not in ("", "."))))


class InlineSource(BaseSource):
    """A file given in the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["encoding"], "properties": {"encoding": {"const": "base64"}}},
            "then": {"properties": {"content": {"pattern": BASE64_PATTERN}}},
        }
    )

    type: Literal["inline"] = "inline"
    content: str = Field(repr=False)
    """Text, or canonical base64 if `encoding` says so."""
    encoding: Annotated[Literal["base64"], AnyCase] | None = None

    @model_validator(mode="before")
    @classmethod
    def _base64_is_checked(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("encoding"), str) and data["encoding"].lower() == "base64":
            content = data.get("content")
            if isinstance(content, str):
                return {**data, "content": _inline_base64(content)}
        return data

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return base64_bytes(self.content) if self.encoding else self.content.encode()


def _inline_base64(content: str) -> str:
    try:
        return _BASE64.validate_python(content)
    except ValueError:
        raise problem("expected base64", "content") from None


def _with_url(schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    properties["url"] = properties["source"]
    schema["required"].remove("source")
    schema["oneOf"] = either("source", "url")["oneOf"]


class _UrlSource(BaseSource):
    """One that is at an address. Callers may write `url` for `source`."""

    model_config = ConfigDict(json_schema_extra=_with_url)

    source: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _url_is_source(cls, data: Any) -> Any:
        if isinstance(data, dict) and "url" in data and None in (data["url"], data.get("source")):
            url = data["url"] if data.get("source") is None else data["source"]
            return {**{name: value for name, value in data.items() if name != "url"}, "source": url}
        return data


class RepositorySource(_UrlSource):
    """A Git repository: a branch, a tag or a commit of it. All fields but `source` and `target` are ours."""

    type: Literal["repository"] = "repository"
    source: str = Field(min_length=1)
    """The Git URL: `https://…`, `ssh://user@host/…` or `user@host:…`."""
    ref: _GitRef | None = None
    """Branch, tag or full commit; absent: what the repository's HEAD is."""
    folder: _Folder | None = Field(default=None, alias="path")
    """Only this folder of it, without its history."""
    submodules: Flag | None = None
    lfs: Flag | None = None
    """Files of Git LFS themselves, instead of what stands for them."""
    profile: _Profile | None = None
    """Of the server's settings: whose key to use over SSH."""


class GcsSource(BaseSource):
    """Objects of a storage bucket: one, or all whose names begin with a path."""

    type: Literal["gcs"] = "gcs"
    source: str = Field(min_length=1)
    """`gs://bucket/path`."""


class S3Source(BaseSource):
    """Objects of a bucket on S3, or on another server that speaks it. Ours."""

    type: Literal["s3"] = "s3"
    source: str = Field(min_length=1)
    """`s3://bucket/path`."""
    endpoint: str | None = None
    """Of another server than Amazon's: `https://minio.example.com`."""
    region: _Region | None = None
    profile: _Profile | None = None
    """Of the server's settings: whose keys to sign with; absent: the bucket is public."""


class HttpSource(_UrlSource):
    """What a web server has. Ours."""

    type: Literal["http"] = "http"
    source: str = Field(min_length=1)
    """`https://…` or `http://…`."""
    extract: Flag | None = None
    """It is an archive (tar, tar.gz, tar.bz2, tar.xz, zip), whose files are wanted; `target` is their folder."""
    sha256: _Sha256 | None = None
    """What it must be, in hexadecimal."""


class SftpSource(BaseSource):
    """A file or a folder of an SSH server. Ours."""

    type: Literal["sftp"] = "sftp"
    source: str = Field(min_length=1)
    """`sftp://user@host:port/path`."""
    host_key: _HostKey | None = None
    """The server's public key, `ssh-ed25519 AAAA…`; absent: the profile's, or one that the operator knows."""
    profile: _Profile | None = None
    """Of the server's settings: whose key or password to use; absent: the server lets everybody in."""


class LocalSource(BaseSource):
    """A file or a folder of the machine that the server runs on, of those that its operator lists. Ours."""

    type: Literal["local"] = "local"
    source: str = Field(min_length=1)
    """`NAME` of a folder in the settings, or `NAME/path` below it."""


def _with_default_target(schema: dict[str, Any]) -> None:
    schema["required"].remove("target")


class SkillRegistrySource(BaseSource):
    """A skill that the server has: its whole folder. The type is in the public enum, its fields are ours."""

    model_config = ConfigDict(json_schema_extra=_with_default_target)

    type: Literal["skill_registry"] = "skill_registry"
    source: _SkillName
    """The skill's name."""
    sha256: _Sha256 | None = None
    """What its files must be, as answers tell it; absent: what they are when the environment is made."""

    @model_validator(mode="before")
    @classmethod
    def _has_its_usual_place(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("target") is None:
            name = data.get("source")
            is_name = isinstance(name, str) and _SKILL_NAME.fullmatch(name)
            return {**data, "target": f".agents/skills/{name}" if is_name else ".agents/skills"}
        return data

    @model_validator(mode="after")
    def _keeps_its_name(self) -> Self:
        if PurePosixPath(self.path).name != self.source:
            raise problem(f"the last part must be the skill's name, '{self.source}'", "target")
        return self


Source = Annotated[
    InlineSource
    | RepositorySource
    | GcsSource
    | S3Source
    | HttpSource
    | SftpSource
    | LocalSource
    | SkillRegistrySource,
    ByType("source", aliases={"github": "repository", "git": "repository"}),
]


def public_sources(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The sources as answers may show them: the contents of inline ones left out, and queries of addresses, which may
    be signed.
    """
    shown = [source.model_dump(exclude_none=True, exclude={"content", "encoding"}) for source in sources]
    for fields in shown:
        if fields["type"] == "http":
            fields["source"] = fields["source"].partition("?")[0]
    return shown
