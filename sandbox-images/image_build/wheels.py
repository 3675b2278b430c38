"""The Python wheels of an image, fetched on the host with pip, so that a build needs neither index nor certificates."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from image_build.problem import BuildProblem

PYTHON_VERSION = "3.11"  # Debian bookworm's
GLIBC_MINORS = range(17, 37)
"""bookworm has glibc 2.36. Told a platform, pip takes only wheels that name it, so every older one is told too."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)$")


def pins(requirements: str) -> dict[str, str]:
    """Normalised name to version. Raises `BuildProblem` for a line that is not `name==version` or a comment."""
    found: dict[str, str] = {}
    for line in requirements.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _PIN.match(text)
        if match is None:
            raise BuildProblem(f"requirements.txt: {text!r} is not a pin.", "Write it as name==version.")
        found[normalised(match[1])] = match[2]
    return found


def normalised(name: str) -> str:
    """The one spelling of a package's name: lower case, single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(wanted: dict[str, str], wheel_names: Iterable[str]) -> list[str]:
    """The pins, as `name==version` in the order of `wanted`, for which there is no wheel among the file names."""
    present = set()
    for wheel_name in wheel_names:
        name, _, rest = wheel_name.removesuffix(".whl").partition("-")
        present.add((normalised(name), rest.partition("-")[0]))
    return [f"{name}=={version}" for name, version in wanted.items() if (name, version) not in present]


def selected(wanted: dict[str, str], wheel_paths: Iterable[Path]) -> list[Path]:
    """The wheels that belong to a pin; a folder that is kept over years holds old versions too."""
    return [path for path in wheel_paths if len(missing(wanted, [path.name])) < len(wanted)]


def download(requirements: Path, folder: Path, engine_arch: str) -> None:
    """Fetches the wheels of `requirements` into `folder`, for Debian's Python on `engine_arch` (`amd64`, `arm64`).

    May be repeated. Raises `BuildProblem` if pip cannot reach its index or there is no such wheel.
    """
    machine = MACHINES.get(engine_arch)
    if machine is None:
        known = ", ".join(sorted(MACHINES))
        raise BuildProblem(f"There is no recipe for the architecture {engine_arch!r}.", f"Use an engine on: {known}.")
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON_VERSION}", "--implementation=cp"]
    command += [f"--platform={platform}" for platform in platforms]
    command += [f"--requirement={requirements}", f"--dest={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        raise BuildProblem(
            f"The Python wheels cannot be downloaded: {errors[-1] if errors else 'pip says nothing'}.",
            "Check the network and pip's settings (`pip config list`), then run this again.",
        )
