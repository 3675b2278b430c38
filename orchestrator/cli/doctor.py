"""`corral doctor`: what the server needs on this machine, whether it is there, and what to do where it is not."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from orchestrator.cli.client import JsonFlag
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import console, neutralise, print_json, size
from orchestrator.errors import ConfigError, CorralError, EngineUnavailable

if TYPE_CHECKING:
    from orchestrator.config import Settings
    from orchestrator.sandboxes.driver import DriverInfo

_ENGINE_TIMEOUT_S = 10.0
_SPACE_NEEDED_BYTES = 1 << 30
_SPACE_WANTED_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Literal["ok", "warning", "broken"]
    found: str
    advice: str = ""
    """What to do; empty if nothing."""


def doctor(as_json: JsonFlag = False) -> None:
    """Check what the server needs: engine, image, data folder, models, port. Exit code 1 if something is broken."""
    checks = list(_examine())
    is_broken = any(check.verdict == "broken" for check in checks)
    if as_json:
        print_json({"ok": not is_broken, "checks": [asdict(check) for check in checks]})
    else:
        _show(checks)
    raise typer.Exit(Exit.FAILED if is_broken else Exit.OK)


def _examine() -> Iterator[Check]:
    import asyncio

    from orchestrator.config import Settings

    try:
        settings = Settings.load()
    except ConfigError as error:
        yield Check("settings", "broken", error.message, "correct it; nothing else was checked")
        return
    yield Check("settings", "ok", f"server at {settings.server_url}")
    yield from asyncio.run(_engine(settings))
    yield _data_folder(settings.data_dir)
    yield _sealing(settings)
    yield _storage(settings)
    yield _models(settings)
    yield _agents(settings)
    yield _sources()
    yield _port(settings)


async def _engine(settings: Settings) -> list[Check]:
    with tempfile.TemporaryDirectory() as folder:
        return await _look(settings, Path(folder))


async def _look(settings: Settings, folder: Path) -> list[Check]:
    import asyncio

    from orchestrator.sandboxes.docker import DockerDriver, Tls

    certificates = settings.engine_tls.model_dump(exclude_none=True)
    tls = Tls(**certificates) if certificates else None
    driver = DockerDriver(settings.engine_url, "doctor", tls=tls, folder=folder)
    try:
        async with asyncio.timeout(_ENGINE_TIMEOUT_S):
            info = await driver.open()
            found = reach(f"{info.engine} at {settings.engine_url}", settings.engine_url, has_tls=tls is not None)
            checks = [found, *escapes(info), runtimes(info)]
            if not await driver.has_image(settings.image):
                return [*checks, Check("image", "broken", f"{settings.image} is not on the engine", "make images")]
            if not await driver.has_current_guest(settings.image):
                outdated = f"{settings.image} carries another version of the guest"
                return [*checks, Check("image", "warning", outdated, "make images: until then each start takes longer")]
            return [*checks, Check("image", "ok", settings.image)]
    except TimeoutError:
        fault = f"{settings.engine_url} did not answer within {_ENGINE_TIMEOUT_S:.0f} s"
    except EngineUnavailable as error:
        fault = error.message
    except CorralError as error:
        return [Check("engine", "broken", error.message, "see the engine's own log")]
    finally:
        await driver.aclose()
    advice = "start Docker or Podman (scripts/engine.sh ensure does, as root), or set CORRAL_ENGINE_URL"
    return [Check("engine", "broken", fault, advice)]


def reach(found: str, engine_url: str, *, has_tls: bool) -> Check:
    """Who else can command the engine. One on another machine is refused without SSH or TLS."""
    if not engine_url.startswith("tcp://") or has_tls:
        return Check("engine", "ok", found)
    advice = "use its Unix socket, ssh://, or TLS (CORRAL_ENGINE_TLS__CA, __CERT, __KEY)"
    return Check("engine", "warning", f"{found}, without TLS: whoever is on this machine is root through it", advice)


def runtimes(info: DriverInfo) -> Check:
    """What sandboxes can be run with, besides the engine's own choice."""
    names = [name for name in info.runtimes if not name.startswith("io.containerd.")]
    found = ", ".join(names) or "only the engine's own"
    if "runsc" in names:
        return Check("runtimes", "ok", found)
    advice = "for gVisor, which keeps sandboxes off the machine's kernel: install runsc, then scripts/engine.sh ensure"
    return Check("runtimes", "ok", found, advice)


def escapes(info: DriverInfo) -> list[Check]:
    """What the engine's runc is known to let out."""
    from orchestrator.sandboxes.escapes import ESCAPES, Exposure, exposure

    version, revision = info.details.get("runc", ""), info.details.get("runc.revision", "")
    if not version:
        return [Check("runtime", "warning", "the engine does not report a runc", "check its runtime's advisories")]
    name = f"runc {revision if revision.startswith(version) else version}"
    checks = []
    for escape in ESCAPES:
        cves = ", ".join(escape.cves)
        match exposure(escape, version, revision):
            case Exposure.OPEN:
                checks.append(
                    Check("runtime", "broken" if escape.is_grave else "warning", f"{name} has {cves}", escape.advice)
                )
            case Exposure.UNKNOWN:
                advice = "look these up in your distribution's security tracker"
                checks.append(Check("runtime", "warning", f"cannot tell whether {name} has {cves} mended", advice))
    return checks or [Check("runtime", "ok", f"{name}, without known escapes")]


def _data_folder(folder: Path) -> Check:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = "give yourself the right to write there, or set CORRAL_DATA_DIR"
        return Check("data folder", "broken", f"{existing}: {error.strerror}", advice)
    free = shutil.disk_usage(existing).free
    found = f"{folder}{'' if existing == folder else ' (made at first start)'}, {size(free)} free"
    if free < _SPACE_NEEDED_BYTES:
        return Check("data folder", "broken", found, "make room: at least 1 GB, better 5")
    return Check("data folder", "ok" if free >= _SPACE_WANTED_BYTES else "warning", found)


def _storage(settings: Settings) -> Check:
    from orchestrator.sandboxes.disks import can_share_blocks, can_use_disks, has_disks

    layers = "sandboxes write into the engine's layers, without a hard limit"
    if settings.storage == "layers":
        return Check("storage", "warning", f"{layers}, as set", "set CORRAL_STORAGE=auto")
    if reason := can_use_disks(settings.engine_url, has_some=has_disks(settings.data_dir / "disks")):
        advice = "run the server as root on the engine's machine"
        if settings.storage == "disks":
            return Check("storage", "broken", f"CORRAL_STORAGE=disks is not possible: {reason}", advice)
        return Check("storage", "warning", f"{layers}: {reason}", advice)
    limit = f"a disk of {size(settings.resources.disk_bytes)} for each sandbox"
    if not can_share_blocks(settings.data_dir / "disks"):
        return Check("storage", "warning", f"{limit}; forks copy all of it", "install xfsprogs")
    return Check("storage", "ok", f"{limit}; forks share its blocks")


def _models(settings: Settings) -> Check:
    from orchestrator.models.providers import open_registry

    try:
        registry = open_registry(settings)
    except ConfigError as error:
        return Check("models", "broken", error.message, "set CORRAL_MODEL to a model of a provider that is there")
    found = f"providers: {', '.join(registry.providers)}; default: {registry.default}"
    if registry.default.partition(":")[0] == "scripted":
        found += " (plays scripts and code blocks of the input, without a language model)"
        return Check(
            "models", "ok", found, "for a real model: corral models list says what to set, then set CORRAL_MODEL"
        )
    return Check("models", "ok", found)


def _agents(settings: Settings) -> Check:
    from orchestrator.app import load_agents

    try:
        registry = load_agents(settings)
    except ConfigError as error:
        return Check("agents", "broken", error.message, "correct the file or the alias")
    return Check("agents", "ok", ", ".join(agent.id for agent in registry.agents))


def _sealing(settings: Settings) -> Check:
    from orchestrator.app import sealing_keys
    from orchestrator.credentials.keys import KeyFile

    try:
        keys = sealing_keys(settings)
        if isinstance(keys, KeyFile) and not keys.exists():
            return Check("sealing", "ok", "no sealing key yet: made at the first start")
        ring = keys.ring()
    except ConfigError as error:
        return Check("sealing", "broken", error.message, "docs/operations.md has what to do about sealing keys")
    return Check("sealing", "ok", f"sealing key {ring.newest.id}, and {len(ring.ids) - 1} older")


def _sources() -> Check:
    from orchestrator.sources.repository import has_git

    if has_git():
        return Check("sources", "ok", "git is there, for sources of the type repository")
    advice = "install git (apt-get install git); all other types of sources work without it"
    return Check("sources", "warning", "no git: sources of the type repository fail", advice)


def _port(settings: Settings) -> Check:
    place = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if _is_server(settings):
                    return Check("port", "ok", f"a server runs at {place}")
                return Check("port", "broken", f"{place} is taken by another program", "set CORRAL_PORT, or stop it")
            advice = "set CORRAL_HOST and CORRAL_PORT to an address of this machine that you may use"
            return Check("port", "broken", f"{place}: {error.strerror or error}", advice)
    return Check("port", "ok", f"{place} is free")


def _is_server(settings: Settings) -> bool:
    from orchestrator.cli.client import Api

    try:
        with Api(settings.server_url, None) as api:
            api.call("GET", "/healthz", timeout=2.0)
    except CorralError:
        return False
    return True


def _show(checks: list[Check]) -> None:
    from rich.text import Text

    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red")}
    out = console()
    for check in checks:
        mark, style = marks[check.verdict]
        out.print(Text.assemble((mark, style), f" {check.name:<12} {neutralise(check.found)}"))
        if check.advice:
            out.print(Text.assemble("  ", " " * 12, " ", (f"→ {check.advice}", style)))
