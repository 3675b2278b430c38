from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority
from orchestrator.errors import ConfigError
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio

_ALLOW_CLIENT_RENEGOTIATION = 1 << 8
"""An option of OpenSSL 3 that has no name in Python."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority.pem", SystemClock())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> ssl.SSLObject:
    """The client's end of a connection that both agreed on. Raises `ssl.SSLError`."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[0].do_handshake()
    return ends[0]


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.mark.parametrize(
    "host", ["site.test", "10.1.2.3", "2001:db8::1", f"{'a' * 63}.{'b' * 63}.test", "xn--e1aybc.test"]
)
async def test_who_trusts_it_trusts_its_hosts(authority: Authority, host: str) -> None:
    handshake(await authority.context(host), trusting(authority), host)


async def test_a_host_s_certificate_is_no_other_s(authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(await authority.context("site.test"), trusting(authority), "other.test")


async def test_who_does_not_know_it_does_not_trust_it(authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(await authority.context("site.test"), ssl.create_default_context(), "site.test")


async def test_nothing_but_http_1_is_agreed_on(authority: Authority) -> None:
    client = trusting(authority)
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert handshake(await authority.context("site.test"), client, "site.test").selected_alpn_protocol() == "http/1.1"


async def test_contexts_are_kept_and_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.egress.certificates._KEPT", 2)
    first = await authority.context("a.test")
    await authority.context("b.test")
    assert await authority.context("a.test") is first
    await authority.context("c.test")
    assert await authority.context("a.test") is first
    assert len(authority._contexts) == 2


def test_certificates_are_short_and_backdated(authority: Authority) -> None:
    now = SystemClock().now()
    made = authority.certificate("site.test", now)
    assert made.not_valid_before_utc < now - timedelta(hours=23)
    assert now + timedelta(days=6) < made.not_valid_after_utc < now + timedelta(days=8)
    own = x509.load_pem_x509_certificate(authority.pem.encode())
    assert made.not_valid_before_utc >= own.not_valid_before_utc


def test_it_is_kept_in_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "authority.pem"
    first = Authority.open(path, SystemClock())
    assert path.stat().st_mode & 0o777 == 0o600
    assert Authority.open(path, SystemClock()).pem == first.pem
    assert "PRIVATE" not in first.pem
    assert sorted(each.name for each in path.parent.iterdir()) == ["authority.pem", "authority.pem.lock"]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        Authority.open(path, SystemClock())


@pytest.mark.parametrize("cut", [0, 100, 700])
def test_a_damaged_file_is_refused_and_left(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "authority.pem"
    Authority.open(path, SystemClock())
    damaged = path.read_bytes()[:cut]
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match="not the authority"):
        Authority.open(path, SystemClock())
    assert path.read_bytes() == damaged


def test_a_key_of_another_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    Authority.open(one, SystemClock())
    Authority.open(other, SystemClock())
    key_begins = b"-----BEGIN PRIVATE KEY"
    one.write_bytes(
        one.read_bytes().partition(key_begins)[0] + key_begins + other.read_bytes().partition(key_begins)[2]
    )
    with pytest.raises(ConfigError, match="not the authority"):
        Authority.open(one, SystemClock())


def test_a_certificate_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    Authority.open(path, SystemClock())
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    # Another name in it, and the old signature beneath: it still parses, and the key is its own.
    changed = certificate.public_bytes(Encoding.DER).replace(name.encode(), b"X" + name[1:].encode())
    key = load_pem_private_key(path.read_bytes(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(x509.load_der_x509_certificate(changed).public_bytes(Encoding.PEM) + key)
    with pytest.raises(ConfigError, match="not the authority"):
        Authority.open(path, SystemClock())


async def test_five_hundred_and_twelve_hosts_are_kept(authority: Authority) -> None:
    first = await authority.context("host0.test")
    for index in range(1, 512):
        await authority.context(f"host{index}.test")
    assert await authority.context("host0.test") is first
    await authority.context("one-more.test")
    assert await authority.context("host0.test") is first
    assert len(authority._contexts) == 512
    assert "host1.test" not in authority._contexts


async def test_a_host_gets_another_certificate_after_a_day(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now() - timedelta(days=3))
    authority = await asyncio.to_thread(Authority.open, tmp_path / "authority.pem", clock)

    async def served() -> x509.Certificate:
        data = handshake(await authority.context("site.test"), trusting(authority), "site.test").getpeercert(True)
        assert data is not None
        return x509.load_der_x509_certificate(data)

    first = await served()
    clock.advance(timedelta(hours=23).total_seconds())
    assert await served() == first
    clock.advance(timedelta(hours=2).total_seconds())
    second = await served()
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc - first.not_valid_after_utc >= timedelta(hours=24)


def test_a_host_s_key_cannot_make_certificates_of_others(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    authority = Authority.open(path, SystemClock())
    own = x509.load_pem_x509_certificate(authority.pem.encode())
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    # An authority below this one, as who once got hold of the key would make it: nobody trusts what it signs.
    own_key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(own_key, ec.EllipticCurvePrivateKey)
    below_key, host_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    below = _signed("Below", below_key, own, own_key, is_authority=True)
    host = _signed("site.test", host_key, below, below_key, is_authority=False)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(host.public_bytes(Encoding.PEM) + below.public_bytes(Encoding.PEM))
    key.write_bytes(host_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        handshake(server, trusting(authority), "site.test")


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    usage = [is_authority if each == 5 else not is_authority and each == 0 for each in range(9)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(*usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no renegotiation is NOT tested: there is no openssl")
async def test_nobody_negotiates_anew(authority: Authority) -> None:
    """A client of the older version could otherwise make the server work as often as it likes."""
    context = await authority.context("site.test")
    # Newer libraries refuse it on their own, older ones do not.
    context.options |= _ALLOW_CLIENT_RENEGOTIATION
    with _served(context) as port:
        said = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", "-servername", "site.test"],
            input=b"R\n",
            capture_output=True,
            timeout=20,
            check=False,
        )
    shown = said.stdout.decode() + said.stderr.decode()
    assert "Cipher is ECDHE" in shown, shown
    assert "RENEGOTIATING" in shown, shown
    assert "no renegotiation" in shown, shown


@contextlib.contextmanager
def _served(context: ssl.SSLContext) -> Iterator[int]:
    """A port where one client is served, until it goes."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.settimeout(10)
            with context.wrap_socket(connection, server_side=True) as served:
                while served.recv(100):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()
