"""Whom programs of the sandbox trust, inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.guest.trust import Trust
from tests.unit.guest.conftest import Client
from tests.unit.guest.streams import Talk

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
OTHER = PEM.replace("MIIB", "MIIC")


def told(client: Client, authority: object) -> Talk:
    talk = Talk(client, "trust", authority=authority)
    talk.until(lambda: talk.messages or talk.reset is not None)
    return talk


def test_programs_that_start_from_now_on_find_it_by_their_environment(client: Client) -> None:
    assert client.bash("before", "echo [$SSL_CERT_FILE]").data == b"[]\n"
    assert told(client, PEM).messages == [{}]
    assert client.bash("bundle", 'tail -n 3 "$SSL_CERT_FILE"').data.decode() == PEM
    assert client.bash("alone", 'cat "$NODE_EXTRA_CA_CERTS"').data.decode() == PEM
    assert b"bundle.pem" in client.bash("wget", 'cat "$WGETRC" "$APT_CONFIG"').data
    listed = client.bash("all", "printenv REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT | sort -u | wc -l")
    assert listed.data == b"1\n"


def test_another_authority_takes_its_place(client: Client) -> None:
    told(client, PEM)
    assert told(client, OTHER).messages == [{}]
    assert client.bash("alone", 'cat "$NODE_EXTRA_CA_CERTS"').data.decode() == OTHER
    assert client.bash("bundle", 'grep -c ^MIIB$ "$SSL_CERT_FILE"').data == b"0\n"


@pytest.mark.parametrize("authority", ["", "nonsense", PEM + "x" * 70_000, 7, None])
def test_what_is_no_certificate_is_refused(client: Client, authority: object) -> None:
    talk = told(client, authority)
    assert talk.messages == []
    assert talk.reset is not None
    assert client.bash("c", "echo [$SSL_CERT_FILE]").data == b"[]\n"


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "trust", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("kept")
    (folder / "bundle.pem.new").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        Trust(str(folder)).take(PEM)
    (folder / "bundle.pem.new").unlink()
    (folder / "bundle.pem").symlink_to(elsewhere)
    Trust(str(folder)).take(PEM)
    assert elsewhere.read_text() == "kept"
    assert not (folder / "bundle.pem").is_symlink()


def test_everybody_may_read_it(tmp_path: Path) -> None:
    trust = Trust(str(tmp_path / "trust"))
    assert trust.variables == {}
    trust.take(PEM)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()}
    assert modes == {0o644}
