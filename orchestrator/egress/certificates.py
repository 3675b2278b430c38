"""This server's own authority: certificates for hosts whose TLS is opened, which the sandboxes alone trust.

Imports `clock` and `errors`. The key never leaves its file and this process. A file that is damaged is never replaced
silently: sandboxes that live on would trust nobody any more, and not say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import ssl
from collections import OrderedDict
from collections.abc import Generator
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.clock import Clock
from orchestrator.errors import ConfigError

_AUTHORITY_LIFETIME = timedelta(days=3650)
_RENEWED_BEFORE_END = timedelta(days=30)
_LIFETIME = timedelta(days=7)
"""Of a host's certificate."""
_USED_FOR = timedelta(days=1)
"""After that a host gets another one."""
_BACKDATED = timedelta(days=1)
"""Clocks in sandboxes may be behind."""
_KEPT = 512
"""Hosts whose certificates are kept, the last used."""
_NAME_CHARS = 64
_HTTP = "http/1.1"


class Authority:
    """Signs certificates of hosts. Made by `open`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self.pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
        """What sandboxes are to trust. No secret."""
        self._certificate = certificate
        self._key = key
        self._host_key = ec.generate_private_key(ec.SECP256R1())
        """Of all hosts, made anew with each start."""
        self._clock = clock
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Authority:
        """That of the file, which is made if there is none; others cannot read it. Blocks on the disk.

        Raises:
            ConfigError: the file cannot be read or written, is damaged, has ended, or others may read it.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(path):
                if not path.exists():
                    _write(path, *_new(clock.now()))
                if path.stat().st_mode & 0o077:
                    raise ConfigError(f"others may read the authority's key in {path}: run chmod 600 on it")
                data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"the authority in {path} cannot be read or made: {error.strerror}") from error
        certificate, key = _parsed(path, data)
        if certificate.not_valid_after_utc < clock.now() + _RENEWED_BEFORE_END:
            raise ConfigError(
                f"the authority in {path} ends on {certificate.not_valid_after_utc:%Y-%m-%d}: "
                "move the file away, and a new one is made at the next start"
            )
        return cls(certificate, key, clock)

    async def context(self, host: str) -> ssl.SSLContext:
        """To serve TLS as `host`, a name or an address in its one form. Nothing but HTTP/1.1 is agreed on in it."""
        now = self._clock.now()
        if (kept := self._contexts.get(host)) is not None and kept[0] > now:
            self._contexts.move_to_end(host)
            return kept[1]
        made = await asyncio.to_thread(self._make, host, now)
        self._contexts[host] = (now + _USED_FOR, made)
        while len(self._contexts) > _KEPT:
            self._contexts.popitem(last=False)
        return made

    def certificate(self, host: str, now: datetime) -> x509.Certificate:
        """One for `host`, of this authority."""
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:_NAME_CHARS])]))
            .issuer_name(self._certificate.subject)
            .public_key(self._host_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _BACKDATED, self._certificate.not_valid_before_utc))
            .not_valid_after(min(now + _LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._host_key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )

    def _make(self, host: str, now: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols([_HTTP])
        pem = self.certificate(host, now).public_bytes(Encoding.PEM) + self._host_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        # The library reads keys from files alone; this one is in no folder.
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return context


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _new(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two servers must not have one name: programs look an authority up by it.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Corral sandboxes {secrets.token_hex(4)}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _parsed(path: Path, data: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    damaged = ConfigError(
        f"{path} is not the authority that this server made: put it back from a copy, or move it away for a new one, "
        "which sandboxes trust once they are started anew"
    )
    try:
        certificate = x509.load_pem_x509_certificate(data)
        key = load_pem_private_key(data, None)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise damaged from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise damaged
    return certificate, key


def _write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.public_bytes(Encoding.PEM))
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _alone(path: Path) -> Generator[None, None, None]:
    """One process at a time makes the file."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
