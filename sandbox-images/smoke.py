"""Checks a finished image from inside, as the agent sees it: `smoke.py [IMAGE]`. Prints a table.

The container has no network, no capability and the agent's uid; the guest does not run. Exit code 0 if all checks hold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from image_build import inputs, wheels  # noqa: E402

AGENT = "1000:1000"
LIFETIME_S = 300


@dataclass(frozen=True, slots=True)
class Check:
    """One shell script. It holds if it exits with 0 and prints `wanted`, wherever in its output that is."""

    name: str
    script: str
    wanted: str = ""
    user: str = AGENT


VERSIONS = """python - <<'END'
from importlib import metadata
import bs4, matplotlib.pyplot, numpy, pandas, requests, yaml
for name, version in {pins}.items():
    assert metadata.version(name) == version, f"{{name}} is {{metadata.version(name)}}, not {{version}}"
print("as pinned")
END"""

CHART = """cd /workspace && python - <<'END'
import matplotlib.pyplot as plt, pandas as pd
pd.DataFrame({"x": [1, 2], "y": [3, 5]}).plot(x="x", y="y", title="é")
plt.savefig("chart.png")
END
file chart.png"""

PIP_INSTALL = """cd /tmp && python - <<'END'
import zipfile
with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tiny.py", "ANSWER = 42")
    wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr("tiny-1.0.dist-info/RECORD", "")
END
pip install -q --no-index ./tiny-1.0-py3-none-any.whl && python -c 'import tiny; print(tiny.__file__, tiny.ANSWER)'"""

NPM_INSTALL = """mkdir -p /tmp/tiny && cd /tmp/tiny
echo '{"name": "tiny", "version": "1.0.0", "bin": {"tiny": "tiny.js"}}' > package.json
printf '#!/usr/bin/env node\\nconsole.log(6 * 7)\\n' > tiny.js
npm install --silent --offline --global . && command -v tiny && tiny"""

GIT = "set -e; git init -q /tmp/repo; cd /tmp/repo; touch a; git add a; git commit -qm first; git log --oneline"

ARCHIVES = """cd /tmp && echo corral > a && zip -q a.zip a && unzip -p a.zip && tar cJf a.tar.xz a && tar xOJf a.tar.xz
rsync -a a b && gawk '{print NR}' b"""

CURL_WGET = "set -e; curl -s file:///etc/hostname >/dev/null; curl -V | head -1; wget -V | head -1"
OTHERS = "set -e; tree --version; less -V | head -1; make -v | head -1; ssh -V 2>&1"
FOLDERS = "set -e; for at in /workspace /.agents ~; do touch $at/.t; rm $at/.t; done; echo ok"
GUEST = "ls /opt/corral/guest/*.py >/dev/null && ! touch /opt/corral/guest/x 2>&1"
# As root without capabilities: it owns the folders that the agent cannot look into.
SETUID = """found=$(find / -xdev -perm /6000 2>&1); echo "${found:-none}"; test -z "$found" """


def checks(pins: dict[str, str]) -> list[Check]:
    """All checks of the base image; `pins` is what its requirements say."""
    return [
        Check("agent's uid and home", 'id -u; echo "$HOME"; cd && pwd', "/home/agent"),
        Check("Python 3.11 of the venv", "command -v python; python -V", "Python 3.11"),
        Check("Python packages, first import", VERSIONS.format(pins=pins), "as pinned"),
        Check("Python packages, again", "python -c 'import pandas, matplotlib.pyplot'"),
        Check("chart to /workspace", CHART, "PNG image data"),
        Check("UTF-8", "python -c 'import sys; print(sys.stdout.encoding, chr(233))'", "utf-8 é"),
        Check("time zones", "TZ=Europe/Berlin date -d 2024-07-01T00:00Z +%H", "02"),
        Check("pip, offline", "pip --version", "/home/agent/.venv/"),
        Check("pip install without root", PIP_INSTALL, "42"),
        Check("node", "node -p '[1, 2].map(x => x * 21)[1]'", "42"),
        Check("npm", "npm --version; npm prefix --global", "/home/agent/.npm-global"),
        Check("npm install --global without root", NPM_INSTALL, "/home/agent/.npm-global/bin/tiny\n42"),
        Check("login shell keeps PATH", "bash -lc 'command -v python'", "/home/agent/.venv/bin/python"),
        Check("git", GIT, "first"),
        Check("rg and fd", "cd /workspace && rg --files && fd chart", "chart.png"),
        Check("jq", """echo '{"a": [1, 41]}' | jq '.a | add'""", "42"),
        Check("bc", "echo '6 * 7' | bc", "42"),
        Check("zip, tar, xz, rsync, gawk", ARCHIVES, "corral\ncorral\n1"),
        Check("curl and wget", CURL_WGET, "Wget"),
        Check("ps, lsof, htop", "ps -o user= -p 1 && lsof -v 2>&1 | grep revision: && htop --version", "agent"),
        Check("tree, less, make, ssh", OTHERS, "OpenSSH"),
        Check("folders are the agent's", FOLDERS, "ok"),
        Check("guest is there, not to be changed", GUEST, "denied"),
        Check("loopback is the only network", 'test "$(ls /sys/class/net)" = lo && echo lo', "lo"),
        Check("no setuid or setgid file", SETUID, "none", user="0"),
    ]


@contextmanager
def container_of(image: str) -> Iterator[Any]:
    """A running container of `image`, closed in as an agent is; removed at the end."""
    client: Any = docker.from_env()
    present = client.images.get(image)  # `run` alone would go and ask a registry
    container = client.containers.run(
        present.id, ["sleep", str(LIFETIME_S)], detach=True, init=True, user=AGENT, network_mode="none",
        cap_drop=["ALL"], security_opt=["no-new-privileges"],
    )  # fmt: skip
    try:
        yield container
    finally:
        container.remove(force=True)


def run(container: Any, check: Check) -> tuple[bool, float, str]:
    """Whether the check holds, how long it took in milliseconds, and what it printed."""
    started = time.monotonic()
    done = container.exec_run(["bash", "-c", check.script], user=check.user)
    output = done.output.decode(errors="replace").strip()
    holds = done.exit_code == 0 and check.wanted in output
    return holds, (time.monotonic() - started) * 1000, output


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Check a sandbox image from inside.")
    parser.add_argument("image", nargs="?", default="corral/base:latest")
    image = parser.parse_args().image
    all_checks = checks(wheels.pins((HERE / "base" / inputs.REQUIREMENTS).read_text()))
    width = max(len(check.name) for check in all_checks)
    failed = 0
    try:
        with container_of(image) as container:
            for check in all_checks:
                holds, took_ms, output = run(container, check)
                failed += not holds
                last = output.splitlines()[-1:] or [""]
                print(f"{'ok  ' if holds else 'FAIL'}  {check.name:<{width}}  {took_ms:6.0f} ms  {last[0][:70]}")
                if not holds:
                    print("\n".join(f"        {line}" for line in output.splitlines()))
    except ImageNotFound:
        print(f"error: There is no image {image}. Build it with build.py.", file=sys.stderr)
        return 1
    except DockerException as error:
        print(f"error: The engine did not run the container: {error}", file=sys.stderr)
        return 1
    print(f"{image}: {len(all_checks) - failed} of {len(all_checks)} checks hold.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
