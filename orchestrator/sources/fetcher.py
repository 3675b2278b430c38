"""Fetching what an environment asks for: all sources, or none and the reason. Owns threads and a folder for it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import structlog

from orchestrator.clock import Clock
from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.dialer import Dialer
from orchestrator.egress.http import HttpClient, tls_context
from orchestrator.egress.injection import FindIn, armed, echoes_of
from orchestrator.errors import ConfigError, InvalidRequest, SourceFailed
from orchestrator.policy.locations import DEFAULT_REGION, bucket_of, folder_of, repository_url, s3_endpoint, sftp_url
from orchestrator.policy.network import HostList, NetworkPolicy
from orchestrator.policy.urls import Url, UrlProblem
from orchestrator.sources.buckets import GcsBucket, S3Bucket, fetch_bucket
from orchestrator.sources.delivery import Delivery, Link, Tree
from orchestrator.sources.fetch import Fetch, FetchLimits
from orchestrator.sources.folders import fetch_local
from orchestrator.sources.host_keys import known_keys
from orchestrator.sources.profiles import S3Profile, SshProfile
from orchestrator.sources.repository import GitAccess, fetch_repository
from orchestrator.sources.sftp import fetch_sftp
from orchestrator.sources.skills import SKILL_LIMIT_BYTES, SKILL_MAX_MEMBERS, SkillFolders, SkillTree
from orchestrator.sources.web import fetch_web
from orchestrator.wire.environments import EnvironmentSpec
from orchestrator.wire.sources import (
    GcsSource,
    HttpSource,
    InlineSource,
    LocalSource,
    RepositorySource,
    S3Source,
    SftpSource,
    SkillRegistrySource,
    Source,
)

log = structlog.get_logger(__name__)

GCS_ENDPOINT = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What the operator allows and knows."""

    limit_bytes: int = 1 << 30
    repository_limit_bytes: int = 500 << 20
    bucket_limit_bytes: int = 2 << 30
    max_members: int = 100_000
    timeout_s: float = 600.0
    reserve_bytes: int = 64 << 20
    at_once: int = 4
    """Environments whose sources are fetched at the same time; others wait."""
    exceptions: HostList = field(default_factory=HostList)
    denied: HostList = field(default_factory=HostList)
    own: OwnAddresses = field(default_factory=OwnAddresses)
    folders: Mapping[str, Path] = field(default_factory=dict)
    skills: SkillFolders = field(default_factory=SkillFolders)
    ssh: Mapping[str, SshProfile] = field(default_factory=dict)
    s3: Mapping[str, S3Profile] = field(default_factory=dict)
    known_hosts_file: Path | None = None
    ca_file: Path | None = None
    gcs_endpoint: str = GCS_ENDPOINT


class Fetcher:
    """Fetches sources into files below `folder`, which is emptied at `open`. `aclose` ends what is under way."""

    def __init__(
        self, folder: Path, clock: Clock, settings: SourceSettings | None = None, find: FindIn | None = None
    ) -> None:
        """Without `find` no credential can be had. Raises `ConfigError`."""
        self._find = find
        self._folder = folder
        self._clock = clock
        self._settings = settings if settings is not None else SourceSettings()
        try:
            self._gcs = Url.parse(self._settings.gcs_endpoint, ("https", "http"))
        except UrlProblem as error:
            raise ConfigError(f"setting 'sources.gcs_endpoint': {error}") from None
        # Threads of their own: a slow server must not keep others from theirs.
        self._threads = ThreadPoolExecutor(self._settings.at_once, thread_name_prefix="sources")
        self._runs: set[_Run] = set()

    async def open(self) -> None:
        """Removes what an earlier server has left."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def aclose(self) -> None:
        for run in list(self._runs):
            run.end("the server ends")
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    @asynccontextmanager
    async def fetched(self, spec: EnvironmentSpec, project_id: str = "") -> AsyncGenerator[Delivery, None]:
        """Everything that `spec` asks for, there for as long as the block lasts. Its rules may name credentials of the
        project, which are looked up once.

        May be repeated. Cancelled, it ends what it has begun, and what it has started.

        Raises:
            SourceFailed: one could not be had; it says which and why. Nothing is delivered.
        """
        policy = NetworkPolicy.of(spec.network, self._settings.exceptions, denied=self._settings.denied)
        dialer = Dialer(await armed(policy, project_id, self._find), own=self._settings.own)
        run = _Run(self._folder, self._settings, self._clock, self._gcs, spec, dialer)
        self._runs.add(run)
        task = self._threads.submit(run.fetch)
        working = asyncio.wrap_future(task)
        try:
            await asyncio.wait([working])
            yield working.result()
        finally:
            run.end("nobody waits for it any more")
            if not task.cancel():
                await asyncio.wait([working])
                working.exception()  # nobody may be left to be told
            self._runs.discard(run)
            await asyncio.to_thread(run.remove)


class _Run:
    """The sources of one environment, one after another, in one thread."""

    def __init__(
        self,
        folder: Path,
        settings: SourceSettings,
        clock: Clock,
        gcs: Url,
        spec: EnvironmentSpec,
        dialer: Dialer,
    ) -> None:
        self._dialer = dialer
        self._parent = folder
        self._settings = settings
        self._clock = clock
        self._gcs = gcs
        self._spec = spec
        self._folder: Path | None = None
        self._current: Fetch | None = None
        self._reason: str | None = None

    def end(self, reason: str) -> None:
        """From any thread."""
        self._reason = reason
        if (current := self._current) is not None:
            current.end(reason)

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def fetch(self) -> Delivery:
        self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=self._parent))
        links: list[Link] = []
        path = self._folder / "sources.tar"
        with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for index, source in enumerate(self._spec.sources):
                self._fetch_one(source, index, tar, links)
        return Delivery(path, tuple(links))

    def _fetch_one(self, source: Source, index: int, tar: tarfile.TarFile, links: list[Link]) -> None:
        assert self._folder is not None  # noqa: S101 - made before
        folder = self._folder / str(index)
        folder.mkdir()
        limits = self._limits(source)
        try:
            with Fetch(folder, limits) as fetch:
                self._current = fetch
                if self._reason is not None:
                    raise SourceFailed(self._reason)
                with fetch.faults():
                    self._carry_out(source, f"sources[{index}]", tar, links, fetch)
                fetch.check()
        except (SourceFailed, InvalidRequest) as error:
            # Servers' own words are in some reasons, and some servers repeat what they were sent.
            reason = echoes_of(self._dialer.policy).redacted(error.message.encode("utf-8", "backslashreplace")).decode()
            raise SourceFailed(f"source {index} ({source.type}) could not be fetched: {reason}") from None
        finally:
            self._current = None
            shutil.rmtree(folder, ignore_errors=True)
        log.info("source_fetched", index=index, type=source.type)

    def _limits(self, source: Source) -> FetchLimits:
        settings, max_members = self._settings, self._settings.max_members
        match source:
            case SkillRegistrySource():
                size_bytes, max_members = SKILL_LIMIT_BYTES, SKILL_MAX_MEMBERS
            case RepositorySource():
                size_bytes = settings.repository_limit_bytes
            case GcsSource() | S3Source():
                size_bytes = settings.bucket_limit_bytes
            case _:
                size_bytes = settings.limit_bytes
        return FetchLimits(size_bytes, max_members, settings.timeout_s, settings.reserve_bytes)

    def _carry_out(self, source: Source, at: str, tar: tarfile.TarFile, links: list[Link], fetch: Fetch) -> None:
        dialer = self._dialer

        def tree(target: str, **ways: bool) -> Tree:
            return Tree(tar, links, target, fetch, **ways)

        match source:
            case InlineSource():
                tree(source.path).add_only_file(BytesIO(source.data), len(source.data))
            case LocalSource():
                name, path = folder_of(source, at)
                if (root := self._settings.folders.get(name)) is None:
                    raise SourceFailed(f"the server has no folder {name!r}; the setting 'sources.folders' lists them")
                fetch_local(root, path, tree(source.path, folds_names=False), fetch)
            case SkillRegistrySource():
                skill = SkillTree(tar, links, source.path, fetch)
                self._settings.skills.fetch(source.source, source.sha256, skill, fetch)
            case SftpSource():
                url = sftp_url(source, at)
                profile = self._ssh_profile(source.profile, url)
                given = (source.host_key,) if source.host_key is not None else profile.host_keys if profile else ()
                keys = known_keys(url.host, url.port, given, self._settings.known_hosts_file)
                fetch_sftp(url, profile, keys, tree(source.path), fetch, dialer)
            case _:
                with contextlib.closing(HttpClient(dialer, tls_context(self._settings.ca_file), fetch.watch)) as client:
                    self._over_http(source, at, tree, fetch, client, dialer)

    def _over_http(
        self, source: Source, at: str, tree: Callable[..., Tree], fetch: Fetch, client: HttpClient, dialer: Dialer
    ) -> None:
        match source:
            case HttpSource():
                fetch_web(source, tree(source.path), fetch, client, at)
            case GcsSource():
                bucket, path = bucket_of(source, at)
                fetch_bucket(GcsBucket(client, self._gcs, bucket), path, tree(source.path), fetch)
            case S3Source():
                bucket, path = bucket_of(source, at)
                profile = self._s3_profile(source, bucket)
                region = source.region or (profile.region if profile is not None else None) or DEFAULT_REGION
                endpoint = s3_endpoint(source, at, region, profile.endpoint if profile is not None else None)
                s3 = S3Bucket(client, endpoint, bucket, region, profile, self._clock)
                fetch_bucket(s3, path, tree(source.path), fetch)
            case RepositorySource():
                url = repository_url(source, at)
                ssh = self._ssh_profile(source.profile, url)
                keys: tuple[str, ...] = ()
                if ssh is not None:
                    keys = known_keys(url.host, url.port, ssh.host_keys, self._settings.known_hosts_file)
                access = GitAccess(url, dialer, self._settings.ca_file, ssh, keys)
                as_it_is = tree(source.path, folds_names=False, may_link_out=True)
                fetch_repository(source, access, as_it_is, fetch, client)
            case _:
                raise SourceFailed("this server cannot fetch it")

    def _ssh_profile(self, name: str | None, url: Url) -> SshProfile | None:
        """The key is for its own server: whoever asks may name another one, and gets nothing."""
        if name is None:
            return None
        if (profile := self._settings.ssh.get(name)) is None:
            raise SourceFailed(f"the server has no profile {name!r}; the setting 'sources.ssh' has them")
        if (url.host, url.port) != (profile.host.lower(), profile.port):
            raise SourceFailed(f"the profile {name!r} is of another server than {url.authority}")
        if url.user not in ("", profile.user):
            raise SourceFailed(f"the profile {name!r} is of another user")
        return profile

    def _s3_profile(self, source: S3Source, bucket: str) -> S3Profile | None:
        if source.profile is None:
            return None
        if (profile := self._settings.s3.get(source.profile)) is None:
            raise SourceFailed(f"the server has no profile {source.profile!r}; the setting 'sources.s3' has them")
        if profile.buckets and bucket not in profile.buckets:
            raise SourceFailed(f"the profile {source.profile!r} is not for this bucket")
        if source.endpoint is not None:
            raise SourceFailed("where a profile is used, 'endpoint' is the profile's")
        return profile
