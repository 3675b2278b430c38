"""Sources of type `http`: a file, or an archive whose files are wanted. Blocking."""

from __future__ import annotations

import hashlib

from orchestrator.egress.http import Answer, HttpClient
from orchestrator.errors import SourceFailed
from orchestrator.policy.locations import web_url
from orchestrator.sources.archives import unpack
from orchestrator.sources.delivery import Tree
from orchestrator.sources.fetch import Fetch
from orchestrator.wire.sources import HttpSource

_ADVICE = {
    401: "it wants a login; a header can be given with 'transform' in 'network.allowlist'",
    403: "it may not be read as this caller",
    404: "there is nothing",
}


def fetch_web(source: HttpSource, tree: Tree, fetch: Fetch, client: HttpClient, at: str) -> None:
    """Raises `SourceFailed`, `NetworkError`."""
    digest = hashlib.sha256()
    with client.get(web_url(source, at)) as answer:
        check_status(answer)

        def read() -> bytes:
            piece = answer.read()
            digest.update(piece)
            return piece

        path = fetch.spool(read, "download")
    if source.sha256 is not None and digest.hexdigest() != source.sha256:
        raise SourceFailed(f"its SHA-256 is {digest.hexdigest()}, not the one that was asked for")
    if source.extract:
        unpack(path, tree, fetch)
    else:
        with path.open("rb") as file:
            tree.add_only_file(file, path.stat().st_size)


def check_status(answer: Answer) -> None:
    """Raises `SourceFailed` if a server did not answer with what was asked for."""
    if answer.status != 200:
        told = _ADVICE.get(answer.status)
        raise SourceFailed(f"{answer.url.shown} answered {answer.status}{f': {told}' if told else ''}")
