"""Far engines brought near: each connection to an engine behind SSH or TLS is a plain socket of this machine here.

The SDK, attached streams and the stream of events then are what they are beside an engine: sockets that one can wait
for, duplicate and close. Behind each one something carries bytes to and fro. A connection can be cut, or fall silent,
while both ends are well; whoever watches an engine calls `check` from time to time, which ends what is silent.

    ssh://[user@]host[:port]   by the names, keys and known hosts in `~/.ssh`; `docker` is on the PATH there
    tcp://host:port            with TLS; without it only on this machine
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator.errors import EngineUnavailable

if TYPE_CHECKING:
    import paramiko

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 15.0
_CHUNK_BYTES = 64 << 10
_SESSIONS = 8
"""Of one connection: sshd allows 10 unless it is told otherwise, and a check needs one."""
_ENDS = (OSError, EOFError)
"""What paramiko raises where a connection has ended, between one call and the next."""
_COMMAND = "docker system dial-stdio"
_PING = b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
_TLS_PORT = 2376
_NAMES_OF_THIS_MACHINE = ("localhost", "")
_SILENCE_OPTIONS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A connection whose other machine has gone ends within half a minute."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to know the engine and to be known by it."""

    ca: Path | None = None
    """Who signed the engine's certificate; None: whom this machine trusts."""
    cert: Path | None = None
    key: Path | None = None
    """Of the client; None: it has no certificate, or its file holds the key too."""

    def context(self) -> ssl.SSLContext:
        """Raises `OSError` (`ssl.SSLError` is one) if a file is not there or is not what it should be."""
        for file in filter(None, (self.ca, self.cert, self.key)):
            file.open("rb").close()  # the error of the next lines would not name it
        made = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            made.load_cert_chain(self.cert, self.key)
        return made


class Dialer(ABC):
    """Connections to one engine. Its methods block, may be called from any thread, and raise `EngineUnavailable`."""

    def __init__(self, engine_url: str) -> None:
        self._engine_url = engine_url

    @abstractmethod
    def dial(self) -> socket.socket:
        """A new connection. Its holder closes it."""

    @abstractmethod
    def check(self) -> None:
        """Asks the engine whether it is there, and ends connections behind which nobody answers."""

    @abstractmethod
    def close(self) -> None:
        """Ends every connection. May be called twice; a later `dial` connects again."""

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except _ENDS as error:
            raise self._unavailable(str(error) or type(error).__name__) from error

    def _unavailable(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(f"the container engine at {self._engine_url} does not answer: {reason}")


def dialer_of(engine_url: str, tls: Tls | None) -> Dialer | None:
    """None: the SDK reaches this engine by itself.

    Raises:
        EngineUnavailable: whoever is on the way could command it.
    """
    url = urlsplit(engine_url)
    if url.scheme == "ssh":
        return SshDialer(engine_url)
    if url.scheme != "tcp":
        return None
    if tls is not None:
        return TlsDialer(engine_url, tls)
    if not _is_this_machine(url.hostname or ""):
        raise EngineUnavailable(
            f"the engine at {engine_url} is reached without TLS: whoever is on the way would be root on its machine. "
            "Set engine_tls, or use ssh://"
        )
    return None


def _is_this_machine(host: str) -> bool:
    if host in _NAMES_OF_THIS_MACHINE:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# SSH


class SshDialer(Dialer):
    """By sessions of SSH, each of which runs a program that joins it to the engine's socket.

    A server allows few sessions to a connection, so there are as many connections as it takes.
    """

    def __init__(self, engine_url: str) -> None:
        super().__init__(engine_url)
        # What it has to say arrives as exceptions.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        self._dialing = threading.Lock()
        """One at a time: servers refuse many who are not yet known."""
        self._lines: list[_Line] = []

    def dial(self) -> socket.socket:
        with self._faults(), self._dialing:
            line, channel = self._session()
            ours, theirs = socket.socketpair()
            threading.Thread(target=line.carry, args=(channel, theirs), name="engine-ssh", daemon=True).start()
            return ours

    def check(self) -> None:
        import paramiko

        try:
            with self._faults():
                for line in list(self._lines):
                    with contextlib.suppress(paramiko.ChannelException):  # it has no room, and says so
                        self._greet(line)
        except EngineUnavailable:
            self.close()  # all of them lead to the same machine
            raise

    def close(self) -> None:
        for line in list(self._lines):
            line.client.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        import paramiko

        with super()._faults():
            try:
                yield
            except paramiko.SSHException as error:
                raise self._unavailable(str(error) or type(error).__name__) from error

    def _session(self) -> tuple[_Line, paramiko.Channel]:
        import paramiko

        self._lines = [line for line in self._lines if line.is_alive]
        for line in list(self._lines):
            if line.sessions < line.room:
                try:
                    return line, line.open()
                except paramiko.ChannelException:
                    line.room = line.sessions  # this server allows fewer
                except (*_ENDS, paramiko.SSHException):  # cut, which nobody had noticed; a new one tells why
                    line.client.close()
                    self._lines.remove(line)
        line = _Line(self._connected())
        self._lines.append(line)  # where `check` finds it
        try:
            self._greet(line)
            return line, line.open()
        except BaseException:
            line.client.close()
            raise

    def _connected(self) -> paramiko.SSHClient:
        import paramiko

        url = urlsplit(self._engine_url)
        known = paramiko.SSHConfig()
        own = Path.home() / ".ssh" / "config"
        if own.exists():
            known = paramiko.SSHConfig.from_path(str(own))
        host = known.lookup(url.hostname or "")
        client = paramiko.SSHClient()
        client.load_system_host_keys()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.connect(
                host["hostname"],
                url.port or int(host.get("port", 22)),
                url.username or host.get("user"),
                key_filename=host.get("identityfile"),
                timeout=_CONNECT_TIMEOUT_S,
                banner_timeout=_CONNECT_TIMEOUT_S,
                auth_timeout=_CONNECT_TIMEOUT_S,
                channel_timeout=_CONNECT_TIMEOUT_S,
            )
        except BaseException:
            client.close()
            raise
        return client

    def _greet(self, line: _Line) -> None:
        """Whether there is an engine behind it; else what the server says instead."""
        with closing(line.start()) as channel:
            channel.settimeout(_ANSWER_TIMEOUT_S)
            with contextlib.suppress(OSError):  # who ended already has said why
                channel.sendall(_PING)
            if not channel.recv(_CHUNK_BYTES).startswith(b"HTTP/1."):
                said = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
                raise self._unavailable(f"`{_COMMAND}` there: {said or 'no answer'}")


class _Line:
    """One connection of SSH."""

    def __init__(self, client: paramiko.SSHClient) -> None:
        self.client = client
        self.sessions = 0
        self.room = _SESSIONS
        self._counting = threading.Lock()

    @property
    def is_alive(self) -> bool:
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def open(self) -> paramiko.Channel:
        """A session for `carry`."""
        channel = self.start()
        self._count(1)
        return channel

    def start(self) -> paramiko.Channel:
        """A session, joined to the engine."""
        transport = self.client.get_transport()
        if transport is None:
            raise EOFError("the connection has ended")
        channel = transport.open_session(timeout=_ANSWER_TIMEOUT_S)
        channel.exec_command(_COMMAND)
        return channel

    def carry(self, channel: paramiko.Channel, near: socket.socket) -> None:
        """Carries bytes between both until either ends, then ends both."""

        def outward() -> None:
            with contextlib.suppress(*_ENDS):
                while piece := near.recv(_CHUNK_BYTES):
                    channel.sendall(piece)
            with contextlib.suppress(*_ENDS):
                channel.close()

        sending = threading.Thread(target=outward, name="engine-ssh-out", daemon=True)
        sending.start()
        with near:
            with contextlib.suppress(*_ENDS):
                while piece := channel.recv(_CHUNK_BYTES):
                    near.sendall(piece)
            with contextlib.suppress(*_ENDS):
                channel.close()
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            sending.join()
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._counting:
            self.sessions += change


# TLS


class TlsDialer(Dialer):
    """By TLS. One thread with an event loop of its own carries all connections."""

    def __init__(self, engine_url: str, tls: Tls) -> None:
        super().__init__(engine_url)
        url = urlsplit(engine_url)
        self._host, self._port = url.hostname or "", url.port or _TLS_PORT
        self._tls = tls
        self._carrying: set[asyncio.Task[None]] = set()
        self._starting = threading.Lock()
        self._carrier: _Carrier | None = None

    def dial(self) -> socket.socket:
        with self._faults():
            with self._starting:
                if self._carrier is None:
                    self._carrier = _Carrier()
                opening = self._carrier.run(self._open())
            try:
                return opening.result(_CONNECT_TIMEOUT_S + _ANSWER_TIMEOUT_S)
            except CancelledError as error:
                raise ConnectionResetError("it was given up") from error

    def check(self) -> None:
        with self._faults():
            far = socket.create_connection((self._host, self._port), timeout=_CONNECT_TIMEOUT_S)
            try:
                with self._tls.context().wrap_socket(far, server_hostname=self._host) as engine:
                    engine.settimeout(_ANSWER_TIMEOUT_S)
                    engine.sendall(_PING)
                    if not engine.recv(_CHUNK_BYTES).startswith(b"HTTP/1."):
                        raise EOFError("it ends the connection; it may not accept the client's certificate")
            except BaseException:
                far.close()
                self.close()
                raise

    def close(self) -> None:
        with self._starting:
            carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.stop()

    async def _open(self) -> socket.socket:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            context = await asyncio.to_thread(self._tls.context)
            far = await asyncio.open_connection(self._host, self._port, ssl=context)
        raw: socket.socket = far[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _SILENCE_OPTIONS.items():
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        ours, theirs = socket.socketpair()
        near = await asyncio.open_connection(sock=theirs)
        task = asyncio.create_task(_carry(near, far))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return ours


class _Carrier:
    """An event loop in a thread of its own; `stop` cancels what runs on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="engine-tls", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, socket.socket]) -> Future[socket.socket]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _carry(near: _Stream, far: _Stream) -> None:
    """Carries bytes between both until either ends, then ends both."""
    copying = [asyncio.create_task(_copy(near[0], far[1])), asyncio.create_task(_copy(far[0], near[1]))]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(OSError):
            await near[1].drain()
    finally:
        for task in copying:
            task.cancel()
        near[1].close()
        far[1].transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()
