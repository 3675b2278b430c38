"""Stands for the chain whose books they are: one SSH server on loopback, with a private git repository and private
files, for the walk-through beside it.

    .venv/bin/python examples/branch-report/partner.py FOLDER

Makes in FOLDER (new) what it serves, a key that opens it, and `corral.toml`, the settings of a Corral that knows the
key. Serves until it is interrupted. Needs git.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paramiko

PORT = 18022
TAKINGS = {
    "s1.csv": "time,amount,kind\n09:01,12.50,sale\n09:07,30.00,sale\n09:30,2.50,refund\n",
    "s2.csv": "time,amount,kind\n08:55,99.00,training\n09:12,40.00,sale\n",
}
RATES = "currency,euros\nEUR,1\nCHF,1.10\nGBP,1.25\n"


def main() -> None:
    """Serves until it is interrupted."""
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(parents=True)
    folder = folder.resolve()
    (folder / "takings").mkdir()
    for name, content in {**TAKINGS, "s3.csv": "time,amount,kind\n"}.items():
        (folder / "takings" / name).write_text(content)
    make_repository(folder / "handbook")
    own_key, key = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(folder / "key"))
    listening = socket.create_server(("127.0.0.1", PORT))
    settings = folder / "corral.toml"
    settings.with_suffix(".new").write_text(f"""\
network_exceptions = ["127.0.0.1"]  # else no source may come from this machine

[sources.ssh.chain]
host = "127.0.0.1"
port = {PORT}
user = "reports"
key_file = "{folder / "key"}"
host_keys = ["{own_key.get_name()} {own_key.get_base64()}"]
""")
    settings.with_suffix(".new").rename(settings)
    print(f"serving; settings in {settings}", flush=True)
    while True:
        connection, _ = listening.accept()
        transport = paramiko.Transport(connection)
        transport.add_server_key(own_key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files, folder=folder)
        try:
            transport.start_server(server=Door(folder, key))
        except (paramiko.SSHException, EOFError):
            transport.close()


def make_repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "rates.csv").write_text(RATES)
    identity = ("-c", "user.name=chain", "-c", "user.email=books@chain.example")
    for words in (("init", "--quiet"), ("add", "--all"), (*identity, "commit", "--quiet", "--message=Rates")):
        subprocess.run(["git", *words], cwd=folder, check=True)


class Door(paramiko.ServerInterface):  # type: ignore[misc]
    """Lets one key in, for files and for reading one repository."""

    def __init__(self, folder: Path, key: paramiko.PKey) -> None:
        self._folder = folder
        self._key = key

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        is_right = username == "reports" and key == self._key
        return int(paramiko.AUTH_SUCCESSFUL if is_right else paramiko.AUTH_FAILED)

    def check_channel_request(self, _kind: str, _number: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_env_request(self, _channel: paramiko.Channel, _name: bytes, _value: bytes) -> bool:
        return True  # git says which protocol it speaks; the older one will do

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if shlex.split(command.decode()) != ["git-upload-pack", "/handbook"]:
            return False
        threading.Thread(target=self._send_repository, args=(channel,), daemon=True).start()
        return True

    def _send_repository(self, channel: paramiko.Channel) -> None:
        with subprocess.Popen(
            ["git", "upload-pack", str(self._folder / "handbook")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as git:
            assert git.stdin is not None
            assert git.stdout is not None
            threading.Thread(target=_copy, args=(channel, git.stdin), daemon=True).start()
            while piece := git.stdout.read1(1 << 16):
                channel.sendall(piece)
            channel.send_exit_status(git.wait())
        channel.close()


def _copy(channel: paramiko.Channel, target: Any) -> None:
    with target:
        while piece := channel.recv(1 << 16):
            target.write(piece)
            target.flush()


class Files(paramiko.SFTPServerInterface):  # type: ignore[misc]
    """The folder `takings`, to be read."""

    def __init__(self, door: Door, folder: Path) -> None:
        super().__init__(door)
        self._folder = folder

    def list_folder(self, path: str) -> Any:
        return [self._entry(entry) for entry in sorted(self._real(path).iterdir())]

    def stat(self, path: str) -> Any:
        real = self._real(path)
        return self._entry(real) if real.exists() else paramiko.SFTP_NO_SUCH_FILE

    lstat = stat

    def open(self, path: str, _flags: int, _attributes: Any) -> Any:
        handle = paramiko.SFTPHandle()
        handle.readfile = self._real(path).open("rb")
        return handle

    def _real(self, path: str) -> Path:
        inside = self.canonicalize(path).lstrip("/")
        return self._folder / inside if inside.split("/")[0] == "takings" else self._folder / "nothing"

    def _entry(self, real: Path) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(real.stat(), real.name)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
