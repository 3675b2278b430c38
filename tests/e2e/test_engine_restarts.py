"""The container engine itself dies, is stopped or started again, under a server that has runs in mid-call.

In an engine of the tests' own. What it does with containers differs: a killed one leaves them running until it is back
and then ends them; a stopped one ends them; with live-restore they never notice.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import Settings
from tests.e2e.programs import bash, only_result, results, run_bash, script
from tests.e2e.server import ServerProcess
from tests.fakes.own_engine import OwnEngine, is_possible, own_engine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not is_possible(), reason="an engine of its own needs root and dockerd"),
]

_LONG = script(
    run_bash("echo kept >kept; echo x >>count; echo begun; sleep 60"),
    run_bash("cat kept count"),
    {"text": "Done."},
)
_GONE_S = 1.5


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short: sockets of the engine lie below it."""
    place = Path(tempfile.mkdtemp(prefix="engine-"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def own(folder: Path, engine: Settings) -> Iterator[OwnEngine]:
    with own_engine(folder) as started:
        started.take_image(engine.engine_url, engine.image)
        yield started


@pytest.fixture
def server(own: OwnEngine, engine: Settings, tmp_path: Path) -> Iterator[ServerProcess]:
    settings = Settings.load(engine_url=own.url, image=engine.image)
    process = ServerProcess(settings, tmp_path, POOL__SIZE="0", LIFECYCLE__SWEEP_INTERVAL_S="0.5")
    process.start()
    yield process
    process.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_in_mid_call(own: OwnEngine, server: ServerProcess, end: signal.Signals) -> None:
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(_LONG, environment)
        caller.await_output(running, "begun")
        own.end(end)
        time.sleep(_GONE_S)
        assert caller.read(running)["status"] == "in_progress", "the engine may come back"
        own.start()
        ended = caller.wait(running)
        assert ended["status"] == "completed", ended
        lost, after = results(ended)
        assert lost["is_error"]
        assert "not known how far" in lost["result"]
        assert after["result"] == "kept\nx\n", "files are kept, and the lost call was not repeated"
        assert caller.ps()["environments"][0]["status"] == "active"


def test_a_call_that_ends_while_there_is_none_has_its_result(own: OwnEngine, server: ServerProcess) -> None:
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(bash("echo x >>count; echo begun; sleep 2; echo done; cat count"), environment)
        caller.await_output(running, "begun")
        own.end(signal.SIGKILL)
        ended = caller.wait(running)
        assert (ended["status"], only_result(ended)) == ("completed", "begun\ndone\nx\n")
        own.start()
        assert only_result(caller.create(bash("cat count"), environment)) == "x\n"


def test_between_calls(own: OwnEngine, server: ServerProcess) -> None:
    """Nothing is written about sandboxes while nobody knows; afterwards they serve again, and the model is told."""
    with server.caller() as caller:
        environment = caller.new_environment(bash("echo kept >kept"))
        own.end(signal.SIGKILL)
        time.sleep(_GONE_S)
        seen = {each["id"]: each["status"] for each in caller.ps()["environments"]}
        assert seen == {environment: "active"}
        own.start()
        assert only_result(caller.create(bash("cat kept"), environment)).endswith("kept\n")


def test_the_server_dies_with_it(own: OwnEngine, server: ServerProcess) -> None:
    with server.caller() as caller:
        environment = caller.new_environment()
        running = caller.start(_LONG, environment)
        caller.await_output(running, "begun")
    server.kill()
    own.end(signal.SIGKILL)
    server.start()
    with server.caller() as caller:
        assert caller.read(running)["status"] == "in_progress"
        own.start()
        ended = caller.wait(running)
        assert ended["status"] == "completed", ended
        assert results(ended)[-1]["result"] == "kept\nx\n"


def test_with_live_restore_nobody_notices(folder: Path, engine: Settings, tmp_path: Path, own: OwnEngine) -> None:
    own.end(signal.SIGTERM)
    try:
        with own_engine(folder, keeps_containers=True) as keeping:
            settings = Settings.load(engine_url=keeping.url, image=engine.image)
            server = ServerProcess(settings, tmp_path, POOL__SIZE="0", LIFECYCLE__SWEEP_INTERVAL_S="0.5")
            server.start()
            try:
                with server.caller() as caller:
                    running = caller.start(bash("echo begun; sleep 4; echo done"), "remote")
                    caller.await_output(running, "begun")
                    keeping.end(signal.SIGTERM)
                    time.sleep(_GONE_S)
                    keeping.start()
                    ended = caller.wait(running)
                    assert (ended["status"], only_result(ended)) == ("completed", "begun\ndone\n")
                    assert only_result(caller.create(bash("echo on"), ended["environment_id"])) == "on\n"
            finally:
                server.close()
    finally:
        own.start()
