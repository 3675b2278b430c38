"""Lists of images that an engine cannot give at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import docker
import docker.errors
import pytest

from orchestrator.sandboxes.docker import storage
from tests.fakes.web_server import WebServer, answer


class Listing:
    """Answers as Podman does while an image is being removed: `failures` times, then with one snapshot."""

    def __init__(self, failures: int, status: int = 500) -> None:
        self.asked = 0
        self._failures = failures
        self._status = status

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        if self.asked <= self._failures:
            answer(request, b'{"message": "image not known"}', status=self._status, Content_Type="application/json")
        else:
            tags = ["localhost/corral/snapshot:i1-kept"]
            answer(
                request, json.dumps([{"Id": "sha256:1", "RepoTags": tags}]).encode(), Content_Type="application/json"
            )


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def layers(web: WebServer, listing: Listing) -> storage.LayerStorage:
    web.pages["/v1.41/images/json"] = listing
    engine: Any = docker.APIClient(base_url=web.url, version="1.41")
    return storage.LayerStorage(lambda: engine, "i1")


def test_a_list_that_fails_for_a_moment_is_asked_for_again(web: WebServer) -> None:
    listing = Listing(failures=2)
    assert layers(web, listing).snapshots() == {"kept"}
    assert listing.asked == 3


@pytest.mark.parametrize(("status", "asked"), [(500, 5), (404, 1)])
def test_one_that_keeps_failing_is_an_error(web: WebServer, status: int, asked: int) -> None:
    listing = Listing(failures=99, status=status)
    with pytest.raises(docker.errors.APIError):
        layers(web, listing).snapshots()
    assert listing.asked == asked
