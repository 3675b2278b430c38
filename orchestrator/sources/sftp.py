"""Sources of type `sftp`: files and folders of SSH servers whose keys are pinned. Blocking."""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from orchestrator.egress.dialer import Dialer
from orchestrator.errors import SourceFailed
from orchestrator.policy.urls import Url
from orchestrator.sources.delivery import Tree, shown
from orchestrator.sources.fetch import Fetch
from orchestrator.sources.profiles import SshProfile

if TYPE_CHECKING:
    import paramiko

_LOGIN_TIMEOUT_S = 15.0
_SILENCE_TIMEOUT_S = 30.0
_DEPTH = 64
_QUESTION_BYTES = 32 << 10
_AHEAD_BYTES = 2 << 20


def fetch_sftp(
    url: Url, profile: SshProfile | None, keys: Sequence[str], tree: Tree, fetch: Fetch, dialer: Dialer
) -> None:
    """Brings the file or folder of `url`, whose server must have one of `keys`. Raises `SourceFailed`."""
    path = unquote(url.path)
    with _opened(url, profile, keys, fetch, dialer) as files, _faults(fetch):
        found = files.stat(path)  # a link is followed here: it is what was asked for
        if stat.S_ISREG(found.st_mode or 0):
            with files.open(path, "rb") as file:
                tree.add_only_file(_Pieces(file, found.st_size or 0), found.st_size or 0)
        elif stat.S_ISDIR(found.st_mode or 0):
            _add_folder(files, path.rstrip("/"), "", tree, fetch)
        else:
            raise SourceFailed("it is neither a file nor a folder")


def _add_folder(files: Any, folder: str, below: str, tree: Tree, fetch: Fetch) -> None:
    if below.count("/") > _DEPTH:
        raise SourceFailed(f"{shown(below)} is too deep")
    inner: list[str] = []
    for entry in _listing(files, folder or "/", fetch):
        fetch.check()
        name, mode = str(entry.filename), entry.st_mode or 0
        if name in (".", ".."):
            continue
        if "/" in name or "\0" in name:
            raise SourceFailed(f"the server lists {shown(name)}, which is not a name")
        path = f"{below}{name}"
        if stat.S_ISDIR(mode):
            tree.add_folder(path)
            inner.append(name)
        elif stat.S_ISLNK(mode):
            tree.add_link(path, str(files.readlink(f"{folder}/{name}")))
        elif stat.S_ISREG(mode):
            with files.open(f"{folder}/{name}", "rb") as file:
                content = _Pieces(file, entry.st_size or 0)
                tree.add_file(path, content, entry.st_size or 0, is_executable=bool(mode & stat.S_IXUSR))
        else:
            raise SourceFailed(f"{shown(path)} is neither a file nor a folder nor a link")
    for name in inner:
        _add_folder(files, f"{folder}/{name}", f"{below}{name}/", tree, fetch)


def _listing(files: Any, folder: str, fetch: Fetch) -> list[Any]:
    """All of it before anything else is asked: the library takes whatever is answered next for more of the listing."""
    found: list[Any] = []
    for entry in files.listdir_iter(folder):
        fetch.check()
        found.append(entry)
        if len(found) > fetch.limits.max_members:
            raise SourceFailed(f"it has more than {fetch.limits.max_members} files and folders")
    return found


class _Pieces:
    """A file read with many questions at once, but never more than a few of them ahead: what the library reads ahead it
    keeps in memory.
    """

    def __init__(self, file: Any, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._asked_bytes = 0
        self._ready: list[bytes] = []

    def read(self, size: int) -> bytes:
        if not self._ready and self._asked_bytes < self._size_bytes:
            end = min(self._size_bytes, self._asked_bytes + _AHEAD_BYTES)
            asked = [(at, min(_QUESTION_BYTES, end - at)) for at in range(self._asked_bytes, end, _QUESTION_BYTES)]
            self._asked_bytes = end
            self._ready = list(reversed(list(self._file.readv(asked))))
        if not self._ready:
            return b""
        piece = self._ready.pop()
        if len(piece) > size:
            self._ready.append(piece[size:])
        return piece[:size]


@contextlib.contextmanager
def _opened(
    url: Url, profile: SshProfile | None, keys: Sequence[str], fetch: Fetch, dialer: Dialer
) -> Generator[Any, None, None]:
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it logs what it raises
    connection = dialer.dial(url.host, url.port)
    with fetch.watch(connection), _faults(fetch):
        transport = paramiko.Transport(connection)
        try:
            transport.banner_timeout = transport.auth_timeout = _LOGIN_TIMEOUT_S
            _want_keys(transport, keys)
            try:
                transport.start_client(timeout=min(_LOGIN_TIMEOUT_S, fetch.left_s))
            except paramiko.ssh_exception.IncompatiblePeer as error:
                raise SourceFailed(f"{url.host} has no host key of the kind that is known") from error
            key = transport.get_remote_server_key()
            if f"{key.get_name()} {key.get_base64()}" not in keys:
                raise SourceFailed(f"{url.host} has another host key than the one that is known")
            _log_in(transport, url, profile)
            files = paramiko.SFTPClient.from_transport(transport)
            if files is None:
                raise SourceFailed(f"{url.host} offers no files")
            channel = files.get_channel()
            if channel is not None:
                channel.settimeout(_SILENCE_TIMEOUT_S)
            yield files
        finally:
            transport.close()
            connection.close()


def _want_keys(transport: Any, keys: Sequence[str]) -> None:
    """Of the kinds that are known: a server that has several shows the first that is asked for."""
    kinds = {key.split()[0] for key in keys}
    options = transport.get_security_options()
    options.key_types = tuple(
        kind for kind in options.key_types if kind in kinds or (kind.startswith("rsa-") and "ssh-rsa" in kinds)
    )


def _log_in(transport: paramiko.Transport, url: Url, profile: SshProfile | None) -> None:
    import paramiko

    user = profile.user if profile is not None else url.user or "anonymous"
    try:
        if profile is None:
            transport.auth_none(user)
        elif profile.key_file is not None:
            transport.auth_publickey(user, paramiko.PKey.from_path(profile.key_file))
        else:
            transport.auth_password(user, profile.password or "")
    except paramiko.AuthenticationException:
        told = "" if profile is not None else "; give a 'profile' of the server's settings"
        raise SourceFailed(f"{url.host} does not let {shown(user)} in{told}") from None
    except (OSError, ValueError) as error:
        raise SourceFailed("the key of the profile cannot be read") from error


@contextlib.contextmanager
def _faults(fetch: Fetch) -> Generator[None, None, None]:
    import paramiko

    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        fetch.check()
        raise SourceFailed(f"it cannot be read: {error.strerror or type(error).__name__}") from error
    except (paramiko.SSHException, EOFError, OSError, UnicodeDecodeError) as error:
        fetch.check()
        raise SourceFailed(f"the SSH server broke off: {type(error).__name__}") from error
