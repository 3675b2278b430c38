from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority
from orchestrator.errors import ConfigError

pytestmark = pytest.mark.anyio


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
