"""Whom the sandbox's programs trust besides the image's authorities: the server, where it opens TLS on the way out.

    trust   {"authority": PEM}    MESSAGE {} once it holds for every call that comes after; again replaces it

Writes a folder that everybody reads and only root can change, in memory, so it is in no snapshot and in no fork:

    authority.pem   what was given                  bundle.pem      the image's authorities and it
    wgetrc          for wget                        apt.conf        for apt
    chromium.json   a managed policy; the image links to it from where Chromium looks
"""

from __future__ import annotations

import binascii
import glob
import json
import os
import re
import stat
from typing import Dict, List, Mapping

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Of Debian and Alpine, Fedora, SUSE, others."""
_CERTIFI = ("/usr/lib/python3*/*-packages/certifi/cacert.pem", "/usr/local/lib/python3*/*-packages/certifi/cacert.pem")
"""Where an image has no bundle of its own."""
_WGETRC = "/etc/wgetrc"
_LIMIT_BYTES = 400_000
"""Of a bundle. The folder's file system holds 1 MiB, and for a moment the old one beside the new."""
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\\s]+)-----END CERTIFICATE-----")


class Trust:
    """The folder, and the variables by which programs find what is in it."""

    def __init__(self, folder: str, env: Mapping[str, str]) -> None:
        """`env` are the sandbox's variables so far: the image may name a bundle of its own."""
        self._folder = folder
        self._own_bundle = env.get("SSL_CERT_FILE", "")

    def establish(self, authority: str) -> Dict[str, str]:
        """Writes the folder; what is new in the environment of programs. May be repeated.

        Raises:
            ValueError: `authority` is no certificate. OSError: it cannot be written.
        """
        certificates = _certificates(authority)
        bundle, wgetrc = self._path("bundle.pem"), _read(_WGETRC)
        # Others must not be able to change it, whoever made it.
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        os.chmod(self._folder, 0o755)
        self._write("authority.pem", authority.encode("ascii"))
        self._write("bundle.pem", b"\n".join((self._image_bundle(), authority.encode("ascii"))))
        # What the image says comes after, and holds.
        self._write("wgetrc", b"ca_certificate = %s\n" % os.fsencode(bundle) + wgetrc)
        self._write("apt.conf", b'Acquire::https::CaInfo "%s";\n' % os.fsencode(bundle))
        self._write("chromium.json", json.dumps({"CACertificates": certificates}).encode())
        extra = self._path("authority.pem")
        return {
            **dict.fromkeys(_BUNDLE_VARIABLES, bundle),
            **dict.fromkeys(_EXTRA_VARIABLES, extra),
            "SYSTEM_WGETRC": self._path("wgetrc"),
            "APT_CONFIG": self._path("apt.conf"),
        }

    def _image_bundle(self) -> bytes:
        """The first that there is. What the image's owner made of it is for nobody but this sandbox."""
        found = (path for pattern in _CERTIFI for path in sorted(glob.glob(pattern)))
        for path in (self._own_bundle, *_BUNDLES, *found):
            if path and (content := _read(path)):
                return content
        return b""

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all: programs may be reading it."""
        path = self._path(name)
        fresh = path + ".new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)
                file.write(content)
            os.replace(fresh, path)
        except OSError:
            os.unlink(fresh)
            raise


_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, hence Python, Ruby and most others; Go; Rust's native roots; uv; httpx
    "REQUESTS_CA_BUNDLE",  # requests and what is built on it: pip, botocore
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "HTTPLIB2_CA_CERTS",  # Google's client for Python
)
"""Of programs that read one bundle in place of their own."""
_EXTRA_VARIABLES = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Of programs that take more authorities beside their own."""


def _certificates(pem: str) -> List[str]:
    """Each certificate in base64. Raises `ValueError`."""
    found = ["".join(body.split()) for body in _CERTIFICATE.findall(pem)]
    if not found or not pem.isascii():
        raise ValueError("the authority is no certificate")
    for each in found:
        binascii.a2b_base64(each)
    return found


def _read(path: str) -> bytes:
    """Empty if it is no file, cannot be read or is too large. It may be anything: a setup has been root here."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_LIMIT_BYTES + 1)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return content if len(content) <= _LIMIT_BYTES else b""
