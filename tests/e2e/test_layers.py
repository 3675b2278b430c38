"""Where sandboxes can have no disks of their own: files in the engine's writable layers, a watched limit, commits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from orchestrator.config import Settings
from tests.e2e.caller import ENVIRONMENTS, Caller, Json, as_object
from tests.e2e.server import ServerProcess


@pytest.fixture(scope="module")
def layers(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"STORAGE": "layers", "RESOURCES__DISK_BYTES": str(100 << 20), "POOL__SIZE": "0"}
    server = ServerProcess(engine, tmp_path_factory.mktemp("layers"), **settings)
    server.start()
    yield server
    server.close()


@pytest.fixture
def caller(layers: ServerProcess) -> Iterator[Caller]:
    with layers.caller() as caller:
        yield caller


def bash(caller: Caller, environment: str, code: str) -> Json:
    made = caller.create(f"```bash\n{code}\n```", environment)
    (result,) = [step for step in made["steps"] if step["type"] == "code_execution_result"]
    return dict(result)


def snapshots(engine: Settings, server: ServerProcess) -> list[str]:
    client = docker.DockerClient(base_url=engine.engine_url)
    try:
        images = client.api.images(filters={"reference": f"corral/snapshot:{server.instance}-*"})
    finally:
        client.close()
    return [tag for image in images for tag in image["RepoTags"]]


def images_left(engine: Settings, server: ServerProcess) -> list[str]:
    """Whatever they are called."""
    client = docker.DockerClient(base_url=engine.engine_url)
    try:
        filters = {"label": f"corral.snapshot={server.instance}"}
        return [image["Id"] for image in client.api.images(filters=filters)]
    finally:
        client.close()


def test_a_command_that_writes_past_the_limit_is_stopped(caller: Caller) -> None:
    environment = caller.new_environment()
    result = bash(caller, environment, "head -c 150000000 /dev/zero > big; echo written; sleep 30")
    assert result["is_error"]
    assert "disk full" in result["result"]
    assert bash(caller, environment, "rm big; echo gone")["result"] == "gone\n"
    assert bash(caller, environment, "echo fine > small; sleep 6; cat small")["result"] == "fine\n"


def test_forks_are_independent_and_leave_no_image(caller: Caller, layers: ServerProcess, engine: Settings) -> None:
    parent = caller.new_environment("```bash\necho one > a; echo kept > ~/b\n```")
    answer = caller.http.post(ENVIRONMENTS, json={"from_environment": parent})
    assert answer.status_code == 200, answer.text
    child = str(as_object(answer)["id"])
    assert len(snapshots(engine, layers)) == 1
    bash(caller, parent, "echo parent > a")
    assert bash(caller, child, "cat a ~/b; echo child > a")["result"] == "one\nkept\n"
    assert bash(caller, parent, "cat a")["result"] == "parent\n"
    deadline = time.monotonic() + 10
    while snapshots(engine, layers):  # dropped behind the first start's back
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for environment in (parent, child):
        caller.delete_environment(environment)
    assert images_left(engine, layers) == []


def test_files_outlive_the_server(caller: Caller, layers: ServerProcess) -> None:
    environment = caller.new_environment("```bash\necho kept > file\n```")
    layers.stop()
    layers.start()
    with layers.caller() as again:
        assert bash(again, environment, "cat file")["result"] == "kept\n"


def test_nothing_is_mounted(layers: ServerProcess) -> None:
    assert f"{layers.data_dir}/" not in Path("/proc/self/mounts").read_text()
