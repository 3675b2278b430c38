"""Fixtures of the e2e tests: one real server for the whole session, servers of their own for tests that stop or starve
one, and nothing left behind by any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.config import Settings
from orchestrator.egress.certificates import Authority
from tests.e2e.caller import Caller
from tests.e2e.server import LeftBehindError, ServerProcess

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def server(engine: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with default settings. Shared: tests neither stop it nor count what others made on it."""
    process = ServerProcess(engine, tmp_path_factory.mktemp("server"))
    process.start()
    yield process
    _close([process])


@pytest.fixture
def start_server(engine: Settings, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers for one test, without a pool: such tests count. Settings are given as `CALL_TIMEOUT_S="2"`."""
    made: list[ServerProcess] = []

    def start(**settings: str) -> ServerProcess:
        folder = tmp_path / f"server-{len(made)}"
        folder.mkdir()
        process = ServerProcess(engine, folder, **{"POOL__SIZE": "0", **settings})
        process.start()
        made.append(process)
        return process

    yield start
    _close(made)


@pytest.fixture(scope="session")
def caller(server: ServerProcess) -> Iterator[Caller]:
    """A client of the shared server."""
    with server.caller() as caller:
        yield caller


@pytest.fixture(scope="session")
def environment(caller: Caller) -> str:
    """An environment on the shared server, for tests that leave its processes and limits as they are."""
    return caller.new_environment()


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of servers outside. Nobody inside trusts it: that requests arrive at all shows that
    the server opened them, and that its own authority was trusted.
    """
    return Authority.open(tmp_path_factory.mktemp("internet") / "authority", SystemClock())


def _close(servers: list[ServerProcess]) -> None:
    faults = []
    for each in servers:
        try:
            each.close()
        except LeftBehindError as error:
            faults.append(str(error))
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
