"""Stands for a private host of git repositories, HTTPS on loopback, and for a stranger's beside it; for the walk beside
it.

    .venv/bin/python examples/private-push/git_host.py FOLDER

Makes in FOLDER (new) an authority of its own with certificates, the repository `ledger.git`, two secrets, and
`corral.toml`, the settings of a Corral that may reach it. Serves until it is interrupted. Needs git.

`/ledger.git` wants a user and a password, as hosts of git do; `/api/commits` another password, and says what was
pushed. The stranger wants nothing, answers everybody, and writes down what it gets.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

PORT = 18443
HOST, STRANGER = "127.0.0.2", "127.0.0.3"
USER = "clerk"


def main() -> None:
    """Serves until it is interrupted."""
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(parents=True)
    folder = folder.resolve()
    make_repository(folder / "ledger.git")
    make_certificates(folder)
    push, api = (f"gt_{secrets.token_hex(16)}" for _ in range(2))
    # What `Authorization: Basic` has: a git host takes a token as a password.
    (folder / "push-secret").write_text(_basic(push))
    (folder / "api-secret").write_text(api)
    (folder / "every-form").write_text("\n".join((push, api, _basic(push), _basic(api))))

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "host.pem")
    for address, handler in ((HOST, _host(folder, push, api)), (STRANGER, _stranger(folder / "stranger.log"))):
        server = ThreadingHTTPServer((address, PORT), handler)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    settings = folder / "corral.toml"
    settings.with_suffix(".new").write_text(f"""\
network_exceptions = ["{HOST}:{PORT}", "{STRANGER}:{PORT}"]  # else no sandbox may reach this machine

[sources]
ca_file = "{folder / "authority.pem"}"  # who signs what a private host shows
""")
    settings.with_suffix(".new").rename(settings)
    print(f"serving https://{HOST}:{PORT}/ledger.git; settings in {settings}", flush=True)
    signal.pause()


def make_repository(folder: Path) -> None:
    """A bare one with one commit."""

    def git(*words: str, content: str = "") -> str:
        identity = ("-c", "user.name=Owner", "-c", "user.email=owner@shop.example")
        done = subprocess.run(
            ["git", *identity, *words], cwd=folder, input=content, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    folder.mkdir()
    git("init", "--quiet", "--bare", "--initial-branch=main")
    file = git("hash-object", "-w", "--stdin", content="date,item,amount\n2026-11-02,tea,3.00\n")
    tree = git("mktree", content=f"100644 blob {file}\tledger.csv\n")
    git("update-ref", "refs/heads/main", git("commit-tree", tree, "-m", "The ledger"))


def make_certificates(folder: Path) -> None:
    """`authority.pem`, which nobody on this machine trusts, and `host.pem`, signed by it, with its key."""
    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The shop's authority")])

    def sign(name: x509.Name, public_key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for each in extensions:
            builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints))
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    issuer = authority_key.public_key()
    authority = sign(authority_name, issuer, x509.BasicConstraints(ca=True, path_length=0))
    host = sign(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)]),
        key.public_key(),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer),
        x509.SubjectAlternativeName([x509.IPAddress(ip_address(each)) for each in (HOST, STRANGER)]),
    )
    (folder / "authority.pem").write_bytes(authority)
    (folder / "host.pem").write_bytes(host + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Answers(BaseHTTPRequestHandler):
    """What both have."""

    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _host(folder: Path, push: str, api: str) -> type[Answers]:
    class Host(Answers):
        def do_GET(self) -> None:
            body = self.body()
            path, _, query = self.path.partition("?")
            is_api = path == "/api/commits"
            if self.headers.get("Authorization") != f"Basic {_basic(api if is_api else push)}":
                self.answer(401, b"who are you?\n", WWW_Authenticate='Basic realm="shop"')
            elif is_api:
                self.answer(200, _commits(folder / "ledger.git"), Content_Type="application/json")
            else:
                self.answer_git(path, query, body)

        do_POST = do_GET

        def answer_git(self, path: str, query: str, body: bytes) -> None:
            variables = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "REMOTE_USER": USER,  # who is somebody may push
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            }
            done = subprocess.run(["git", "http-backend"], env=variables, input=body, capture_output=True, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
            self.answer(int(fields.pop("Status", "200").split()[0]), content, **fields)

    return Host


def _stranger(log: Path) -> type[Answers]:
    log.touch()

    class Stranger(Answers):
        def do_GET(self) -> None:
            with log.open("a") as file:
                file.write(f"{self.requestline}\n{self.headers}{self.body().decode('latin-1')}\n")
            self.answer(200, b"you are welcome\n")

        do_POST = do_GET

    return Stranger


def _commits(repository: Path) -> bytes:
    done = subprocess.run(
        ["git", "log", "--format=%h %an: %s", "main"], cwd=repository, check=True, capture_output=True, text=True
    )
    return json.dumps(done.stdout.splitlines()).encode() + b"\n"


def _basic(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
