"""The composition root: builds every object from Settings and owns the order of start and stop. Knows everybody.

start   lock the data folder · store · generation · engine · runs that were left · listen
stop    no new requests, streams end · runs let go · links close · store

The stop has a time. What has not ended by then is left as a crash would leave it: the next server goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from orchestrator import ids, moments
from orchestrator.agents.catalogue import Catalogue
from orchestrator.agents.registry import AgentRegistry, shipped_folder
from orchestrator.agents.skill_registry import SkillRegistry
from orchestrator.api.application import create_application
from orchestrator.api.auth import Authenticator, is_loopback
from orchestrator.api.server import Server, bind
from orchestrator.api.services import Services
from orchestrator.clock import Clock, SystemClock
from orchestrator.config import EngineTlsSettings, S3Settings, Settings, SshSettings
from orchestrator.credentials.exchange import TokenExchange
from orchestrator.credentials.keys import GivenKeys, KeyFile, SealingKeys
from orchestrator.credentials.safekeeping import check_keys
from orchestrator.credentials.vault import Vault
from orchestrator.egress.addresses import OwnAddresses
from orchestrator.egress.audit import Audit
from orchestrator.egress.certificates import Authority
from orchestrator.egress.gate import GateLimits
from orchestrator.egress.gates import EgressSettings, Gates
from orchestrator.egress.http import tls_context
from orchestrator.egress.injection import FindIn
from orchestrator.egress.interception import Interception
from orchestrator.egress.posting import Poster
from orchestrator.errors import ConfigError
from orchestrator.models.providers import keys, open_registry
from orchestrator.models.recording import Recordings
from orchestrator.policy.bounds import Bounds, Maxima
from orchestrator.policy.limits import Limits
from orchestrator.policy.network import HostList
from orchestrator.runs.intake import Intake
from orchestrator.runs.replies import Replies
from orchestrator.runs.retention import Retention
from orchestrator.runs.slots import Slots
from orchestrator.runs.supervisor import Supervisor
from orchestrator.sandboxes.disks import Disks, can_use_disks, has_disks
from orchestrator.sandboxes.driver import SandboxDriver
from orchestrator.sandboxes.environments import Environments, SandboxDefaults
from orchestrator.sandboxes.pool import PoolSettings
from orchestrator.sandboxes.profiles import Profiles
from orchestrator.sandboxes.stages import StageSettings
from orchestrator.sandboxes.uploads import Uploads
from orchestrator.sources import Fetcher, S3Profile, SourceSettings, SshProfile
from orchestrator.store.lock import DataFolderLock
from orchestrator.store.port import Store
from orchestrator.store.sqlite import SqliteStore
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

DATABASE_NAME = "corral.db"
_INSTANCE_NAME = "instance"
_AUTHORITY_NAME = "authority.pem"
_FETCHING_NAME = "fetching"
_SEALING_KEYS_NAME = "sealing_keys"
_LISTENING_S = 1.5
"""Of the time to stop: until the listening socket is closed and all connections are."""
_LAST_S = 0.5
"""Of the time to stop: kept for a process that is ended from within."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. The process is over `settings.shutdown_timeout_s` later at the latest, whatever
    hangs: call this last.

    Raises:
        ConfigError: the settings do not allow a start.
    """
    import uvloop

    logs.configure(settings.log_level, settings.log_format)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        uvloop.run(_serve(settings))


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator[Store, None]:
    """The store of the data folder, beside a server that may be running on it."""
    await asyncio.to_thread(settings.data_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
    store = SqliteStore(settings.data_dir / DATABASE_NAME, SystemClock(), reserve_bytes=settings.disk_reserve_bytes)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def open_services(settings: Settings, driver: SandboxDriver | None = None) -> AsyncGenerator[Services, None]:
    """Everything below the HTTP surface, running. `driver` replaces the container engine (tests)."""
    clock = SystemClock()
    registry = await asyncio.to_thread(load_agents, settings)
    profiles = _profiles(settings)
    models = open_registry(settings)
    # A provider's module is imported at first use; better now than in the middle of the first run.
    await asyncio.to_thread(models.resolve)
    metrics = Metrics(models.named)
    limits = Limits(
        call_timeout_s=settings.call_timeout_s,
        output_limit_bytes=settings.output_limit_bytes,
        output_total_limit_bytes=settings.output_total_limit_bytes,
        run_timeout_s=settings.run_timeout_s,
        max_turns=settings.max_turns,
        max_repeats=settings.max_repeats,
        context_limit_tokens=settings.context_limit_tokens,
        max_asked_again=settings.max_asked_again,
        engine_patience_s=settings.engine_patience_s,
        denies_on_hook_failure=settings.hooks_on_failure == "deny",
    )
    own = OwnAddresses({settings.port} - {0})
    in_time = _Deadline(settings.shutdown_timeout_s - _LISTENING_S - _LAST_S)
    async with contextlib.AsyncExitStack() as stack:
        lock = DataFolderLock(settings.data_dir)
        await asyncio.to_thread(lock.acquire)
        stack.callback(lock.release)
        stack.push_async_callback(models.aclose)
        store = await stack.enter_async_context(open_store(settings))
        generation = await store.next_generation()
        if driver is None:
            driver = _docker(settings)
        skills = await asyncio.to_thread(_skills, settings)
        sealing = sealing_keys(settings)
        is_single_user = is_loopback(settings.host) and not await store.keys()
        await check_keys(sealing, store, is_single_user=is_single_user)
        exchange = _poster(settings, own)
        stack.push_async_callback(in_time.end, "token exchange", exchange.aclose, 0.25)
        credentials = Vault(store, sealing, TokenExchange(exchange), clock)
        stack.push_async_callback(in_time.end, "credentials", credentials.aclose, 0.5)
        fetching = settings.data_dir / _FETCHING_NAME
        fetcher = Fetcher(fetching, clock, _sources(settings, own, skills), credentials.found)
        stack.push_async_callback(in_time.end, "sources", fetcher.aclose, 0.75)
        await fetcher.open()
        gates = await _gates(settings, store, clock, own, credentials)
        if gates is not None:
            gates.open()
            stack.push_async_callback(in_time.end, "egress", gates.aclose, 0.5)
        environments = Environments(store, driver, clock, _defaults(settings, profiles), generation, fetcher, gates)
        agents = Catalogue(store, registry, clock, models.resolve, environments, skills)
        stack.push_async_callback(in_time.end, "sandboxes", environments.aclose, 0.75)
        await environments.open()
        poster = _poster(settings, own, credentials.found)
        stack.push_async_callback(in_time.end, "hooks", poster.aclose, 0.25)
        supervisor = Supervisor(
            store,
            environments,
            agents,
            models,
            limits,
            clock,
            generation=generation,
            slots=Slots(settings.max_concurrent_runs, settings.max_concurrent_runs_per_project),
            max_runs_per_project=settings.max_runs_per_project,
            metrics=metrics,
            poster=poster,
            recordings=Recordings(settings.cassettes, keys(settings)) if settings.record else None,
        )
        stack.callback(moments.passed, "stop.runs_let_go")
        stack.push_async_callback(in_time.end, "runs", supervisor.aclose, 0.5)
        await supervisor.open()
        replies = Replies(store, clock, generation, settings.retry_window_s)
        await replies.open()
        stack.push_async_callback(in_time.end, "answers", replies.aclose, 0.5)
        retention = Retention(
            store,
            supervisor,
            clock,
            retention_days=settings.retention_days,
            retry_window_s=settings.retry_window_s,
        )
        retention.open()
        stack.push_async_callback(in_time.end, "retention", retention.aclose, 0.5)
        intake = Intake(
            store,
            environments,
            supervisor,
            agents,
            models,
            clock,
            profiles,
            replies,
            credentials=credentials,
            generation=generation,
        )
        authenticator = Authenticator(store, clock, settings.host)
        uploads = Uploads(environments, clock)
        stack.push_async_callback(in_time.end, "uploads", uploads.aclose, 0.5)
        yield Services(
            store,
            agents,
            credentials,
            environments,
            uploads,
            supervisor,
            intake,
            replies,
            authenticator,
            metrics,
            settings.request_limit_bytes,
            own=own,
        )


def sealing_keys(settings: Settings) -> SealingKeys:
    """Where the keys are that credentials are sealed with. Raises `ConfigError`."""
    if settings.sealing_keys:
        return GivenKeys([key.get_secret_value() for key in settings.sealing_keys])
    return KeyFile(_expanded(settings.sealing_keys_file) or settings.data_dir / _SEALING_KEYS_NAME)


class _Deadline:
    """The time that the parts of a server have together to end, from the first one's end on."""

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self._ends_at: float | None = None

    async def end(self, part: str, close: Callable[[], Awaitable[None]], share: float) -> None:
        """Closes a part, but waits no longer than for its share of the time that is left."""
        now = asyncio.get_running_loop().time()
        if self._ends_at is None:
            self._ends_at = now + self._time_s
        closing = asyncio.ensure_future(close())
        await asyncio.wait([closing], timeout=max(0.0, self._ends_at - now) * share)
        if closing.done():
            return closing.result()
        closing.cancel()
        log.warning("stop_cut_short", part=part)


def _end_process() -> None:
    log.warning("stop_cut_short", part="process")
    os._exit(0)


async def _serve(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one

    def end_in_time() -> None:
        # A thread that waits for an engine keeps a process alive that has done everything else.
        ending = threading.Timer(settings.shutdown_timeout_s - _LAST_S, _end_process)
        ending.daemon = True
        ending.start()

    def stop_starting() -> None:
        _on_signal(lambda: None)  # a second one must not break into what the first one has begun
        end_in_time()
        task.cancel()

    def stop() -> None:
        end_in_time()
        services.closing.set()

    def stop_serving() -> None:
        server.should_exit = True

    _on_signal(stop_starting)
    async with open_services(settings) as services:
        if not is_loopback(settings.host) and not any(key.revoked is None for key in await services.store.keys()):
            raise ConfigError(
                f"setting 'host': {settings.host} can be reached by others, which needs API keys; "
                "make one with 'corral keys create'"
            )
        try:
            listening = bind(settings.host, settings.port)
        except OSError as error:
            raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        host, port = listening.getsockname()[:2]
        services.own.ports.add(port)
        server = Server(create_application(services), stop)
        log.info("server_listening", url=f"http://{host}:{port}", data_dir=str(settings.data_dir))
        # uvicorn puts its own handlers in place while it serves and raises the signal again when it is done: then this
        # one is harmless, and everything here is closed in order.
        _on_signal(stop_serving)
        await server.serve(sockets=[listening])
        moments.passed("stop.streams_ended")
    log.info("server_stopped")


def _on_signal(act: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)


def _docker(settings: Settings) -> SandboxDriver:
    from orchestrator.sandboxes.docker import DockerDriver, Tls

    instance = settings.instance or _instance(settings.data_dir)
    tls = Tls(**settings.engine_tls.model_dump()) if settings.engine_tls != EngineTlsSettings() else None
    folder = settings.data_dir / "engine"
    return DockerDriver(settings.engine_url, instance, choose_disks(settings), tls=tls, folder=folder)


def choose_disks(settings: Settings) -> Disks | None:
    """The disks that sandboxes get, or None: their files are in the engine's writable layers.

    Raises:
        ConfigError: disks are asked for, or hold the files of sandboxes already, and are impossible.
    """
    folder = settings.data_dir / "disks"
    has_some = has_disks(folder)
    reason = can_use_disks(settings.engine_url, has_some=has_some)
    if settings.storage == "auto" and has_some and reason:
        # In layers they would start without their files.
        raise ConfigError(
            f"the files of sandboxes are on disks in {folder}, which cannot be used: {reason}. "
            "With the setting storage = 'layers' the server starts without them"
        )
    if settings.storage == "layers" or (settings.storage == "auto" and reason):
        log.info("storage_layers", reason=reason or "as set")
        return None
    if reason:
        raise ConfigError(f"setting 'storage': no disks here: {reason}")
    return Disks(folder, settings.disk_pool_bytes)


def _instance(data_dir: Path) -> str:
    """This data folder's identity, made at its first start: the label on all that its server owns."""
    file = data_dir / _INSTANCE_NAME
    if not file.exists():
        # Whole or not at all: two servers with the same name would reap each other's sandboxes.
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{ids.new_sandbox_id()}\n", encoding="ascii")
        fresh.replace(file)
    name = file.read_text(encoding="ascii").strip()
    if not name:
        raise ConfigError(f"{file} is empty; remove it if no other server shares this engine, or put a name into it")
    return name


def load_agents(settings: Settings) -> AgentRegistry:
    """The agents of a server with these settings. Blocks on the disk. Raises `ConfigError`."""
    maxima = Maxima(**settings.maxima.model_dump())
    return AgentRegistry.load(
        own=settings.agents_dir, aliases=settings.agent_aliases, maxima=maxima, skills=_skills(settings)
    )


def _skills(settings: Settings) -> SkillRegistry:
    return SkillRegistry.of(_expanded(settings.skills_dir), shipped_folder("skills"))


def _profiles(settings: Settings) -> Profiles:
    return Profiles(settings.image, Bounds(runtime=settings.runtime, **settings.resources.model_dump()))


def _defaults(settings: Settings, profiles: Profiles) -> SandboxDefaults:
    pool = PoolSettings(
        size=settings.pool.size,
        max_size=max(settings.pool.size, settings.pool.max_size),
        refill_delay_s=settings.pool.refill_delay_s,
        memory_limit_bytes=settings.pool.memory_limit_bytes,
    )
    stages = StageSettings(**settings.lifecycle.model_dump())
    return SandboxDefaults(profiles.default, settings.max_environments_per_project, pool, stages)


def _host_lists(settings: Settings) -> tuple[HostList, HostList]:
    """What the operator opens, and what the operator closes."""
    return HostList.parse(settings.network_exceptions), HostList.parse(settings.network_denied, "network_denied")


def _poster(settings: Settings, own: OwnAddresses, find: FindIn | None = None) -> Poster:
    exceptions, denied = _host_lists(settings)
    return Poster(exceptions, _expanded(settings.sources.ca_file), denied=denied, own=own, find=find)


async def _gates(settings: Settings, store: Store, clock: Clock, own: OwnAddresses, credentials: Vault) -> Gates | None:
    """None: the operator lets nobody out."""
    if settings.sandbox_network == "none":
        return None
    allowed = EgressSettings(GateLimits(**settings.egress.model_dump()), *_host_lists(settings), own)
    authority = await asyncio.to_thread(Authority.open, settings.data_dir / _AUTHORITY_NAME, clock)
    tls = await asyncio.to_thread(tls_context, _expanded(settings.sources.ca_file))
    audit = Audit(store.note, clock, store.note_traffic)
    return Gates(allowed, audit, interceptor=Interception(authority, tls), find=credentials.found)


def _sources(settings: Settings, own: OwnAddresses, skills: SkillRegistry) -> SourceSettings:
    given = settings.sources
    exceptions, denied = _host_lists(settings)
    return SourceSettings(
        limit_bytes=given.limit_bytes,
        repository_limit_bytes=given.repository_limit_bytes,
        bucket_limit_bytes=given.bucket_limit_bytes,
        max_members=given.max_members,
        timeout_s=given.timeout_s,
        reserve_bytes=settings.disk_reserve_bytes,
        at_once=given.at_once,
        exceptions=exceptions,
        denied=denied,
        own=own,
        folders={name: folder.expanduser().absolute() for name, folder in given.folders.items()},
        skills=skills.folders,
        ssh={name: _ssh_profile(ssh) for name, ssh in given.ssh.items()},
        s3={name: _s3_profile(s3) for name, s3 in given.s3.items()},
        known_hosts_file=_expanded(given.known_hosts_file),
        ca_file=_expanded(given.ca_file),
        gcs_endpoint=given.gcs_endpoint,
    )


def _ssh_profile(ssh: SshSettings) -> SshProfile:
    password = ssh.password.get_secret_value() if ssh.password is not None else None
    return SshProfile(ssh.host, ssh.user, ssh.port, _expanded(ssh.key_file), password, ssh.host_keys)


def _s3_profile(s3: S3Settings) -> S3Profile:
    return S3Profile(
        s3.access_key_id,
        s3.secret_access_key.get_secret_value(),
        s3.session_token.get_secret_value() if s3.session_token is not None else None,
        s3.endpoint,
        s3.region,
        s3.buckets,
    )


def _expanded(path: Path | None) -> Path | None:
    return path.expanduser().absolute() if path is not None else None
