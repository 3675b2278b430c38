"""Builds the sandbox images on the local engine, without any image registry: `build.py [base] [--force]`.

Three steps, each skipped if its result is there: the Debian underneath, the tools, the guest on top. An image is named
by the digest of its inputs; `latest` points to the newest. Owns the order of steps and the words on the terminal.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
sys.path[:0] = [str(HERE), str(PROJECT)]

from image_build import debian, inputs, wheels  # noqa: E402
from image_build.engine import ImageEngine  # noqa: E402
from image_build.problem import DISK_FULL, BuildProblem  # noqa: E402

WORK = PROJECT / "build" / "sandbox-images"
DEBIAN_TAG = "corral/debian:bookworm"
DEBIAN_UPSTREAM = "debian:bookworm-slim"
PULL_SILENCE_S = 6.0
IMAGES = ("base",)

_started = time.monotonic()


def say(text: str) -> None:
    """One line for people, with the seconds since the start."""
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", flush=True)


class ImageBuild:
    """One image, from its folder to its tags."""

    def __init__(self, engine: ImageEngine, name: str, *, network: str | None, force: bool) -> None:
        self._engine = engine
        self._folder = HERE / name
        self._inputs = inputs.read(self._folder)
        self._network = network
        self._force = force

    def run(self) -> None:
        """Makes what is missing and moves `latest`. May be repeated. Raises `BuildProblem`."""
        made, image_tag, latest_tag = self._inputs, self._inputs.image_tag, self._inputs.latest_tag
        present = self._engine.image_id(image_tag)
        if not self._force and present is not None and present == self._engine.image_id(latest_tag):
            say(f"{latest_tag} is up to date ({image_tag}).")
            return
        names = (DEBIAN_TAG, made.tools_tag, image_tag, latest_tag)
        former_ids = {former for name in names if (former := self._engine.image_id(name))}
        if self._force or self._engine.image_id(made.tools_tag) is None:
            self._make_debian()
            self._make_tools()
        if self._force or present is None:
            self._add_guest()
        self._engine.tag(image_tag, latest_tag)
        removed = self._engine.remove_superseded({image_tag, latest_tag, made.tools_tag}, former_ids)
        if removed:
            say(f"Removed what this replaces ({removed}).")
        say(f"{latest_tag} is ready: {image_tag}, {self._engine.size_bytes(image_tag) / 1e6:.0f} MB.")

    def _make_debian(self) -> None:
        if not self._force and self._engine.image_id(DEBIAN_TAG) is not None:
            return
        say(f"Debian: asking for {DEBIAN_UPSTREAM}.")
        if self._engine.pull(DEBIAN_UPSTREAM, PULL_SILENCE_S):
            self._engine.tag(DEBIAN_UPSTREAM, DEBIAN_TAG)
            return
        say("Debian: it cannot be pulled here; making the base with mmdebstrap, which takes about half a minute.")
        tar = WORK / "debian.tar"
        debian.bootstrap(tar, self._engine.arch, self._folder / "dpkg.conf")
        say(f"Debian: handing {tar.stat().st_size / 1e6:.0f} MB to the engine.")
        self._engine.import_tar(tar, DEBIAN_TAG)
        tar.unlink()

    def _make_tools(self) -> None:
        wanted = wheels.pins(self._inputs.tools[inputs.REQUIREMENTS].decode())
        folder = WORK / f"wheels-{self._engine.arch}"
        absent = wheels.missing(wanted, (path.name for path in folder.glob("*.whl")))
        if absent:
            say(f"Python: downloading {len(absent)} of {len(wanted)} wheels.")
            wheels.download(self._folder / inputs.REQUIREMENTS, folder, self._engine.arch)
        say("Tools: building.")
        context: dict[str, bytes | Path] = dict(self._inputs.tools)
        context |= {f"wheels/{path.name}": path for path in wheels.selected(wanted, folder.glob("*.whl"))}
        self._engine.build(self._inputs.tools_tag, context, network=self._network, fresh=self._force, say=say)

    def _add_guest(self) -> None:
        say(f"Guest: adding {self._inputs.guest_digest}.")
        context: dict[str, bytes | Path] = {"Dockerfile": self._inputs.guest_recipe}
        context |= {f"guest/{name}": content for name, content in self._inputs.guest.items()}
        arguments = {"TOOLS": self._inputs.tools_tag, "GUEST_DIGEST": self._inputs.guest_digest}
        tag, fresh = self._inputs.image_tag, self._force
        self._engine.build(tag, context, arguments=arguments, network="none", fresh=fresh, say=say)


@contextmanager
def only_one_build() -> Iterator[None]:
    """Waits until no other build of this checkout runs; two at once would remove each other's images."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another build is running; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    """The command. 0 when all images asked for are there, 1 with one line on standard error otherwise."""
    parser = argparse.ArgumentParser(description="Build the sandbox images on the local container engine.")
    parser.add_argument("image", nargs="*", metavar="IMAGE", help=f"of: {', '.join(IMAGES)} (default: all)")
    parser.add_argument("--force", action="store_true", help="build anew from today's Debian packages, nothing cached")
    parser.add_argument("--network", help="the engine's network for the build's commands, such as `host`")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.image) - set(IMAGES):
        parser.error(f"no such image: {', '.join(sorted(unknown))}")
    try:
        with only_one_build():
            engine = ImageEngine()
            for name in chosen.image or IMAGES:
                ImageBuild(engine, name, network=chosen.network, force=chosen.force).run()
    except BuildProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is built already stays", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: {DISK_FULL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
