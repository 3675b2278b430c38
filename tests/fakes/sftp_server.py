"""An SFTP server on loopback over a folder, which can also answer as no honest server would."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko


class SftpServer:
    """A context manager. `listing`, if set, is what it says of every folder."""

    def __init__(self, root: Path, *, user: str = "me", password: str | None = None) -> None:
        """Without a password it lets everybody in, and nobody else."""
        self.root = root
        self.user, self.password = user, password
        self.accepted: paramiko.PKey | None = None
        """A key that opens it."""
        self.key: paramiko.PKey = paramiko.ECDSAKey.generate()
        self.listing: Any = None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"sftp://{user}@127.0.0.1:{self.port}"
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def host_key(self) -> str:
        return f"{self.key.get_name()} {self.key.get_base64()}"

    def __enter__(self) -> SftpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            self._transports.append(transport)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, owner=self)
            try:
                transport.start_server(server=_Door(self))
            except (paramiko.SSHException, EOFError):
                transport.close()


class _Door(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, server: SftpServer) -> None:
        self._server = server

    def get_allowed_auths(self, _username: str) -> str:
        return "none,password,publickey"

    def check_auth_none(self, username: str) -> int:
        is_open = self._server.password is None and self._server.accepted is None and username == self._server.user
        return int(paramiko.AUTH_SUCCESSFUL if is_open else paramiko.AUTH_FAILED)

    def check_auth_password(self, username: str, password: str) -> int:
        is_right = (username, password) == (self._server.user, self._server.password)
        return int(paramiko.AUTH_SUCCESSFUL if is_right else paramiko.AUTH_FAILED)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        is_right = username == self._server.user and key == self._server.accepted
        return int(paramiko.AUTH_SUCCESSFUL if is_right else paramiko.AUTH_FAILED)

    def check_channel_request(self, _kind: str, _number: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]
    def __init__(self, door: _Door, owner: SftpServer) -> None:
        super().__init__(door)
        self._server = owner

    def _real(self, path: str) -> Path:
        return self._server.root / path.lstrip("/")

    def list_folder(self, path: str) -> Any:
        if self._server.listing is not None:
            return list(self._listed())
        try:
            found = []
            for entry in sorted(self._real(path).iterdir()):
                attributes = paramiko.SFTPAttributes.from_stat(entry.lstat())
                attributes.filename = entry.name
                found.append(attributes)
            return found
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def _listed(self) -> Iterator[paramiko.SFTPAttributes]:
        for name, mode in self._server.listing:
            attributes = paramiko.SFTPAttributes()
            attributes.filename, attributes.st_mode, attributes.st_size = name, mode, 1
            yield attributes

    def stat(self, path: str) -> Any:
        return self._stat(path, follows=True)

    def lstat(self, path: str) -> Any:
        return self._stat(path, follows=False)

    def _stat(self, path: str, *, follows: bool) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._real(path).stat(follow_symlinks=follows))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def open(self, path: str, _flags: int, _attr: Any) -> Any:
        try:
            file = self._real(path).open("rb")
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle = paramiko.SFTPHandle()
        handle.readfile = file
        return handle

    def readlink(self, path: str) -> Any:
        return str(self._real(path).readlink())
