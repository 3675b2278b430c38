"""Images of the engine: what it says of one, and what is in a folder of it. All calls block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import docker.errors

from orchestrator.sandboxes.docker.container import GUEST_LABEL, READER_LABEL
from orchestrator.sandboxes.docker.storage import Image


def look_at(api: Any, name: str, guest_digest: str) -> Image:
    """`api` is the SDK's low-level client, here and below."""
    found = api.inspect_image(name)
    labels = found["Config"].get("Labels") or {}
    volumes = tuple(found["Config"].get("Volumes") or ())
    return Image(str(found["Id"]), labels.get(GUEST_LABEL) == guest_digest, volumes, _layers(found))


def _layers(found: dict[str, Any]) -> tuple[str, ...]:
    graph = found.get("GraphDriver") or {}
    data = graph.get("Data") or {}
    if graph.get("Name") not in ("overlay2", "overlay") or not data.get("UpperDir"):
        return ()
    return (str(data["UpperDir"]), *(each for each in str(data.get("LowerDir") or "").split(":") if each))


def read_folder(api: Any, instance: str, image_id: str, path: str) -> Iterator[bytes] | None:
    """A tar of a folder of an image, read from a container that never starts; None if there is no such folder."""
    token = api.create_container(image_id, ["none"], labels={READER_LABEL: instance}, network_disabled=True)["Id"]
    try:
        pieces, _ = api.get_archive(token, path)
    except docker.errors.NotFound:
        api.remove_container(token, force=True)
        return None

    def read() -> Iterator[bytes]:
        try:
            yield from pieces
        finally:
            api.remove_container(token, force=True)

    return read()


def remove_readers(api: Any, instance: str) -> None:
    """What a crash left of `read_folder`."""
    for left in api.containers(all=True, filters={"label": f"{READER_LABEL}={instance}"}):
        api.remove_container(left["Id"], force=True)
