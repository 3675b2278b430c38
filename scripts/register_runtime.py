"""Adds a container runtime to Docker's settings file, and leaves everything else in it as it is.

    register_runtime.py FILE NAME PATH [ARGUMENT...]

Exit code 0: it is there now. 1: the file is none of Docker's; nothing was changed, and the reason is said. Imports only
the standard library, since it also runs where Corral is not installed yet.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def register(file: Path, name: str, path: str, arguments: list[str]) -> None:
    """Adds runtime `name` unless the file has one of that name. May be repeated.

    Raises:
        ValueError: the file is not a JSON object, or its runtimes are none. OSError: it cannot be read or written.
    """
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(settings, dict) or not isinstance(settings.setdefault("runtimes", {}), dict):
        raise ValueError(f"{file} does not hold an object with runtimes")
    if name in settings["runtimes"]:
        return
    settings["runtimes"][name] = {"path": path, "runtimeArgs": arguments}
    file.parent.mkdir(parents=True, exist_ok=True)
    # The engine may read it at any moment: whole, or not at all.
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if file.exists():
        unfinished.chmod(file.stat().st_mode & 0o777)
    unfinished.replace(file)


def main() -> int:
    file, name, path, *arguments = sys.argv[1:]
    try:
        register(Path(file), name, path, arguments)
    except (OSError, ValueError) as error:
        print(f"{file} stays as it is: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
