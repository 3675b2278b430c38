"""The container engine as an image build sees it. The docker SDK and the shape of its errors stay in here."""

from __future__ import annotations

import errno
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from image_build.problem import DISK_FULL, BuildProblem, from_engine

STAGE_LABEL = "corral.stage"
"""On stages of a build that end in no image, so that they can be found and removed. Finished images have no such label:
whatever is made from them, a snapshot of somebody's sandbox too, would inherit it."""
BUILD_SILENCE_S = 900
"""A build step that prints nothing for so long is given up."""

SHOWN_LINES = 20
"""Of a step that failed, so many last lines are shown."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ImageEngine:
    """Docker, or Podman's compatible socket, found as the docker command finds it. Every method may be repeated.

    Problems of the engine leave as `BuildProblem`.
    """

    def __init__(self) -> None:
        with _translated():
            self._client: Any = docker.from_env(timeout=BUILD_SILENCE_S)
            self.arch: str = self._client.version()["Arch"]

    def image_id(self, tag: str) -> str | None:
        """The id behind `tag`, or `None` if there is no such image."""
        with _translated():
            try:
                return str(self._client.images.get(tag).id)
            except ImageNotFound:
                return None

    def size_bytes(self, tag: str) -> int:
        """What the image takes on disk, all layers together."""
        with _translated():
            return int(self._client.images.get(tag).attrs["Size"])

    def tag(self, source: str, target: str) -> None:
        """Lets `target` name the image that `source` names."""
        repository, _, version = target.rpartition(":")
        with _translated():
            self._client.images.get(source).tag(repository, version)

    def pull(self, reference: str, silence_s: float) -> bool:
        """Whether `reference` came from its registry. False on any refusal, and after `silence_s` without a word."""
        repository, _, version = reference.rpartition(":")
        try:
            impatient: Any = docker.from_env(timeout=silence_s)
            for event in impatient.api.pull(repository, version, stream=True, decode=True):
                if "error" in event:
                    return False
        except (DockerException, RequestException):
            return False
        return True

    def import_tar(self, tar: Path, tag: str) -> None:
        """Makes a root file system the image `tag`."""
        repository, _, version = tag.rpartition(":")
        with _translated():
            answer: str = self._client.api.import_image_from_file(str(tar), repository=repository, tag=version)
        for line in answer.splitlines():
            if line and "error" in (event := json.loads(line)):
                raise from_engine(event["error"])

    def build(
        self,
        tag: str,
        context: Mapping[str, bytes | Path],
        *,
        arguments: Mapping[str, str] | None = None,
        network: str | None = None,
        fresh: bool = False,
        say: Callable[[str], None],
    ) -> None:
        """Builds `tag` from the context's `Dockerfile`, one line to `say` per step.

        `context` maps a path in the context to its content, or to a file on the host. `network` is the engine's name
        of a network for the build's commands, `None` for its default. `fresh` uses no cached layer.
        """
        with _translated(), tempfile.TemporaryFile() as packed:
            pack(context, packed)
            packed.seek(0)
            events = self._client.api.build(
                fileobj=packed, custom_context=True, tag=tag, buildargs=dict(arguments or {}), network_mode=network,
                nocache=fresh, rm=True, forcerm=True, decode=True, timeout=BUILD_SILENCE_S,
            )  # fmt: skip
            said: list[str] = []
            for event in events:
                if "error" in event:
                    for line in said[-SHOWN_LINES:]:
                        say(f"    {line}")
                    raise from_engine(event["error"], "\n".join(said))
                for line in _ANSI.sub("", event.get("stream", "")).splitlines():
                    if step := re.match(r"(?i)step (\d+/\d+) : (.*)", line):
                        said.clear()
                        say(f"  {step[1]:>5}  {' '.join(step[2].split())[:90]}")
                    elif line.strip():
                        said.append(line)

    def remove_superseded(self, keep: set[str], former_ids: set[str]) -> int:
        """Removes the other versions of the repositories in `keep`, the images in `former_ids` that have no name any
        more, and leftover stages of builds.

        Images that a container or another image still uses stay. Returns how many names and images went.
        """
        repositories = {tag.rpartition(":")[0] for tag in keep}
        removed = 0
        with _translated():
            images = self._client.images.list()
            removed += sum(
                self._remove(tag)
                for image in images
                for tag in image.tags
                if tag.rpartition(":")[0] in repositories and tag not in keep
            )
            removed += sum(self._remove(image.id) for image in images if image.id in former_ids and not image.tags)
            stages = self._client.images.list(filters={"dangling": True, "label": STAGE_LABEL})
            removed += sum(self._remove(image.id) for image in stages)
        return removed

    def _remove(self, reference: str) -> bool:
        try:
            self._client.images.remove(reference)
        except ImageNotFound:
            return False
        except APIError as error:
            if error.status_code == 409:  # in use
                return False
            raise
        return True


def pack(context: Mapping[str, bytes | Path], target: Any) -> None:
    """Writes `context` as a tar to the binary file `target`; equal contexts give equal bytes. Modes are 0644."""
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in sorted(context):
            source = context[name]
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except APIError as error:
        raise from_engine(str(error.explanation or error)) from error
    except (DockerException, RequestException) as error:
        raise BuildProblem(
            "No container engine answers.",
            "Start Docker or Podman's socket, or set DOCKER_HOST; you may need to be in the group `docker`.",
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DISK_FULL from error
        raise
