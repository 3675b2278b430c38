"""Which mirrors the base is made from, given a host's apt sources."""

import importlib
from pathlib import Path

import pytest

debian = importlib.import_module("image_build.debian")

BOOKWORM_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_CODENAME=bookworm\n'

STANZAS = """\
# A comment stands anywhere.
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components:
 main
"""

WHOLE = [
    "deb http://mirror.example/debian bookworm main",
    "deb http://mirror.example/debian bookworm-updates main",
    "deb http://mirror.example/security bookworm-security main",
]


def test_stanzas_give_one_line_per_suite() -> None:
    assert debian.source_lines([STANZAS]) == WHOLE


def test_one_line_format_with_options_and_comments() -> None:
    text = """
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian bookworm main contrib # ours
deb [trusted=yes] http://mirror.example/debian bookworm-updates main
deb http://mirror.example/security/ bookworm-security main
"""
    assert debian.source_lines([text]) == WHOLE


def test_first_mirror_of_a_suite_wins_across_files() -> None:
    second = STANZAS.replace("mirror.example", "second.example")
    assert debian.source_lines([STANZAS, second]) == WHOLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb cdrom:[Debian]/ bookworm main",
        "deb http://mirror.example/debian",
        "deb [arch=amd64 http://mirror.example/debian bookworm main",
        "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n",
        "Types: deb\nEnabled: no\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n",
    ],
)
def test_no_bookworm_mirror_leaves_the_choice_to_mmdebstrap(text: str) -> None:
    assert debian.source_lines([text]) == []


def test_security_updates_are_never_missing() -> None:
    # mmdebstrap's own choice of mirrors for a stable suite has them.
    assert debian.source_lines(["deb http://mirror.example/debian bookworm main"]) == []


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        (BOOKWORM_RELEASE, WHOLE),
        ("ID=debian\nVERSION_CODENAME=trixie\n", []),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", []),
        ("", []),
    ],
)
def test_only_a_bookworm_host_lends_its_mirrors(tmp_path: Path, os_release: str, expected: list[str]) -> None:
    folder = tmp_path / "etc/apt/sources.list.d"
    folder.mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text(os_release)
    (folder / "debian.sources").write_text(STANZAS)
    (folder / "other.list.disabled").write_text("deb http://wrong.example/debian bookworm main")
    assert debian.host_source_lines(tmp_path) == expected


def test_a_host_without_apt_lends_nothing(tmp_path: Path) -> None:
    assert debian.host_source_lines(tmp_path) == []
