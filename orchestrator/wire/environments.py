"""Environments as callers describe them and as they are answered (reference, 2.5 and 7). No I/O.

Owns the grammar: names of variables, targets, header fields. Which hosts, sizes and protocols are allowed is policy's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.wire.base import (
    BASE64_PATTERN,
    AnyCase,
    Base64,
    ByShape,
    ByType,
    Count,
    Few,
    Flag,
    ListOf,
    WireModel,
    WireResource,
    base64_bytes,
    described,
    either,
    parse,
    problem,
    spelled,
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_GIT_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/@+{}#-]{0,254}")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SKILL_NAME = re.compile(r"(?:[a-z0-9]+-)*[a-z0-9]+")
_HOST_KEY_LINE = re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{1,8192}={0,2}")
_ID_CHARS = 128
_TARGET_BYTES = 4096
_SETUP_LIMIT, _SETUP_CHARS = 100, 65_536
_BASE64: TypeAdapter[str] = TypeAdapter(Base64)


# sources


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


# network


def is_header(name: str, value: str) -> bool:
    """Whether HTTP can carry them."""
    return bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


def _as_header_map(value: Any) -> Any:
    """One object, or a list of objects: header name → value. A name may be given once, in whatever case."""
    fields: list[tuple[str, Any, tuple[str | int, ...]]] = []
    if isinstance(value, dict):
        fields = [(name, field, (name,)) for name, field in value.items()]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise problem("expected an object", index)
            fields += [(name, field, (index, name)) for name, field in item.items()]
    else:
        raise problem("expected an object or a list of objects")
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, field, at in fields:
        if not isinstance(field, str):
            raise problem("expected a string", *at)
        if not is_header(name, field):
            raise problem("not a valid HTTP header field", *at)
        if name.lower() in seen:
            raise problem("this header is given twice", *at)
        seen.add(name.lower())
        headers[name] = field
    return headers


_HeaderFields = Annotated[
    dict[str, Annotated[str, spelled(_HEADER_VALUE)]], described(propertyNames={"pattern": f"^{_HEADER_NAME.pattern}$"})
]


_METHOD = re.compile(r"[A-Za-z]{1,32}")
_PATH = re.compile(r"/[\x21-\x7e]{0,1023}")


def _full_match(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise PydanticCustomError("problem", what)
        return value

    return AfterValidator(check)


_Method = Annotated[str, _full_match(_METHOD, "expected the name of a method"), spelled(_METHOD)]
_Path = Annotated[str, _full_match(_PATH, "expected a path that begins with '/'"), spelled(_PATH)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
CredentialName = Annotated[str, AfterValidator(lambda name: name.removeprefix("credentials/"))]
"""The bare id of `ID` or `credentials/ID`. Whether there is one is another question."""


class AllowedDomain(WireModel):
    """A host that may be reached, and what the egress proxy adds to requests to it."""

    domain: str = Field(min_length=1)
    """Exact name, `*.name` (names below it, not itself) or `*`; judged by policy, not here."""
    credential: CredentialName | None = None
    """Id of a credential to inject; applied before `transform`."""
    transform: (
        Annotated[
            dict[str, str],
            BeforeValidator(_as_header_map, json_schema_input_type=_HeaderFields | list[_HeaderFields]),
        ]
        | None
    ) = Field(default=None, repr=False)
    """Header name → value. May hold secrets."""
    ports: Annotated[list[Port], Field(min_length=1, max_length=64)] | None = None
    """An extension: only these. Absent: all but those of mail and name servers (25, 53, 853)."""
    methods: Annotated[list[_Method], Field(min_length=1, max_length=32)] | None = None
    """An extension: only requests with these. Connections that cannot be read are refused then."""
    paths: Annotated[list[_Path], Field(min_length=1, max_length=64)] | None = None
    """An extension: only these paths, or beginnings of paths with `*` at the end; as for `methods`."""


class NetworkRules(WireModel):
    """Only the listed hosts may be reached. An empty list lets nothing out."""

    allowlist: ListOf[AllowedDomain]


def _as_network(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"allowlist"} and isinstance(value["allowlist"], str):
        if value["allowlist"].lower() != "disabled":
            raise problem("expected 'disabled' or a list", "allowlist")
        return "disabled"
    return value.lower() if isinstance(value, str) else value


class NoRules(WireModel):
    """A longer way to write "disabled"."""

    allowlist: Annotated[Literal["disabled"], AnyCase]


Network = Annotated[
    Annotated[Literal["disabled"] | NetworkRules, ByShape("'disabled' or an object with an 'allowlist'")],
    BeforeValidator(_as_network, json_schema_input_type=Literal["disabled"] | NetworkRules | NoRules),
]


def public_network(network: Network | None) -> dict[str, Any] | str | None:
    """The network block as answers may show it: the header values of `transform` left out."""
    if network is None or isinstance(network, str):
        return network
    return {"allowlist": [rule.model_dump(exclude_none=True, exclude={"transform"}) for rule in network.allowlist]}


def public_sources(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The sources as answers may show them: the contents of inline ones left out, and queries of addresses, which may
    be signed.
    """
    shown = [source.model_dump(exclude_none=True, exclude={"content", "encoding"}) for source in sources]
    for fields in shown:
        if fields["type"] == "http":
            fields["source"] = fields["source"].partition("?")[0]
    return shown


# variables

_NO_NUL = described(pattern="^[^\\u0000]*$")


class EnvVar(WireModel):
    """A variable: a value in the clear, or the credential whose placeholder it holds. Exactly one is set."""

    model_config = ConfigDict(json_schema_extra=either("value", "credential"))

    value: Annotated[str, _NO_NUL] | None = Field(default=None, repr=False)
    credential: CredentialName | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.value is None) == (self.credential is None):
            raise problem("expected either 'value' or 'credential'")
        if self.value is not None and "\0" in self.value:
            raise problem("must not contain NUL", "value")
        return self

    @property
    def inside(self) -> str:
        """What a sandbox has as its value: never a secret, but a placeholder that is swapped on the way out."""
        return self.value if self.value is not None else f"__GEMINI_CRED_{self.credential}__"


def _as_variables(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    variables: dict[str, Any] = {}
    for name, given in value.items():
        if not _VARIABLE.fullmatch(name):
            raise problem("names of variables are letters, digits and '_', not beginning with a digit", name)
        if isinstance(given, str):
            if "\0" in given:
                raise problem("must not contain NUL", name)
            variables[name] = {"value": given}
        elif isinstance(given, dict | EnvVar):
            variables[name] = given
        else:
            raise problem("expected a string or an object with 'value' or 'credential'", name)
    return variables


_VariableForms = Annotated[
    dict[str, Annotated[str, _NO_NUL] | EnvVar],
    described(propertyNames={"pattern": f"^{_VARIABLE.pattern}$"}, maxProperties=1000),
]
Variables = Annotated[dict[str, EnvVar], BeforeValidator(_as_variables, json_schema_input_type=_VariableForms), Few]


# the environment of a request


def environment_id_of(text: str) -> str:
    """The bare id of `ID` or `environments/ID`. Whether it exists is another question.

    Raises:
        PydanticCustomError: empty or too long to be an id.
    """
    bare = text.removeprefix("environments/")
    if not bare or len(bare) > _ID_CHARS or not bare.isprintable():
        raise PydanticCustomError("problem", "expected 'remote', an environment id or an object")
    return bare


EnvironmentId = Annotated[str, AfterValidator(environment_id_of), described(pattern="^[ -~]+$", maxLength=_ID_CHARS)]
"""`ID` or `environments/ID`."""


SetupCommand = Annotated[str, Field(min_length=1, max_length=_SETUP_CHARS)]


class EnvironmentSpec(WireModel):
    """The environment that a request asks for: a new one, or `environment_id` with changes."""

    type: Annotated[Literal["remote"], AnyCase] = "remote"
    environment_id: EnvironmentId | None = None
    sources: ListOf[Source] = Field(default_factory=list)
    network: Network | None = None
    """Absent: nothing is said, which leaves an existing environment's rules as they are."""
    env: Variables = Field(default_factory=dict)
    setup: Annotated[list[SetupCommand], Field(min_length=1, max_length=_SETUP_LIMIT)] | None = None
    """Commands of bash that prepare an agent's base environment as root, once for all that begin with it; an extension.
    """


# Two ways to write it, for descriptions only: `_as_spec` makes an `EnvironmentSpec` of them.


class EnvironmentForm(EnvironmentSpec):
    """An environment that is wanted: a new one, or `environment_id` with changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["environment_id", "env_id"],
                "properties": {"environment_id": {"type": "string"}, "env_id": {"type": "string"}},
            }
        }
    )

    env_id: EnvironmentId | None = None
    """An older name of `environment_id`."""
    enabled: Literal[True] | None = None
    """Says nothing: an environment is wanted."""


class NoEnvironment(WireModel):
    """A way to write that no environment is wanted."""

    enabled: Literal[False]


_SPELLINGS = frozenset({"enabled", "env_id", "environment_id"})


def _as_spec(value: Any) -> Any:
    """All the ways of 2.5 to write an environment. None: no environment is wanted."""
    if isinstance(value, str):
        return {"type": "remote"} if value.lower() == "remote" else {"environment_id": environment_id_of(value)}
    if value is None or isinstance(value, EnvironmentSpec):
        return value
    if not isinstance(value, dict):
        raise problem("expected 'remote', an environment id or an object")
    # Of these, null is the same as absent; of all others the type says so, and that it does not know them.
    value = {name: item for name, item in value.items() if item is not None or name not in _SPELLINGS}
    if "enabled" in value:
        enabled = value.pop("enabled")
        if not isinstance(enabled, bool):
            raise problem("expected true or false", "enabled")
        if not enabled:
            if value:
                raise problem("false leaves nothing to configure", "enabled")
            return None
    if "env_id" in value:
        if "environment_id" in value:
            raise problem("give either 'environment_id' or 'env_id', not both", "env_id")
        given = value.pop("env_id")
        if not isinstance(given, str):
            raise problem("expected a string", "env_id")
        value["environment_id"] = environment_id_of(given)
    return value


EnvironmentField = Annotated[
    EnvironmentSpec | None,
    BeforeValidator(_as_spec, json_schema_input_type=EnvironmentId | EnvironmentForm | NoEnvironment | None),
]
"""For fields that hold an environment in any of its forms."""
_EnvironmentAdapter: TypeAdapter[EnvironmentSpec | None] = TypeAdapter(EnvironmentField)


def parse_environment(value: Any, at: str = "environment") -> EnvironmentSpec | None:
    """The canonical form of an `environment` field; None if it is absent or switched off.

    Raises:
        InvalidRequest: names the path.
    """
    return parse(_EnvironmentAdapter, value, at)


# resources


class EnvironmentCreate(WireModel):
    """The body of a create call: a fork of another environment, or a new one."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["from_environment"], "properties": {"from_environment": {"type": "string"}}},
            "then": {"properties": {"sources": {"maxItems": 0}}},
        }
    )

    from_environment: EnvironmentId | None = None
    sources: ListOf[Source] = Field(default_factory=list)
    network: Network | None = None
    env: Variables = Field(default_factory=dict)
    """An extension: of a fork, these come on top of the other's."""

    @model_validator(mode="after")
    def _fork_has_no_sources(self) -> Self:
        if self.from_environment is not None and self.sources:
            raise problem("must be empty together with 'from_environment'", "sources")
        return self


SandboxReach = Literal["open", "allowlist", "none"]


class EnvironmentResource(WireResource):
    """An environment as it is answered. Times are RFC 3339 with `Z`; nothing secret is in it."""

    id: str
    status: Literal["active", "expired"]
    created: str
    updated: str
    last_accessed: str
    expires: str | None = None
    """When it is deleted unless somebody uses it; an extension. Absent: never."""
    file_count: Count | None = None
    size_bytes: Count | None = None
    network: Network | None = None
    sandbox_network: SandboxReach | None = None
    """Whom programs inside reach, an extension: everybody that is public, those that `network` lists, or nobody."""
    sources: ListOf[Source] | None = None


def dump_environment(resource: EnvironmentResource, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The wire form: int64 fields are strings, header values of network rules left out, `extra` fields added."""
    answer = resource.model_dump(exclude_none=True)
    for name in ("file_count", "size_bytes"):
        if name in answer:
            answer[name] = str(answer[name])
    if resource.network is not None:
        answer["network"] = public_network(resource.network)
    return {**answer, **(extra or {})}
