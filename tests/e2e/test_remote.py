"""An engine on another machine, reached by SSH or TLS on loopback: what is refused, cut, and silent without a word."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from orchestrator.config import Settings
from orchestrator.conformance.bench import call_id, entered, make, says
from orchestrator.errors import EngineUnavailable, SandboxGone
from orchestrator.sandboxes.docker import DockerDriver, Tls, dialing, events
from orchestrator.sandboxes.driver import SandboxSpec, SandboxState
from tests.e2e.server import ServerProcess
from tests.fakes.far_engine import SSHD, SshServer, TlsServer, make_certificates

_MORE_THAN_ONE_CONNECTION_HOLDS = 12
_NOTICED_WITHIN_S = 12.0

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not SSHD.exists(), reason="engines elsewhere are NOT tested: there is no sshd"),
]


@pytest.fixture
def sshd(engine: Settings, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    server = SshServer(short_path / "sshd", engine.engine_url)
    monkeypatch.setenv("HOME", str(server.home))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def tls_server(engine: Settings, short_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(short_path / "tls", engine.engine_url)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def is_watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHECK_INTERVAL_S", 0.5)
    monkeypatch.setattr(dialing, "_ANSWER_TIMEOUT_S", 2.0)


@asynccontextmanager
async def opened(url: str, tls: Tls | None = None) -> AsyncIterator[DockerDriver]:
    driver = DockerDriver(url, f"remote-{uuid.uuid4().hex[:8]}", tls=tls)
    await driver.open()
    yield driver
    for found in [each async for each in driver.owned()]:
        await driver.destroy(found.ref)
    await driver.aclose()


@pytest.fixture
async def driver(sshd: SshServer) -> AsyncIterator[DockerDriver]:
    async with opened(sshd.url) as driver:
        yield driver


def spec(engine: Settings) -> SandboxSpec:
    return SandboxSpec(uuid.uuid4().hex, engine.image, runtime="runc")


async def refusal(url: str, tls: Tls | None = None) -> str:
    driver = DockerDriver(url, "test", tls=tls)
    with pytest.raises(EngineUnavailable) as refused:
        await driver.open()
    await driver.aclose()
    return refused.value.message


@asynccontextmanager
async def watched(driver: DockerDriver) -> AsyncIterator[asyncio.Future[str]]:
    """The id of the next sandbox that ends, or how the watch does."""
    exits = driver.exits()
    ended = asyncio.ensure_future(anext(exits))
    await asyncio.sleep(0.5)
    try:
        yield ended
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def eventually(is_so: Callable[[], bool], within_s: float = _NOTICED_WITHIN_S) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.05)


# who is let in


async def test_a_server_that_nobody_knows_is_not_trusted(sshd: SshServer) -> None:
    (sshd.home / ".ssh" / "known_hosts").write_text("")
    assert "not found in known_hosts" in await refusal(sshd.url)


async def test_a_key_that_the_server_does_not_know(sshd: SshServer) -> None:
    sshd.accept(sshd.home / "another")
    assert "Authentication failed" in await refusal(sshd.url)


async def test_a_server_without_an_engine_says_so(
    engine: Settings, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = SshServer(short_path / "sshd", engine.engine_url, path="/nowhere")
    monkeypatch.setenv("HOME", str(server.home))
    server.start()
    assert "docker: command not found" in await refusal(server.url)
    server.stop()
    server = SshServer(short_path / "other", "unix:///nowhere.sock")
    monkeypatch.setenv("HOME", str(server.home))
    server.start()
    assert "nowhere.sock" in await refusal(server.url)
    server.stop()


async def test_certificates_that_do_not_fit(tls_server: TlsServer, short_path: Path) -> None:
    other = make_certificates(short_path / "other")
    assert "certificate" in await refusal(tls_server.url, replace(tls_server.tls, cert=None, key=None))
    assert "certificate" in await refusal(tls_server.url, replace(other, ca=tls_server.tls.ca))
    assert "certificate verify failed" in await refusal(tls_server.url, other)
    assert "none.pem" in await refusal(tls_server.url, Tls(short_path / "none.pem"))


async def test_an_engine_elsewhere_without_a_lock_is_refused() -> None:
    assert "without TLS" in await refusal("tcp://192.0.2.1:2375")


# more sandboxes than one connection of SSH holds


async def test_many_sandboxes_at_once(driver: DockerDriver, engine: Settings) -> None:
    count = _MORE_THAN_ONE_CONNECTION_HOLDS

    async def says_hello() -> bytes:
        ref = await make(driver, spec(engine))
        async with entered(driver, ref) as box:
            said = await says(box, "echo hello")
            everybody.release()
            await is_over.wait()  # all links are open at once
            return said

    everybody, is_over = asyncio.Semaphore(0), asyncio.Event()
    talking = [asyncio.create_task(says_hello()) for _ in range(count)]
    for _ in range(count):
        await everybody.acquire()
    is_over.set()
    assert await asyncio.gather(*talking) == [b"hello\n"] * count


# cut and silent


async def test_a_call_outlives_the_connection(driver: DockerDriver, sshd: SshServer, engine: Settings) -> None:
    ref = await make(driver, spec(engine))
    identity = call_id()
    with closing(docker.DockerClient(base_url=engine.engine_url)) as client:
        async with entered(driver, ref) as box:
            calling = asyncio.create_task(
                box.bash(identity, "sleep 3; echo once >> count; cat count", timeout_s=20, output_limit_bytes=1000)
            )
            await asyncio.sleep(1)
            began = client.api.inspect_container(ref.token)["State"]["StartedAt"]
            sshd.signal_sessions(signal.SIGKILL)
            with pytest.raises(SandboxGone):
                await calling
        async with entered(driver, ref, 2) as box:
            again = box.bash(identity, "echo never", timeout_s=20, output_limit_bytes=1000)
            assert (await again).head == b"once\n"
        assert client.api.inspect_container(ref.token)["State"]["StartedAt"] == began


async def test_a_cut_that_nobody_has_noticed_yet_is_not_the_engines_absence(
    driver: DockerDriver, sshd: SshServer, engine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing._Line, "is_alive", True)
    ref = await make(driver, spec(engine))
    async with entered(driver, ref):
        sshd.signal_sessions(signal.SIGKILL)
    async with entered(driver, ref, 2) as box:
        assert await says(box, "echo here") == b"here\n"


async def test_a_server_that_was_away_is_found_again(driver: DockerDriver, sshd: SshServer, engine: Settings) -> None:
    ref = await make(driver, spec(engine))
    async with watched(driver) as ended:
        sshd.stop()
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(ended, _NOTICED_WITHIN_S)
    assert (await driver.inspect(ref)).state is SandboxState.UNKNOWN
    sshd.start()
    await driver.open()
    assert (await driver.inspect(ref)).state is SandboxState.RUNNING
    async with watched(driver) as ended:
        await driver.stop(ref)
        assert await asyncio.wait_for(ended, _NOTICED_WITHIN_S) == ref.sandbox_id


@pytest.mark.usefixtures("is_watched_closely")
async def test_silence_is_noticed(driver: DockerDriver, sshd: SshServer, engine: Settings) -> None:
    ref = await make(driver, spec(engine))
    async with entered(driver, ref) as box, watched(driver) as ended:
        sshd.signal_sessions(signal.SIGSTOP)
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(ended, _NOTICED_WITHIN_S)
        await eventually(lambda: not box.is_connected)
    async with entered(driver, ref, 2) as box:
        assert await says(box, "echo ready") == b"ready\n"
    sshd.signal_sessions(signal.SIGCONT)


@pytest.mark.usefixtures("is_watched_closely")
@pytest.mark.parametrize("is_silent", [False, True])
async def test_so_is_the_end_of_tls(tls_server: TlsServer, engine: Settings, is_silent: bool) -> None:
    async with opened(tls_server.url, tls_server.tls) as driver:
        ref = await make(driver, spec(engine))
        async with entered(driver, ref) as box, watched(driver) as ended:
            if is_silent:
                tls_server.fall_silent()
            else:
                tls_server.cut()
            with pytest.raises(EngineUnavailable):
                await asyncio.wait_for(ended, _NOTICED_WITHIN_S)
            await eventually(lambda: not box.is_connected)
        tls_server.speak()
        async with entered(driver, ref, 2) as box:
            assert await says(box, "echo ready") == b"ready\n"


# a whole server


async def test_a_server_serves_from_an_engine_elsewhere(sshd: SshServer, engine: Settings, tmp_path: Path) -> None:
    server = ServerProcess(engine, tmp_path, ENGINE_URL=sshd.url, POOL__SIZE="0")
    server.start()
    try:
        with server.caller() as caller:
            made = caller.create("```bash\necho hello > file; cat file\n```", environment="remote")
            assert made["status"] == "completed"
            assert "hello" in str(made["steps"])
            before = len(sshd.sessions())
            assert before > 0
            server.kill()
            await eventually(lambda: sshd.sessions() == [])
            server.start()
            again = caller.create("```bash\ncat file\n```", environment=made["environment_id"])
            assert "hello" in str(again["steps"])
            caller.delete_environment(made["environment_id"])
    finally:
        server.close()
