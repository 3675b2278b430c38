"""Sources of type `repository`: what `git` fetches, outside the sandbox and without believing the repository. Blocking.

git gets no configuration but ours, no hooks, no prompts, no transport besides HTTPS (and SSH where the source is of
SSH), and no way out besides a tunnel that judges each connection. Secrets are in its environment: not in its arguments,
not in an address, not in the `.git` that is delivered.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from orchestrator.egress import passage
from orchestrator.egress.dialer import Dialer
from orchestrator.egress.echoes import spelled
from orchestrator.egress.http import HttpClient
from orchestrator.egress.tunnel import Tunnel, opened_tunnel
from orchestrator.errors import SourceFailed
from orchestrator.policy.urls import Url
from orchestrator.sources.delivery import Tree
from orchestrator.sources.fetch import Fetch
from orchestrator.sources.host_keys import as_known_hosts
from orchestrator.sources.lfs import fetch_objects
from orchestrator.sources.profiles import SshProfile
from orchestrator.sources.web import check_status
from orchestrator.wire.sources import RepositorySource

_REFS = "/info/refs"
_SERVICE = "service=git-upload-pack"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MEMORY_LIMIT_KIB = 4 << 20
_LOOK_EVERY_S = 0.25
_TOLD_BYTES = 4096
_PRINTED_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
_PATH_OF_PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONFIGURATION: Mapping[str, str] = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.askPass": "",
    "credential.helper": "",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "submodule.recurse": "false",
    "transfer.credentialsInUrl": "die",
    "advice.detachedHead": "false",
    "maintenance.auto": "false",
}


@dataclass(frozen=True, slots=True)
class GitAccess:
    """How one repository is reached."""

    url: Url
    dialer: Dialer
    ca_file: Path | None
    """Who is trusted; None: whom this machine trusts."""
    profile: SshProfile | None
    host_keys: tuple[str, ...]


def has_git() -> bool:
    """Whether this machine has the program, where it is looked for."""
    return shutil.which("git", path=_PATH_OF_PROGRAMS) is not None


def fetch_repository(source: RepositorySource, access: GitAccess, tree: Tree, fetch: Fetch, client: HttpClient) -> None:
    """Brings the files of one commit: with its `.git`, or those of a folder alone. Raises `SourceFailed`,
    `NetworkError`.
    """
    url, headers = access.url, dict[str, str]()
    if url.scheme == "https":
        # git sends a header wherever a redirect leads: so it follows none, and is told where they end.
        url = _final(url, client)
        headers = dict(access.dialer.headers(url.host, url.port))
    with opened_tunnel(access.dialer) as tunnel:
        if access.profile is not None:
            url = replace(url, user=access.profile.user)
        git = _Git(fetch, _environment(access, url, headers, tunnel, fetch.folder), tunnel, _hidden(headers))
        place = fetch.folder / "repository"
        _clone(git, url, access.url, source, place)
        _check_tree(git, source, place, fetch)
        git.run("checkout", "--force", "HEAD", *(["--", source.folder] if source.folder else []), at=place)
        if source.submodules:
            git.run("submodule", "update", "--init", "--recursive", "--depth=1", "--jobs=1", at=place)
        if source.lfs:
            fetch_objects(url, place, _names_in_lfs(git, place), client, fetch)
    root = place / source.folder if source.folder else place
    if not root.is_dir() or root.is_symlink():
        raise SourceFailed("'path' is not a folder of the repository")
    _add_folder(root, "", tree, fetch)


def _final(url: Url, client: HttpClient) -> Url:
    with client.get(url.with_path(url.path.rstrip("/") + _REFS, _SERVICE)) as answer:
        check_status(answer)
        found = answer.url
    if not found.path.endswith(_REFS) or found.scheme != "https":
        raise SourceFailed(f"{url.shown} redirects to what is not a repository")
    return found.with_path(found.path.removesuffix(_REFS))


def _clone(git: _Git, url: Url, named: Url, source: RepositorySource, place: Path) -> None:
    text = _text(url)
    git.run("init", "--quiet", "--template=", str(place))
    git.run("remote", "add", "origin", _text(named), at=place)
    ref = source.ref or "HEAD"
    asked = [ref] if _COMMIT.fullmatch(ref) or ref == "HEAD" else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    if len(asked) > 1:
        listed = git.read("ls-remote", "--", text, *asked, at=place)
        asked = [each for each in asked if re.search(rf"\s{re.escape(each)}$", listed, re.MULTILINE)][:1]
        if not asked:
            raise SourceFailed(f"the repository has no branch and no tag '{ref}'")
    git.run(
        "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
        "--", text, f"+{asked[0]}:refs/corral/fetched", at=place,
    )  # fmt: skip
    commit = git.read("rev-parse", "--verify", "refs/corral/fetched^{commit}", at=place).strip()
    branch = _branch(git, text, asked[0], place)
    if branch:
        git.run("update-ref", f"refs/heads/{branch}", commit, at=place)
        git.run("update-ref", f"refs/remotes/origin/{branch}", commit, at=place)
        git.run("symbolic-ref", "HEAD", f"refs/heads/{branch}", at=place)
    else:
        git.run("update-ref", "--no-deref", "HEAD", commit, at=place)
    git.run("update-ref", "-d", "refs/corral/fetched", at=place)


def _branch(git: _Git, text: str, asked: str, place: Path) -> str:
    """What the commit is a branch of; empty: of none."""
    if asked == "HEAD":
        found = re.match(
            r"ref: refs/heads/(\S+)\tHEAD", git.read("ls-remote", "--symref", "--", text, "HEAD", at=place)
        )
        return found[1] if found else ""
    return asked.removeprefix("refs/heads/") if asked.startswith("refs/heads/") else ""


def _check_tree(git: _Git, source: RepositorySource, place: Path, fetch: Fetch) -> None:
    """Counts what is going to be checked out before it is: a small pack may hold a tree of billions of files."""
    asked = ["ls-tree", "-r", "-l", "-z", "--full-tree", "HEAD"]
    if source.folder:
        asked += ["--", f"{source.folder}/"]
    count, size_bytes, rest = 0, 0, b""
    with git.running(asked, at=place) as pieces:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\0")
            count += len(lines)
            size_bytes += sum(int(size) for line in lines if (size := line.partition(b"\t")[0].split()[-1]).isdigit())
            if count > fetch.limits.max_members:
                raise SourceFailed(f"it has more than {fetch.limits.max_members} files and folders")
            if size_bytes > fetch.limits.size_bytes:
                raise SourceFailed(f"it is larger than {fetch.limits.size_bytes} bytes")
    if source.folder and not count:
        raise SourceFailed("'path' is not a folder of the repository")


def _names_in_lfs(git: _Git, place: Path) -> list[str]:
    """What the repository's attributes say is kept in LFS."""
    listed = b""
    with git.running(["ls-files", "-z", "--", ":(top,attr:filter=lfs)"], at=place) as pieces:
        for piece in pieces:
            listed += piece
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _add_folder(folder: Path, below: str, tree: Tree, fetch: Fetch) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        fetch.check()
        name = f"{below}{entry.name}"
        if entry.is_symlink():
            tree.add_link(name, os.readlink(entry.path))  # noqa: PTH115 - keeps bytes that are no text
        elif entry.is_dir():
            tree.add_folder(name)
            _add_folder(Path(entry.path), f"{name}/", tree, fetch)
        elif entry.is_file():
            with open(entry.path, "rb") as file:  # noqa: PTH123 - keeps bytes that are no text
                found = os.fstat(file.fileno())
                tree.add_file(name, file, found.st_size, is_executable=bool(found.st_mode & stat.S_IXUSR))


def _text(url: Url) -> str:
    user = f"{url.user}@" if url.user else ""
    return f"{url.scheme}://{user}{url.authority}{url.path}"


# the program


def _hidden(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What must not be in what git says: values, and without a scheme before them."""
    forms = [spelled(value) for value in headers.values()]
    return (*(whole for whole, _ in forms), *(bare for _, bare in forms if bare))


def _environment(
    access: GitAccess, url: Url, headers: Mapping[str, str], tunnel: Tunnel, folder: Path
) -> dict[str, str]:
    home = folder / "home"
    home.mkdir()
    settings = list(_CONFIGURATION.items())
    settings += [(f"http.{url.origin}/.extraHeader", f"{name}: {value}") for name, value in headers.items()]
    variables = {
        "PATH": _PATH_OF_PROGRAMS,
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": "https:ssh" if access.profile else "https",
        "GIT_OPTIONAL_LOCKS": "0",
        "https_proxy": tunnel.url,
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (name, value) in enumerate(settings):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    if access.ca_file is not None:
        variables["GIT_SSL_CAINFO"] = str(_all_authorities(access.ca_file, folder))
    if access.profile is not None:
        variables |= _ssh(access, access.profile, tunnel, folder)
    return variables


def _all_authorities(own: Path, folder: Path) -> Path:
    """Those of the machine and the operator's own: git takes one file."""
    files = [own]
    if (usual := ssl.get_default_verify_paths().cafile) is not None:
        files.append(Path(usual))
    texts = [file.read_text(encoding="utf-8") for file in files]
    target = folder / "authorities.pem"
    target.write_text("\n".join(texts), encoding="utf-8")
    return target


def _ssh(access: GitAccess, profile: SshProfile, tunnel: Tunnel, folder: Path) -> dict[str, str]:
    known = folder / "known_hosts"
    known.write_text(as_known_hosts(access.url.host, access.url.port, access.host_keys), encoding="ascii")
    if profile.key_file is None:
        raise SourceFailed("the profile has no 'key_file', which git needs")
    proxy = shlex.join([sys.executable, "-I", passage.__file__])
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "IdentityFile": str(profile.key_file),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "ForwardAgent": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ConnectTimeout": "20",
        "ProxyCommand": f"{proxy} %h %p",
    }
    words = ["ssh", "-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
    return {
        "GIT_SSH_COMMAND": shlex.join(words),
        "GIT_SSH_VARIANT": "ssh",
        "CORRAL_TUNNEL": f"{tunnel.port}:{tunnel.password}",
    }


@dataclass(frozen=True, slots=True)
class _Git:
    """Runs git, ends it with the fetch, and holds it to what the source may take."""

    fetch: Fetch
    variables: Mapping[str, str] = field(repr=False)
    tunnel: Tunnel
    secrets: tuple[str, ...] = field(repr=False)

    def run(self, *words: str, at: Path | None = None) -> None:
        """Raises `SourceFailed` with what git says."""
        self.read(*words, at=at)

    def read(self, *words: str, at: Path | None = None) -> str:
        """As `run`; what it prints."""
        printed = b""
        with self.running(words, at=at) as pieces:
            for piece in pieces:
                printed = (printed + piece)[:_PRINTED_BYTES]
        return printed.decode("utf-8", "replace")

    @contextlib.contextmanager
    def running(self, words: Sequence[str], at: Path | None = None) -> Generator[Iterator[bytes], None, None]:
        """What git prints while it runs; at the block's end it is over. Raises `SourceFailed` if it failed."""
        self.fetch.check()
        # A limit of memory: a tree of trees may have billions of entries, of which git makes a list.
        limited = ["/bin/sh", "-c", f'ulimit -v {_MEMORY_LIMIT_KIB}; exec "$@"', "sh", "git", *words]
        with (self.fetch.folder / "told").open("w+b") as told:
            try:
                process = subprocess.Popen(
                    limited, cwd=at or self.fetch.folder, env=dict(self.variables), stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=told, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise SourceFailed(f"git cannot be started: {error.strerror}") from error
            with self.fetch.ending(lambda: _kill(process)):
                try:
                    yield self._printed(process)
                    code = process.wait()
                finally:
                    _kill(process)
                    process.wait()
                    assert process.stdout is not None  # noqa: S101 - it is a pipe
                    process.stdout.close()
            self.fetch.check()
            if code != 0:
                raise SourceFailed(self._reason(code, told))

    def _printed(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        end = process.stdout.fileno()
        while True:
            if not select.select([end], [], [], _LOOK_EVERY_S)[0]:
                self._look()
            elif piece := os.read(end, _PIECE_BYTES):
                yield piece
            else:
                return

    def _look(self) -> None:
        """What git has written so far."""
        size_bytes = count = 0
        for folder, _, names in os.walk(self.fetch.folder):
            count += 1 + len(names)
            for name in names:
                with contextlib.suppress(OSError):
                    size_bytes += os.lstat(f"{folder}/{name}").st_size
            self.fetch.check_room(size_bytes, count)

    def _reason(self, code: int, told: IO[bytes]) -> str:
        if self.tunnel.refusals:
            return self.tunnel.refusals[0]
        if code == 127:
            return "git is not installed on the server's machine"
        told.seek(0)
        text = told.read(_TOLD_BYTES).decode("utf-8", "replace")
        for secret in (*self.secrets, self.tunnel.password, str(self.fetch.folder)):
            text = text.replace(secret, "…")
        lines = [line for line in map(str.strip, text.splitlines()) if not line.startswith("hint:")]
        told_lines = "; ".join("".join(char if char.isprintable() else "?" for char in line) for line in lines[-3:])
        return f"git: {told_lines[:500] or f'exit code {code}'}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With everything that it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
