"""Ways to an engine that is far away, on loopback: a real OpenSSH server, and one that speaks TLS before the engine's
socket. Both hand everything to the engine of the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import getpass
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.sandboxes.docker.dialing import Tls

SSHD = Path("/usr/sbin/sshd")
_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0


class SshServer:
    """OpenSSH's server as it is installed, apart from its keys and its port. `home` is that of a user whom it knows."""

    def __init__(self, folder: Path, engine_url: str, path: str = "/usr/local/bin:/usr/bin:/bin") -> None:
        """`path`: where it looks for programs."""
        self.home = folder / "home"
        self._config = folder / "sshd_config"
        self.port = _free_port()
        self.url = f"ssh://{getpass.getuser()}@{_HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        own = self.home / ".ssh"
        own.mkdir(mode=0o700, parents=True)
        _make_key(folder / "host_key")
        self.accept(own / "id_ed25519")
        host_key = (folder / "host_key.pub").read_text()
        (own / "known_hosts").write_text(f"[{_HOST}]:{self.port} {host_key}")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        options = {
            "ListenAddress": _HOST,
            "Port": str(self.port),
            "HostKey": str(folder / "host_key"),
            "AuthorizedKeysFile": str(self.home / "authorized_keys"),
            "PasswordAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "PidFile": "none",
            # HOME: shells read files there before they do what they are told.
            "SetEnv": f'"DOCKER_HOST={engine_url}" "PATH={path}" "HOME={self.home}"',
        }
        self._config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))

    def accept(self, key: Path) -> None:
        """Makes a key that opens this server, and no other key does."""
        key.unlink(missing_ok=True)
        _make_key(key)
        (self.home / "authorized_keys").write_text(key.with_suffix(".pub").read_text())

    def start(self) -> None:
        self._process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self._config], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port)) as greeted:
                if greeted.recv(4) == b"SSH-":
                    return
            assert time.monotonic() < give_up_at, "sshd does not start"
            time.sleep(0.02)

    def sessions(self) -> list[int]:
        """All processes that serve connections, and what runs for them."""
        return [] if self._process is None else list(_descendants(self._process.pid))

    def signal_sessions(self, number: signal.Signals) -> None:
        """To each of them."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Ends it and every session."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # nobody new while the sessions end
            self.signal_sessions(signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None


class TlsServer:
    """Ends TLS, asks for a certificate, and joins each connection to the engine's socket."""

    def __init__(self, folder: Path, engine_url: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tls = make_certificates(folder)
        self._socket = engine_url.removeprefix("unix://")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.tls.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
        self.port = _free_port()
        self.url = f"tcp://{_HOST}:{self.port}"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self._is_silent = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_listening.wait(_START_TIMEOUT_S), "the TLS server does not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Every connection ends."""
        for writer in list(self._writers):
            self._loop.call_soon_threadsafe(writer.transport.abort)

    def fall_silent(self) -> None:
        """Every connection stays, also new ones, and nothing comes any more."""
        self._is_silent = True

    def speak(self) -> None:
        """Undoes `fall_silent`; what was to be said meanwhile is lost."""
        self._is_silent = False

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            server = runner.run(asyncio.start_server(self._serve, _HOST, self.port, ssl=self._context))
            self._is_listening.set()
            runner.get_loop().run_forever()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._socket)
        self._writers.add(writer)
        try:
            copying = self._copy(reader, engine_writer), self._copy(engine_reader, writer)
            await asyncio.wait([asyncio.create_task(each) for each in copying], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers.discard(writer)
            engine_writer.close()
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if not self._is_silent:
                    writer.write(piece)
                    await writer.drain()


def make_certificates(folder: Path) -> Tls:
    """A new authority, a server's certificate for loopback (`server.pem`) and a client's; paths of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("authority", authority_key, "authority", authority_key)
    (folder / "ca.pem").write_bytes(authority)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{name}.pem").write_bytes(_certificate(name, key, "authority", authority_key))
        (folder / f"{name}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return Tls(folder / "ca.pem", folder / "client.pem", folder / "client-key.pem")


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOST))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> Iterable[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _descendants(int(child))
        yield int(child)
