"""Settings: what an operator can change, read once at start. Imports `errors` only.

Later wins: defaults, then `corral.toml`, then `CORRAL_*` variables, then what the caller of `Settings.load` passes
(command line options). The file is the one that `CORRAL_CONFIG` names, else `./corral.toml`, else
`<data_dir>/corral.toml`. Nested settings are tables in the file and double underscores in variables
(`CORRAL_RESOURCES__CPUS=4`). Nothing else in Corral reads the environment.

Constructing `Settings(...)` directly reads neither file nor environment; tests do that.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchestrator.errors import ConfigError

_PREFIX = "CORRAL_"
_NOT_SETTINGS = ("CORRAL_CONFIG", "CORRAL_TEST_", "CORRAL_BENCH_")
"""Variables of ours that are not settings: where the file is, and switches of tests and benchmarks."""
_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_SHIPPED_ALIASES = {
    "antigravity-preview-05-2026": "general",
    "antigravity-preview-09-2026": "general",
}
_SHIPPED_MODEL_ALIASES = dict.fromkeys(
    (
        "gemini-3.8-flash",
        "gemini-3.7-flash",
        "gemini-3.6-flash",
        "gemini-3.5-flash",
        "gemini-3.5-flash-lite",
        "gemini-3-flash-preview",
        "gemini-3-pro-preview",
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
    ),
    "default",
)

PROVIDER_KEYS: Mapping[str, tuple[str, ...]] = {
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "alibaba": ("ALIBABA_API_KEY", "DASHSCOPE_API_KEY"),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("CO_API_KEY",),
    "crusoe": ("CRUSOE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "google-cloud": (),
    "groq": ("GROQ_API_KEY",),
    "heroku": ("HEROKU_INFERENCE_KEY",),
    "huggingface": ("HF_TOKEN",),
    "litellm": (),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshotai": ("MOONSHOTAI_API_KEY",),
    "nebius": ("NEBIUS_API_KEY",),
    "ollama": (),
    "openrouter": ("OPENROUTER_API_KEY",),
    "ovhcloud": ("OVHCLOUD_API_KEY",),
    "sambanova": ("SAMBANOVA_API_KEY",),
    "together": ("TOGETHER_API_KEY",),
    "vercel": ("VERCEL_AI_GATEWAY_API_KEY",),
    "vllm": (),
    "xai": ("XAI_API_KEY",),
    "zai": ("ZAI_API_KEY",),
}
"""Kinds of providers of models, and the variables that other programs take their keys from, too."""
_PROVIDER_URLS = {"openai": ("OPENAI_BASE_URL",)}
_SAME_KINDS = {"grok": "xai", "google": "gemini", "google-vertex": "google-cloud", "vertex": "google-cloud"}
"""Other names of kinds that look like quite another one's."""
OWN_SERVERS = ("openai", "litellm", "ollama", "vllm")
"""Kinds of servers that are the operator's own, unless it is OpenAI itself."""

Positive = Annotated[int, Field(gt=0)]
Dollars = Annotated[Decimal, Field(ge=0)]


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/corral")
    return Path("~/.local/share/corral").expanduser()


class ResourceSettings(BaseModel):
    """What one sandbox may take."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    memory_bytes: Annotated[int, Field(ge=64 << 20)] = 2 << 30
    """Memory, swap included: there is none beyond it. At least 64 MiB."""
    cpus: Annotated[float, Field(gt=0)] = 2.0
    """CPU time per second, in CPUs; 0.5 is half of one."""
    pids: Annotated[int, Field(ge=32)] | None = None
    """Processes and threads at once. Unset: 1,024, and 4,096 under gVisor (`runsc`), whose own threads count."""
    open_files: Annotated[int, Field(ge=256)] = 8192
    """Open files per process."""
    disk_bytes: Annotated[int, Field(ge=64 << 20)] = 10 << 30
    """Disk: the workspace, the agent's home and everything else that outlives a command. `/tmp` is memory."""


class MaximaSettings(BaseModel):
    """What the definition of an agent may ask for at most; more stops the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    runtimes: tuple[str, ...] = ("runc", "runsc", "kata")
    """Container runtimes that an agent may choose, by the engine's names."""
    memory_bytes: Positive = 16 << 30
    """Memory of a sandbox."""
    cpus: Annotated[float, Field(gt=0)] = 16.0
    """CPUs of a sandbox."""
    pids: Positive = 8192
    """Processes and threads in a sandbox."""
    open_files: Positive = 1 << 20
    """Open files per process."""
    disk_bytes: Positive = 100 << 30
    """Disk of a sandbox."""
    call_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """Time of one tool call."""
    run_timeout_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """Time of one interaction."""
    output_limit_bytes: Positive = 16 << 20
    """Output kept of one call."""
    max_turns: Positive = 10_000
    """Model calls in one interaction."""


class PoolSettings(BaseModel):
    """Sandboxes that wait for environments, so that a launch takes milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    size: Annotated[int, Field(ge=0, le=1000)] = 2
    """How many wait at least, with the default limits; 0 switches the pool off. Sandboxes with other limits wait as
    long as the last minute saw launches of them."""
    max_size: Annotated[int, Field(ge=0, le=1000)] = 8
    """How many wait at most with the same limits, when the last minute saw many launches."""
    refill_delay_s: Annotated[float, Field(ge=0)] = 0.3
    """Quiet time after a launch before the next sandbox is made ready; starts take CPU from running calls."""
    memory_limit_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """What waiting sandboxes may take together, counted at 25 MiB each."""


class LifecycleSettings(BaseModel):
    """What becomes of environments that nobody uses. A use is a run, a terminal, a forwarded port, a watch, a fork."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    pause_after_s: Annotated[float, Field(ge=0)] = 300.0
    """Unused time after which a sandbox is frozen in memory, where the engine can; the next use goes on at once. 0
    switches it off."""
    stop_after_s: Annotated[float, Field(gt=0)] = 900.0
    """Unused time after which a sandbox is stopped: files are kept, memory is given back, the next use starts it
    again."""
    delete_after_s: Annotated[float, Field(ge=0)] = 7 * 24 * 3600.0
    """Unused time after which an environment is deleted with its files. 0 keeps it for ever."""
    sweep_interval_s: Annotated[float, Field(gt=0)] = 15.0
    """How often rows and engine are compared and what is due is done."""


class SshSettings(BaseModel):
    """How to log in at one SSH server, for files and for repositories."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str
    """The server; the key is shown to no other."""
    user: str
    """Whom to log in as."""
    port: Annotated[int, Field(gt=0, le=65535)] = 22
    """Its port."""
    key_file: Path | None = None
    """A private key without a passphrase."""
    password: SecretStr | None = None
    """For files only: git asks nobody."""
    host_keys: tuple[str, ...] = ()
    """Public keys of the server, `ssh-ed25519 AAAA…`. Unset: those of `sources.known_hosts_file`."""

    @model_validator(mode="after")
    def _has_one_way_in(self) -> Self:
        if (self.key_file is None) == (self.password is None):
            raise ValueError("give 'key_file' or 'password'")
        return self


class S3Settings(BaseModel):
    """Keys for buckets."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    access_key_id: str
    """The key's name."""
    secret_access_key: SecretStr
    """The key."""
    session_token: SecretStr | None = None
    """Of keys that end."""
    endpoint: str | None = None
    """The server. Unset: Amazon's."""
    region: str | None = None
    """Its region. Unset: `us-east-1`."""
    buckets: tuple[str, ...] = ()
    """The keys are used for no others. Unset: for all of that server."""


class SourceSettings(BaseModel):
    """What is fetched for environments, outside their sandboxes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    limit_bytes: Positive = 1 << 30
    """Largest source from a web or SSH server or a local folder, unpacked."""
    repository_limit_bytes: Positive = 500 << 20
    """Largest repository."""
    bucket_limit_bytes: Positive = 2 << 30
    """Largest source from a bucket."""
    max_members: Positive = 100_000
    """Files, folders and links in one source."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time for one source."""
    at_once: Annotated[int, Field(gt=0, le=64)] = 4
    """Environments whose sources are fetched at the same time; others wait."""
    folders: dict[str, Path] = Field(default_factory=dict)
    """Folders of this machine that anybody with a key may have in their sandboxes, `name = "/path"`; for sources of the
    type `local`."""
    ssh: dict[str, SshSettings] = Field(default_factory=dict)
    """Log-ins that sources may name as their `profile`, a table each: `[sources.ssh.NAME]` with `host`, `user`, `port`,
    `key_file` or `password`, and `host_keys`."""
    s3: dict[str, S3Settings] = Field(default_factory=dict)
    """Keys that sources may name as their `profile`, a table each: `[sources.s3.NAME]` with `access_key_id`,
    `secret_access_key`, `session_token`, `endpoint`, `region` and `buckets`."""
    known_hosts_file: Path | None = None
    """Host keys of SSH servers, as OpenSSH keeps them."""
    ca_file: Path | None = None
    """Certificates of authorities that are trusted beside the system's."""
    gcs_endpoint: str = "https://storage.googleapis.com"
    """Where sources of the type `gcs` are."""


class EgressSettings(BaseModel):
    """How much goes out of sandboxes, where it may."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    connections: Annotated[int, Field(ge=1, le=200)] = 100
    """Connections of one sandbox at once; more are turned away."""
    limit_bytes: Annotated[int, Field(ge=0)] = 0
    """What one environment may send and receive in its whole life; 0 sets no limit."""
    header_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Time for a request to be whole, from the connection on."""
    idle_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """So long nothing may go over a connection; then it is ended."""
    new_names: Annotated[int, Field(ge=1)] = 100
    """Hosts that an environment asks for the first time, at once; one more each second. Names can carry data out."""
    redact_bodies: bool = False
    """Replace injected secrets also in bodies of answers, not only in their headers. Such answers come unencoded."""


class EngineTlsSettings(BaseModel):
    """How to speak TLS with an engine at a `tcp://` address."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    ca: Path | None = None
    """Certificate of the authority that the engine's certificate must come from."""
    cert: Path | None = None
    """Certificate that this server shows the engine; needs `key`."""
    key: Path | None = None
    """Private key of `cert`."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("'cert' and 'key' go together")
        return self


class ProviderSettings(BaseModel):
    """A provider of models."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: str | None = None
    """How it is spoken to, by the name of a provider. Unset: as the table's name says."""
    api_key: SecretStr | None = None
    """The key to send."""
    base_url: str | None = None
    """Where it is. Unset: the provider's own address."""
    context_limit_tokens: Annotated[int, Field(ge=2_000)] | None = None
    """In place of the server's, for models that can read less, or are to read more."""


class PriceSettings(BaseModel):
    """What a model costs, in US dollars per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    input_mtok: Dollars
    """Input."""
    output_mtok: Dollars
    """Output, thoughts included."""
    cached_input_mtok: Dollars | None = None
    """Input that is read from a cache. Unset: as other input."""
    cache_write_mtok: Dollars | None = None
    """Input that is written to a cache. Unset: as other input."""


class Settings(BaseSettings):
    """Everything that an operator can set. Immutable."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__", use_attribute_docstrings=True
    )

    data_dir: Path = Field(default_factory=_default_data_dir)
    """Where the database and this server's identity live; made at first start, for its owner only."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs API keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one and prints it."""
    engine_url: str = "unix:///var/run/docker.sock"
    """The container engine: `unix://`, `tcp://` or `ssh://`. Unset: `DOCKER_HOST`, else the first socket of Docker or
    Podman that exists in its usual place."""
    engine_tls: EngineTlsSettings = Field(default_factory=EngineTlsSettings)
    """Unset: `ca.pem`, `cert.pem` and `key.pem` in `DOCKER_CERT_PATH`, where `DOCKER_TLS_VERIFY` is set."""
    engine_patience_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a tool call that runs waits for an engine that does not answer, before it counts as lost."""
    image: str = "corral/base:latest"
    """The image that sandboxes are made from."""
    instance: str | None = None
    """This server's identity, a label on all that it owns at the engine. Unset: made at first start and kept in the
    data folder. A server removes only what carries its own."""
    runtime: str = ""
    """The container runtime of sandboxes, by the engine's name: `runc`, `runsc`, `kata`. Empty: the engine's own."""
    resources: ResourceSettings = Field(default_factory=ResourceSettings)
    """Limits of each sandbox. An agent's definition may set its own."""
    maxima: MaximaSettings = Field(default_factory=MaximaSettings)
    """The server's own settings are not held by them."""
    pool: PoolSettings = Field(default_factory=PoolSettings)
    """Sandboxes that wait."""
    lifecycle: LifecycleSettings = Field(default_factory=LifecycleSettings)
    """Times of environments."""
    storage: Literal["auto", "disks", "layers"] = "auto"
    """Where the files of sandboxes are. `disks`: a disk for each, below the data folder, with a hard limit, and forks
    take milliseconds; needs root on the engine's machine. `layers`: the engine's writable layers, without a hard limit.
    `auto`: disks where they are possible."""
    disk_pool_bytes: Annotated[int, Field(ge=2 << 30)] | None = None
    """Size of the pool that holds all disks, where the data folder's file system cannot share blocks between files.
    Unset: four fifths of what is free at first start. It is sparse: it takes what sandboxes have written."""
    disk_reserve_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    """Space on the data folder's file system below which new work is refused, so that running work can end."""
    sources: SourceSettings = Field(default_factory=SourceSettings)
    """Sources that are fetched."""
    sandbox_network: Literal["open", "none"] = "open"
    """Whether programs in sandboxes reach anybody. `open`: whom their environment's `network` allows, everybody that is
    public if it says nothing. `none`: nobody, whatever it says."""
    egress: EgressSettings = Field(default_factory=EgressSettings)
    """Limits of what goes out."""
    network_exceptions: tuple[str, ...] = ()
    """What is not public but may be reached for environments, and by them, all the same: networks (`10.1.0.0/16`),
    addresses, hosts (`git.corp`, `*.corp`), the latter two also with a port (`git.corp:8443`). Whoever has a key can
    have it read."""
    network_denied: tuple[str, ...] = ()
    """What is reached neither for environments nor by them, whatever else is said; written in the same way."""
    sealing_keys: tuple[SecretStr, ...] = ()
    """Keys that credentials are sealed with in the database, 32 bytes in base64 each; the last seals, all open. Unset:
    those of `sealing_keys_file`."""
    sealing_keys_file: Path | None = None
    """A file of such keys, a line each, that only its owner may read. Unset: `sealing_keys` in the data folder, made at
    first start in single-user mode, and by `corral keys`."""
    shutdown_timeout_s: Annotated[float, Field(ge=1)] = 5.0
    """Time from SIGTERM to the end of the process. Runs that do not end in it go on at the next start."""
    call_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time one tool call may take."""
    output_limit_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Output kept of one call, head and tail; the rest is dropped and counted."""
    output_total_limit_bytes: Annotated[int, Field(ge=1024)] = 1 << 30
    """What one call may write at all; then it is stopped."""
    request_limit_bytes: Annotated[int, Field(ge=1024)] = 32 << 20
    """Largest request body."""
    run_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """Longest time one interaction may run; then it ends `incomplete`."""
    max_turns: Positive = 200
    """Model calls in one interaction; then it ends `incomplete`."""
    max_repeats: Annotated[int, Field(ge=2)] = 6
    """How often an agent may make the same failing call without a success in between; then the interaction ends
    `incomplete`. From the third time on the model is told."""
    max_asked_again: Annotated[int, Field(ge=0)] = 2
    """How often a model is asked again whose answer does not fit the `response_format`; then the interaction fails."""
    hooks_on_failure: Literal["allow", "deny"] = "allow"
    """What a hook of an environment counts as that crashes, takes too long or answers nonsense. `deny` also denies all
    calls where a `hooks.json` cannot be used."""
    context_limit_tokens: Annotated[int, Field(ge=2_000)] = 135_000
    """A conversation that is longer is shortened before its model is asked: old results keep their ends, then
    what is old is summarised. What was stored stays whole."""
    max_concurrent_runs: Positive = 64
    """Runs at once on this server; further ones wait: `priority` before `standard` before `flex` before `deferred`, and
    among equals those of the project that has the fewest."""
    max_concurrent_runs_per_project: Positive = 64
    """Runs of one project at once; further ones wait."""
    max_runs_per_project: Positive = 500
    """Interactions of one project that may run or wait at once; then new ones are refused with 429."""
    max_environments_per_project: Positive = 200
    """Environments that one project may have; then new ones are refused with 429."""
    model: str = "scripted"
    """The model that agents use unless they name one: `provider:model`, or `scripted`."""
    model_aliases: dict[str, str] = Field(default_factory=lambda: dict(_SHIPPED_MODEL_ALIASES))
    """Other names of models, `alias = "provider:model"`; `default` is the setting `model`. Adds to the built-in aliases
    of public names, which all lead there."""
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    """Where models come from, a table each: `[providers.NAME]` with `api_key`, `base_url` and `kind`, not needed where
    NAME is one. Models are then named `NAME:model`. Kinds are `gemini`, `openai`, `anthropic`; `alibaba`, `bedrock`,
    `cerebras`, `cohere`, `crusoe`, `deepseek`, `fireworks`, `google-cloud`, `groq`, `heroku`, `huggingface`, `litellm`,
    `mistral`, `moonshotai`, `nebius`, `ollama`, `openrouter`, `ovhcloud`, `sambanova`, `together`, `vercel`, `vllm`,
    `xai`, `zai`. Other servers that speak OpenAI's chat format, such as llama.cpp and gateways, are of the kind
    `openai`; they, `litellm`, `ollama` and `vllm` need a `base_url`. What tables with the name of a kind leave out is
    taken from its usual variable: `GEMINI_API_KEY` or `GOOGLE_API_KEY`, `OPENAI_API_KEY` and `OPENAI_BASE_URL`,
    `ANTHROPIC_API_KEY`, `DEEPSEEK_API_KEY` and so on, also where there is no table. `corral models list` shows what is
    missing."""
    model_prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """Prices of your own, a table each: `[model_prices."NAME:model"]`, or `"model"` for all providers that have it,
    with `input_mtok` and `output_mtok`, and where they differ `cached_input_mtok` and `cache_write_mtok`: US dollars
    per million tokens. They win over the public prices of Gemini, OpenAI, Anthropic and other known addresses, which
    come with the library `genai-prices` and are those of its release."""
    record: bool = False
    """Whether each interaction's exchanges with its model are written down, for replays without tokens. What is not to
    be stored (`store: false`) is not recorded."""
    cassettes_dir: Path | None = None
    """The folder of recordings: new ones go to `PROJECT/INTERACTION.jsonl` in it, and the models `replay:PATH` are
    files in it. Unset: `cassettes` in the data folder."""
    retention_days: Annotated[int, Field(ge=0)] = 55
    """Days after which ended interactions are deleted, where the project has no number of its own (`corral projects`).
    0 keeps them."""
    retry_window_s: Annotated[float, Field(ge=0)] = 300.0
    """For so long after its caller left without an answer an equal create call counts as that one's repetition."""
    agents_dir: Path | None = None
    """A folder of agents of your own, beside those that come with Corral; the same id replaces one."""
    skills_dir: Path | None = None
    """A folder of skills of your own, beside those that come with Corral; the same name replaces one. For sources of
    the type `skill_registry`: anybody with a key may have them."""
    agent_aliases: dict[str, str] = Field(default_factory=lambda: dict(_SHIPPED_ALIASES))
    """Other names of agents, `alias = "agent id"`. Adds to the built-in aliases of public names."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least urgent lines that are logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`json`, one object per line; `console`, for people; `auto`, by whether standard error is a terminal."""
    url: str | None = None
    """Command line only: the server to talk to. Unset: `http://<host>:<port>`."""
    api_key: SecretStr | None = None
    """Command line only: the API key to send."""

    @field_validator("data_dir", mode="after")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("agent_aliases", mode="after")
    @classmethod
    def _keep_shipped_aliases(cls, value: dict[str, str]) -> dict[str, str]:
        return {**_SHIPPED_ALIASES, **value}

    @field_validator("model_aliases", mode="after")
    @classmethod
    def _keep_shipped_model_aliases(cls, value: dict[str, str]) -> dict[str, str]:
        return {**_SHIPPED_MODEL_ALIASES, **value}

    @field_validator("providers", mode="after")
    @classmethod
    def _name_providers(cls, value: dict[str, ProviderSettings]) -> dict[str, ProviderSettings]:
        for name, provider in value.items():
            if not _PROVIDER_NAME.fullmatch(name) or name in ("scripted", "replay", "default"):
                raise ValueError(f"{name!r} cannot be the name of a provider")
            kind = provider.kind or name
            if kind not in PROVIDER_KEYS:
                closest = _closest(_SAME_KINDS.get(kind, kind), list(PROVIDER_KEYS))
                if provider.kind is None:
                    raise ValueError(f"{name!r} needs a 'kind'; most servers speak openai{closest}")
                raise ValueError(f"the 'kind' of {name!r}, {kind!r}, is not known{closest}")
            if kind in OWN_SERVERS and (kind, name) != ("openai", "openai") and provider.base_url is None:
                raise ValueError(f"{name!r} needs a 'base_url'")
            if provider.base_url is not None and not provider.base_url.startswith(("http://", "https://")):
                raise ValueError(f"the 'base_url' of {name!r} must begin with http:// or https://")
        return value

    @field_validator("model_prices", mode="after")
    @classmethod
    def _refuse_prices_of_scripts(cls, value: dict[str, PriceSettings]) -> dict[str, PriceSettings]:
        if any(name.partition(":")[0] == "scripted" for name in value):
            raise ValueError("the scripted model costs nothing; a script can say what a turn of it is to cost")
        return value

    @property
    def cassettes(self) -> Path:
        """The folder of recordings."""
        return (self.cassettes_dir or self.data_dir / "cassettes").expanduser().absolute()

    @property
    def server_url(self) -> str:
        """Where the command line finds the server, without a trailing slash."""
        if self.url is not None:
            return self.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compares, does not bind
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """The settings in force: defaults, file, variables, then `overrides` that are not None.

        Raises:
            ConfigError: a file cannot be read, or a setting is unknown or has a value that is not allowed. The message
                names each one, where it was set, and the closest known name.
        """
        given = {key: value for key, value in overrides.items() if value is not None}
        variables = _variables(cls)
        file = _file(given.get("data_dir") or variables.get("data_dir") or _default_data_dir())
        document = _read(file) if file is not None else {}
        merged = _merge(_merge(document, variables), given)
        if "engine_url" not in merged:
            merged["engine_url"] = _find_engine()
        merged = _merge(_usual_providers(), merged)
        if "engine_tls" not in merged and (tls := _find_engine_tls()):
            merged["engine_tls"] = tls
        try:
            return cls(**merged)
        except ValidationError as error:
            origins = ((given, "given"), (variables, "variable"), (document, str(file)))
            raise ConfigError("; ".join(_explain(cls, error, origins))) from error


def _usual_providers() -> dict[str, Any]:
    """The table `providers` as far as the variables that other programs know say it."""
    found: dict[str, dict[str, str]] = {}
    for field, variables in (("api_key", PROVIDER_KEYS), ("base_url", _PROVIDER_URLS)):
        for provider, names in variables.items():
            value = next((value for name in names if (value := os.environ.get(name))), None)
            if value is not None:
                found.setdefault(provider, {})[field] = value
    return {"providers": found} if found else {}


def _variables(cls: type[Settings]) -> dict[str, Any]:
    """The settings that CORRAL_* variables give, by field name."""
    known = [f"{_PREFIX}{name.upper()}" for name in cls.model_fields]
    for name in os.environ:
        base = name.partition("__")[0]
        if name.startswith(_PREFIX) and not name.startswith(_NOT_SETTINGS) and base not in known:
            raise ConfigError(f"unknown variable {name}{_closest(base, known)}")
    try:
        return EnvSettingsSource(cls)()
    except SettingsError as error:
        raise ConfigError(f"variables {_PREFIX}*: {error}") from error


def _file(data_dir: str | os.PathLike[str]) -> Path | None:
    """The settings file: one that was asked for, whether it exists or not, else one that exists in its usual places."""
    if named := os.environ.get("CORRAL_CONFIG"):
        return Path(named).expanduser()
    candidates = (Path("corral.toml"), Path(data_dir).expanduser() / "corral.toml")
    return next((path for path in candidates if path.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _find_engine() -> str:
    if named := os.environ.get("DOCKER_HOST"):
        return named
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    sockets = (
        Path("/var/run/docker.sock"),
        own / "docker.sock",
        own / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    )
    # A socket that we may not write is somebody else's engine; the first place is the best guess for the message.
    usable = (path for path in sockets if os.access(path, os.W_OK))
    return f"unix://{next(usable, sockets[0])}"


def _find_engine_tls() -> dict[str, Path] | None:
    if not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or "~/.docker").expanduser()
    return {name: folder / f"{name}.pem" for name in EngineTlsSettings.model_fields}


def _explain(
    cls: type[Settings], error: ValidationError, origins: tuple[tuple[Mapping[str, Any], str], ...]
) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        path = ".".join(str(part) for part in fault["loc"])
        origin = _origin([str(part) for part in fault["loc"]], origins)
        if fault["type"] == "extra_forbidden":
            known = _known(cls, fault["loc"][0])
            yield f"unknown setting {path!r} ({origin}){_closest(str(fault['loc'][-1]), known)}"
        else:
            yield f"setting {path!r} ({origin}): {fault['msg']}"


def _known(cls: type[Settings], name: int | str) -> list[str]:
    """The settings of the table `name`, or all if it is no table."""
    field = cls.model_fields.get(str(name))
    table = field.annotation if field is not None else None
    return list(table.model_fields if isinstance(table, type) and issubclass(table, BaseModel) else cls.model_fields)


def _origin(path: list[str], origins: tuple[tuple[Mapping[str, Any], str], ...]) -> str:
    for values, name in origins:
        node: Any = values
        for part in path:
            if not isinstance(node, Mapping) or part not in node:
                break
            node = node[part]
        else:
            return f"variable {_PREFIX}{'__'.join(path).upper()}" if name == "variable" else name
    return "default"


def _closest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", closest known name: {matches[0]}" if matches else ""
