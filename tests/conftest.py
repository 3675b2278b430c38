"""What all tests share: asyncio as the one backend, no way out of this machine, no blocking call on the event loop,
nothing left open, and the engine of the e2e tests.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from orchestrator.config import Settings

NO_ENGINE = "CORRAL_TEST_NO_ENGINE"
NO_RUNSC = "the engine has no runtime runsc (gVisor)"
_PROVIDERS_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "", None)

_state: dict[str, bool] = {"guarded": False}

# A shell that starts the suite in the background lets it ignore this, and what a test interrupts would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


class OutwardConnectionError(AssertionError):
    """A test that must stay on this machine tried to leave it."""


def _watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: it sees every socket that Python opens, whatever library does it. It cannot be removed again."""
    if not _state["guarded"]:
        return
    if event in ("socket.connect", "socket.sendto"):
        target, address = args[0], args[1]
        if target.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OutwardConnectionError(f"tests outside tests/e2e stay on loopback; this one opens {address!r}")
    elif event == "socket.getaddrinfo" and not _is_local(args[0]):
        raise OutwardConnectionError(f"tests outside tests/e2e stay on loopback; this one looks up {args[0]!r}")


class LeftOpenError(AssertionError):
    """A test left a socket, a file or a process to the collector."""


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in _LOCAL_NAMES or name.startswith("127.")


sys.addaudithook(_watch)


def _is_e2e(node: pytest.Item) -> bool:
    return "e2e" in node.path.parts or node.get_closest_marker("e2e") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_e2e(item):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def stays_on_this_machine(request: pytest.FixtureRequest) -> Iterator[None]:
    _state["guarded"] = not _is_e2e(request.node)
    yield
    _state["guarded"] = False


@pytest.fixture(autouse=True)
def has_no_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the person who runs the tests do not change what unit tests see."""
    if not _is_e2e(request.node):
        for name in os.environ:
            if name.startswith("CORRAL_") or name in _PROVIDERS_VARIABLES:
                monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def does_not_block(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call of the product on a running event loop raises `blockbuster.BlockingError`."""
    if request.node.get_closest_marker("anyio") is None or _is_e2e(request.node):
        yield
        return
    guard = BlockBuster("orchestrator")
    guard.activate()
    yield
    guard.deactivate()


@pytest.fixture(scope="module", autouse=True)
def has_clean_start() -> None:
    """What earlier modules made and keep is not looked at again: it makes the look after each test cheap."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """What a test leaves open fails this test. Left to the collector's own time it fails any later one."""
    result = yield
    if not _is_e2e(item):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", ResourceWarning)
            gc.collect()
        if left := [str(each.message) for each in seen if issubclass(each.category, ResourceWarning)]:
            raise LeftOpenError(f"the test, or one that failed just before it, left open: {'; '.join(left)}")
    return result


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder like `tmp_path`, but short enough for Unix sockets below it, and open to every user."""
    path = Path(tempfile.mkdtemp(prefix="corral-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="class")
def short_folder() -> Iterator[Path]:
    """As `short_path`, one for all tests of a class."""
    path = Path(tempfile.mkdtemp(prefix="corral-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _engine_fault(settings: Settings) -> str | None:
    """What keeps e2e tests from running, with what to do; None when nothing does."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.DockerClient(base_url=settings.engine_url, timeout=10)
    except DockerException as error:
        return f"no container engine answers at {settings.engine_url} ({error}); run scripts/engine.sh ensure"
    try:
        client.images.get(settings.image)
    except ImageNotFound:
        return f"the image {settings.image} is not on the engine; run make images"
    except DockerException as error:
        return f"the engine at {settings.engine_url} failed: {error}"
    finally:
        client.close()
    return None


@pytest.fixture(scope="session")
def engine() -> Settings:
    """Settings whose `engine_url` answers and has the image. Fails without one; CORRAL_TEST_NO_ENGINE=1 skips."""
    settings = Settings.load()
    fault = _engine_fault(settings)
    if fault is None:
        return settings
    if os.environ.get(NO_ENGINE) == "1":
        pytest.skip(f"{NO_ENGINE}=1: {fault}")
    pytest.fail(f"{fault}. Or skip these tests: {NO_ENGINE}=1", pytrace=False)


@pytest.fixture(scope="session")
def runsc(engine: Settings) -> Settings:
    """Settings whose engine has gVisor's runtime. Skips without it, and the summary says so."""
    import docker

    client = docker.DockerClient(base_url=engine.engine_url, timeout=10)
    try:
        if "runsc" not in client.info()["Runtimes"]:
            pytest.skip(f"{NO_RUNSC}: `corral doctor` says how to get it")
    finally:
        client.close()
    return engine


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for mark, title, consequence in (
        (NO_ENGINE, "NO CONTAINER ENGINE", "e2e tests did NOT run: nothing above says that sandboxes work."),
        (NO_RUNSC, "NO GVISOR", "tests did NOT run: nothing above says that the runtime runsc works."),
    ):
        if count := sum(mark in reason for reason in skipped):
            terminalreporter.section(title, sep="!", red=True, bold=True)
            terminalreporter.line(f"{count} {consequence}")
