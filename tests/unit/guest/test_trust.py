"""The authority that programs trust, inside: which files are written, and which variables name them."""

from __future__ import annotations

import json
import os
import ssl
import threading
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.egress.certificates import Authority
from orchestrator.guest import trust
from orchestrator.guest.trust import Trust
from tests.unit.guest.conftest import Client, Guest
from tests.unit.guest.streams import Talk


@pytest.fixture
def pem(tmp_path: Path) -> str:
    return Authority.open(tmp_path / "authority", SystemClock()).pem


def told(client: Client, authority: object) -> Talk:
    talk = Talk(client, "trust", authority=authority)
    talk.until_end()
    return talk


def test_programs_of_all_further_calls_trust_it_beside_the_images_authorities(guest: Guest, pem: str) -> None:
    client = guest.greeted()
    assert client.bash("before", "env | grep -cE 'SSL|CA_|CERT'").data == b"0\n"
    assert told(client, pem).messages == [{}]
    named = client.bash("after", "echo $SSL_CERT_FILE $GIT_SSL_CAINFO $NODE_EXTRA_CA_CERTS $APT_CONFIG").data.split()
    bundle, git, extra, apt = (Path(os.fsdecode(each)) for each in named)
    assert bundle == git
    assert extra.read_text() == pem
    assert f'CaInfo "{bundle}"' in apt.read_text()
    subjects = {str(each["subject"]) for each in ssl.create_default_context(cafile=bundle).get_ca_certs()}
    images = {str(each["subject"]) for each in ssl.create_default_context().get_ca_certs()}
    assert len(subjects - images) == 1
    assert subjects >= images


def test_a_cell_that_comes_after_trusts_it_too(client: Client, pem: str) -> None:
    code = "import os; print(os.environ.get('SSL_CERT_FILE', '')[-10:])"
    assert client.cell("before", code).data == b"\n"
    told(client, pem)
    assert client.cell("after", code).data == b"bundle.pem\n"


def test_what_a_call_says_comes_before(client: Client, pem: str) -> None:
    told(client, pem)
    assert client.bash("c", "echo $SSL_CERT_FILE", env={"SSL_CERT_FILE": "mine"}).data == b"mine\n"


def test_another_takes_its_place(client: Client, pem: str, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other", SystemClock()).pem
    told(client, other)
    told(client, pem)
    both = client.bash("c", "cat $SSL_CERT_FILE $NODE_EXTRA_CA_CERTS").data.decode()
    assert both.count(pem) == 2
    assert other not in both


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "nonsense",
        None,
        7,
        "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n\u00e4\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_changes_nothing(client: Client, authority: object) -> None:
    talk = told(client, authority)
    assert talk.reset is not None
    assert talk.reset["code"] == "bad_request"
    assert client.bash("c", "echo [$SSL_CERT_FILE]").data == b"[]\n"


def test_a_folder_that_cannot_be_written_is_said(guest: Guest, pem: str) -> None:
    client = guest.greeted()
    (guest.folder / "trust").write_text("in the way")
    talk = told(client, pem)
    assert talk.reset is not None
    assert talk.reset["code"] == "failed"
    assert client.bash("c", "echo [$SSL_CERT_FILE]").data == b"[]\n"


def test_everybody_reads_and_nobody_else_writes_whoever_made_the_folder(tmp_path: Path, pem: str) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    folder.chmod(0o777)
    former = os.umask(0o077)
    try:
        Trust(str(folder), {}).establish(pem)
    finally:
        os.umask(former)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [folder, *folder.iterdir()]}
    assert modes.pop("trust") == "0o755"
    assert set(modes) == {"authority.pem", "bundle.pem", "wgetrc", "apt.conf", "chromium.json"}
    assert set(modes.values()) == {"0o644"}


def test_chromiums_policy_has_it(tmp_path: Path, pem: str) -> None:
    Trust(str(tmp_path), {}).establish(pem)
    (certificate,) = json.loads((tmp_path / "chromium.json").read_text())["CACertificates"]
    assert "".join(pem.splitlines()[1:-1]) == certificate


def test_a_bundle_that_the_image_names_is_what_it_begins_with(tmp_path: Path, pem: str) -> None:
    (tmp_path / "own.pem").write_text("# the image's own")
    made = Trust(str(tmp_path / "trust"), {"SSL_CERT_FILE": str(tmp_path / "own.pem")}).establish(pem)
    assert Path(made["SSL_CERT_FILE"]).read_text() == f"# the image's own\n{pem}"


def test_what_a_setup_puts_in_a_bundles_place_stops_nobody(
    tmp_path: Path, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would be waited for, an endless file would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"x" * 500_000)
    (tmp_path / "good").write_text("# good")
    places = [str(tmp_path / name) for name in ("missing", "pipe", "folder", "endless", "large", "good")]
    monkeypatch.setattr(trust, "_BUNDLES", places)
    made: list[dict[str, str]] = []
    work = threading.Thread(target=lambda: made.append(Trust(str(tmp_path / "t"), {}).establish(pem)), daemon=True)
    work.start()
    work.join(10)
    assert made, "it waits"
    assert Path(made[0]["SSL_CERT_FILE"]).read_text() == f"# good\n{pem}"


def test_an_image_without_any_has_this_one(tmp_path: Path, pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_BUNDLES", ())
    monkeypatch.setattr(trust, "_CERTIFI", ())
    made = Trust(str(tmp_path), {}).establish(pem)
    assert Path(made["SSL_CERT_FILE"]).read_text() == f"\n{pem}"


def test_wget_keeps_what_the_image_says(tmp_path: Path, pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wgetrc").write_text("timeout = 9\n")
    monkeypatch.setattr(trust, "_WGETRC", str(tmp_path / "wgetrc"))
    made = Trust(str(tmp_path / "t"), {}).establish(pem)
    written = Path(made["SYSTEM_WGETRC"]).read_text()
    assert written == f"ca_certificate = {made['SSL_CERT_FILE']}\ntimeout = 9\n"
