"""The Debian root file system under every image: which mirrors, and mmdebstrap. Touches the host; knows no engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from image_build.problem import DISK_FULL, BuildProblem

SUITE = "bookworm"
SUITES = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
FULL_BELOW_BYTES = 64 << 20
"""mmdebstrap fails on a full disk without naming it; less room than this is taken as the reason."""


def is_bookworm(os_release: str) -> bool:
    """Whether the text of `/etc/os-release` is that of Debian bookworm, whose mirrors fit our base."""
    facts = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return facts.get("ID", "").strip('"') == "debian" and facts.get("VERSION_CODENAME", "").strip('"') == SUITE


def source_lines(sources: Iterable[str]) -> list[str]:
    """The mirrors for our base, as `deb URI SUITE main` lines, from the texts of a bookworm host's apt sources.

    Of each suite the first HTTP mirror that has `main` is taken. Empty if no text names bookworm itself, or none its
    security updates: then mmdebstrap's own choice, which has them, is better.
    """
    chosen: dict[str, str] = {}
    for text in sources:
        for uri, suite, components in _entries(text):
            if suite in SUITES and "main" in components and urlsplit(uri).scheme in ("http", "https"):
                chosen.setdefault(suite, f"deb {uri.rstrip('/')} {suite} main")
    if SUITE not in chosen or f"{SUITE}-security" not in chosen:
        return []
    return [chosen[suite] for suite in SUITES if suite in chosen]


def _entries(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """(URI, suite, components) of every binary source, from either of apt's two formats."""
    if any(line.lower().startswith("types:") for line in text.splitlines()):
        yield from _stanzas(text)
        return
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        if len(words) > 1 and words[1].startswith("["):
            end = next((place for place, word in enumerate(words) if word.endswith("]")), len(words))
            words = words[:1] + words[end + 1 :]
        if len(words) >= 4:
            yield words[1], words[2], words[3:]


def _stanzas(text: str) -> Iterator[tuple[str, str, list[str]]]:
    stanza: dict[str, list[str]] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if line[:1].isspace() and line.strip():
            stanza.setdefault(key, []).extend(line.split())
        elif line.strip():
            name, _, value = line.partition(":")
            key = name.strip().lower()
            stanza[key] = value.split()
        else:
            if "deb" in stanza.get("types", []) and stanza.get("enabled", ["yes"]) != ["no"]:
                for uri in stanza.get("uris", []):
                    for suite in stanza.get("suites", []):
                        yield uri, suite, stanza.get("components", [])
            stanza = {}


def host_source_lines(root: Path = Path("/")) -> list[str]:
    """`source_lines` of the host under `root`; empty unless it is Debian bookworm."""
    os_release = root / "etc/os-release"
    if not os_release.is_file() or not is_bookworm(os_release.read_text()):
        return []
    folder = root / "etc/apt/sources.list.d"
    paths = [root / "etc/apt/sources.list", *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    return source_lines(path.read_text() for path in paths if path.is_file())


def bootstrap(tar: Path, engine_arch: str, dpkg_conf: Path) -> None:
    """Writes a minimal bookworm with its security updates to `tar`, without the files that `dpkg_conf` excludes.

    Installs mmdebstrap on the host first if it is missing and we are root. Raises `BuildProblem`.
    """
    _require_mmdebstrap()
    tar.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "--format=tar"),
        *(f"--architectures={engine_arch}", f"--dpkgopt={dpkg_conf}", SUITE, str(tar), *host_source_lines()),
    ]
    exit_code, said = _run_apart(command)
    if exit_code == 0:
        return
    is_full = any(shutil.disk_usage(at).free < FULL_BELOW_BYTES for at in (tar.parent, tempfile.gettempdir()))
    tar.unlink(missing_ok=True)
    if is_full:
        raise DISK_FULL
    errors = [line.removeprefix("E: ") for line in said.splitlines() if line.startswith("E: ")]
    raise BuildProblem(
        f"mmdebstrap could not make the base: {errors[0] if errors else f'exit code {exit_code}'}.",
        "Check that Debian's mirror can be reached, and that the package debian-archive-keyring is installed.",
    )


def _run_apart(command: list[str]) -> tuple[int, str]:
    """Exit code and standard error. In a process group of its own: mmdebstrap (1.3.5) kills its group when it fails."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)  # the terminal no longer does; it removes its folder and ends
            raise
    return process.returncode, said


def _require_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    absent = "debian:bookworm-slim cannot be pulled, and mmdebstrap, which makes the base instead, is missing."
    packages = ("mmdebstrap", "debian-archive-keyring")
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BuildProblem(absent, f"Run `sudo apt-get install {' '.join(packages)}`, then this again.")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=quiet, capture_output=True, check=False)
        if done.returncode != 0:
            raise BuildProblem(absent, f"`apt-get {arguments[0]}` failed too; see why, then run this again.")
