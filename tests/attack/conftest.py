"""Fixtures of the attack suite: one server with default settings on the runtime under test, attackers in sandboxes of
their own, a neighbour whose calls are timed, and the report that each test writes its attempts to; and another server
with a world of its own outside it.

Variables: `CORRAL_TEST_RUNTIME` names the engine's runtime (default `runc`), `CORRAL_TEST_REPORT` the folder in which
the attempts are saved.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import pytest

from orchestrator.clock import SystemClock
from orchestrator.config import Settings
from orchestrator.egress.certificates import Authority
from tests.attack.attacker import Attacker, Neighbour, program_sources
from tests.attack.report import Case, Report
from tests.attack.world import World, WorldError
from tests.e2e.caller import Caller
from tests.e2e.server import LeftBehindError, ServerProcess

RUNTIME = os.environ.get("CORRAL_TEST_RUNTIME", "runc")
_HERE = Path(__file__).parent
_report = Report(RUNTIME)
_CASE = pytest.StashKey[Case]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(id): the attack case of a test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(150))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    case = item.stash.get(_CASE, None)
    try:
        yield
    except BaseException as error:
        if case is not None:
            case.tried(item.name, f"the test broke off: {type(error).__name__}: {error}", ok=False)
        raise
    if case is not None:
        case.conclude()


def pytest_sessionfinish() -> None:
    if folder := os.environ.get("CORRAL_TEST_REPORT"):
        _report.save(Path(folder))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case that the test's marker names."""
    marker = request.node.get_closest_marker("case")
    assert marker is not None, "an attack names its case"
    found = Case(_report, marker.args[0])
    request.node.stash[_CASE] = found
    return found


@pytest.fixture(scope="session")
def runtime(engine: Settings) -> str:
    """The engine's runtime under test, by its name."""
    client = docker.DockerClient(base_url=engine.engine_url)
    info = client.info()
    client.close()
    assert RUNTIME in info["Runtimes"], f"the engine has no runtime {RUNTIME!r}, only {sorted(info['Runtimes'])}"
    _report.engine = f"{info['ServerVersion']}, kernel {info['KernelVersion']}, {info['NCPU']} CPUs"
    return RUNTIME


@pytest.fixture(scope="session")
def server(engine: Settings, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with default settings."""
    process = ServerProcess(engine, tmp_path_factory.mktemp("server"), **settings(runtime))
    process.start()
    yield process
    try:
        process.close()
    except LeftBehindError as error:
        pytest.fail(str(error), pytrace=False)


def settings(runtime: str) -> dict[str, str]:
    """What differs from the defaults."""
    return {} if runtime == "runc" else {"RUNTIME": runtime}


@pytest.fixture(scope="session")
def caller(server: ServerProcess) -> Iterator[Caller]:
    with server.caller() as caller:
        yield caller


@pytest.fixture
def attacker(caller: Caller) -> Iterator[Attacker]:
    """A sandbox that the test may ruin, with the programs in it."""
    made = Attacker(caller, caller.new_environment(sources=program_sources()))
    yield made
    made.leave()


@pytest.fixture(scope="session")
def shared_attacker(caller: Caller) -> Attacker:
    """A sandbox with the programs in it, for attacks that leave it usable."""
    return Attacker(caller, caller.new_environment(sources=program_sources()))


@pytest.fixture(scope="session")
def neighbour(caller: Caller) -> Neighbour:
    """Another sandbox of the same server, whose calls are timed while it is quiet."""
    return Neighbour(caller, caller.new_environment())


@pytest.fixture(scope="session")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: `authority` signs the certificates of the world's servers, `ca.pem` is what trusts them."""
    folder = tmp_path_factory.mktemp("internet")
    (folder / "ca.pem").write_text(Authority.open(folder / "authority", SystemClock()).pem)
    return folder


@pytest.fixture(scope="session")
def possible_world(internet: Path) -> Iterator[World | str]:
    """A world, or why there is none on this machine."""
    signing = Authority.open(internet / "authority", SystemClock())
    try:
        with World(lambda name: asyncio.run(signing.context(name))) as made:
            yield made
    except WorldError as error:
        yield str(error)


@pytest.fixture(scope="module")
def beside(possible_world: World | str) -> Iterator[None]:
    """The module's tests talk to the server from its own machine."""
    if isinstance(possible_world, str):
        yield
        return
    with possible_world.beside():
        yield


@pytest.fixture
def world(case: Case, possible_world: World | str, beside: None) -> World:
    """The world, in which nobody has visited anybody yet. Without one the case is not tried."""
    if isinstance(possible_world, str):
        case.not_tried("everything", possible_world)
        pytest.skip(possible_world)
    possible_world.forget()
    return possible_world


@pytest.fixture(scope="session")
def far_server(
    engine: Settings,
    runtime: str,
    possible_world: World | str,
    internet: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """A server whose way out leads into the world. It has default settings, and trusts who signs there."""
    assert isinstance(possible_world, World)
    fields = {"SOURCES__CA_FILE": str(internet / "ca.pem"), "POOL__SIZE": "0", **settings(runtime)}
    process = ServerProcess(engine, tmp_path_factory.mktemp("far"), **fields)
    with possible_world.beside():
        process.start()
    yield process
    try:
        with possible_world.beside():
            process.close()
    except LeftBehindError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def far_caller(world: World, far_server: ServerProcess) -> Iterator[Caller]:
    with far_server.caller() as caller:
        yield caller
