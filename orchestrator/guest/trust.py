"""Whom the sandbox's programs trust beside those whom its image trusts: the authority of its server.

    trust   {"authority": PEM}      MESSAGE {} when programs that start from now on trust it

Nothing of the image is changed, and most of it cannot be: there are files in a folder of the guest's own, and
variables and configurations that name them. Another authority takes the place of the one before.
"""

from __future__ import annotations

import os
from typing import Dict

_SYSTEMS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where images keep those whom everybody trusts."""
_LIMIT_BYTES = 64 << 10
_BEGINNING = "-----BEGIN CERTIFICATE-----"
_BY_BUNDLE = (
    "SSL_CERT_FILE",  # OpenSSL: Python, Ruby, Perl, PHP; also Go and Rust
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
)
_BY_AUTHORITY = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""These add to what the program has of its own."""


class Trust:
    """The folder and what names it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.variables: Dict[str, str] = {}
        """For every process. Empty before `take`."""

    def take(self, authority: str) -> None:
        """Trusts who signed with `authority`, one or more certificates in PEM. Raises `OSError` or `ValueError`."""
        if not authority.startswith(_BEGINNING) or len(authority) > _LIMIT_BYTES:
            raise ValueError("the authority is no certificate")
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        bundle = self._write("bundle.pem", _of_system() + authority)
        alone = self._write("authority.pem", authority)
        self.variables = dict.fromkeys(_BY_BUNDLE, bundle)
        self.variables.update(dict.fromkeys(_BY_AUTHORITY, alone))
        # Programs of GnuTLS read no variable, but files that one names.
        self.variables["WGETRC"] = self._write("wgetrc", "ca_certificate = %s\n" % bundle)
        self.variables["APT_CONFIG"] = self._write("apt.conf", 'Acquire::https::CaInfo "%s";\n' % bundle)

    def _write(self, name: str, text: str) -> str:
        """Whole or not at all; everybody may read it. The path."""
        path = os.path.join(self._folder, name)
        fresh = path + ".new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
        os.replace(fresh, path)
        return path


def _of_system() -> str:
    for path in _SYSTEMS:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n") + "\n"
        except OSError:
            continue
    return ""
