"""`corral files`: the files of an environment, from outside.

What comes from there is hostile: names pass `neutralise` before they reach a terminal, and what is written here stays
below the folder that was named.
"""

from __future__ import annotations

import os
import secrets
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, StreamBroken, UrlOption, connect
from orchestrator.cli.terminal import complain, moment, neutralise, print_json, size
from orchestrator.errors import CorralError, InvalidRequest

if TYPE_CHECKING:
    import httpx2

app = typer.Typer(help="List, fetch and send files of environments.", no_args_is_help=True)

_PIECE_BYTES = 256 * 1024
_PAGE = "1000"
_Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Its id.")]
_RemotePath = Annotated[str, typer.Argument(metavar="PATH", help="From its root, such as workspace/report.md.")]
_Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="With everything below.")]
_Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]


@app.command("ls")
def ls(
    environment: _Environment,
    remote: _RemotePath = "workspace",
    recursive: _Recursive = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List files: type, size, when changed, path."""
    with connect(url, key) as api:
        for entry in _entries(api, environment, os.fsencode(remote), recursive=recursive):
            if as_json:
                print_json(entry)
            else:
                typer.echo(_line(entry))


@app.command("get")
def get(
    environment: _Environment,
    remote: _RemotePath,
    local: Annotated[Path | None, typer.Argument(metavar="[LOCAL]", help="Else its own name, here.")] = None,
    force: _Force = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Fetch a file, or a folder with everything below it."""
    target = local or Path(os.path.basename(remote.rstrip("/")) or environment)  # noqa: PTH119 - it may be "/"
    if target.exists() and not force:
        raise InvalidRequest(f"{target} is there already; say --force to replace it")
    with connect(url, key) as api, _media(api, environment, remote) as answer:
        if "accept-ranges" in answer.headers:
            _write(target, answer)
        else:
            _unpack(target, answer)
    typer.echo(neutralise(str(target)))


@app.command("cat")
def cat(environment: _Environment, remote: _RemotePath, url: UrlOption = None, key: KeyOption = None) -> None:
    """Print a file: as it is into a pipe, without what a terminal would obey on a terminal."""
    with connect(url, key) as api, _media(api, environment, remote) as answer:
        if "accept-ranges" not in answer.headers:
            raise InvalidRequest(f"{remote} is a folder; list it, or get it")
        if sys.stdout.isatty():
            for text in answer.iter_text():
                typer.echo(neutralise(text), nl=False)
            return
        for piece in answer.iter_bytes(_PIECE_BYTES):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command("put")
def put(
    environment: _Environment,
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A file, or with --extract an archive.")],
    remote: Annotated[str, typer.Argument(metavar="[PATH]", help="Else its own name in the workspace.")] = "",
    force: _Force = False,
    extract: Annotated[bool, typer.Option(help="Unpack a .tar or .tar.gz in the folder PATH.")] = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send a file. Whoever reads its place meanwhile sees what was there, or all of it."""
    if not local.is_file():
        raise InvalidRequest(f"{local} is no file; a folder is sent by `corral files sync`")
    place = os.fsencode(remote or ("workspace" if extract else f"workspace/{local.name}"))
    with connect(url, key) as api:
        written = _send(api, environment, local, place, overwrite=force, extract=extract)
    for entry in written:
        if as_json:
            print_json(entry)
        else:
            typer.echo(_shown(entry))


@app.command("sync")
def sync(
    environment: _Environment,
    local: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of this machine.")],
    remote: Annotated[str, typer.Argument(metavar="[PATH]", help="The folder there.")] = "workspace",
    down: Annotated[bool, typer.Option("--down", help="Fetch instead: what is there and not here.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent or fetched.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send what a folder has and the environment has not, or the other way with --down: files of another size, or
    changed since they came over. Nothing is deleted; links, and folders that are empty, stay where they are.
    """
    if down:
        with connect(url, key) as api:
            _fetch_changed(api, environment, os.fsencode(remote), local, dry_run=dry_run)
        return
    if not local.is_dir():
        raise InvalidRequest(f"{local} is no folder")
    with connect(url, key) as api:
        there = _known(api, environment, os.fsencode(remote))
        for file in _files(local):
            place = os.fsencode(f"{remote.strip('/')}/{file.relative_to(local).as_posix()}")
            if _is_the_same(file, there.get(place)):
                continue
            if not dry_run:
                _send(api, environment, file, place, overwrite=True)
            typer.echo(neutralise(str(file)).replace("\n", " "))


def _at(environment: str, remote: bytes) -> str:
    return f"/v1beta/environments/{quote(environment, safe='')}/files/{quote(remote.strip(b'/'))}"


def _entries(api: Api, environment: str, remote: bytes, *, recursive: bool) -> Iterator[dict[str, Any]]:
    parameters = {"recursive": "true" if recursive else "false", "page_size": _PAGE, "page_token": ""}
    while True:
        page = api.call("GET", _at(environment, remote), params=parameters)
        yield from page.get("files", ())
        parameters["page_token"] = page.get("next_page_token", "")
        if not parameters["page_token"]:
            return


def _media(api: Api, environment: str, remote: str) -> Any:
    return api.answer("GET", _at(environment, os.fsencode(remote)), params={"alt": "media", "recursive": "true"})


def _write(target: Path, answer: httpx2.Response) -> None:
    """All of it, or nothing."""
    if target.is_dir():
        raise InvalidRequest(f"{target} is a folder")
    waiting = target.with_name(f".{target.name[:200]}-{secrets.token_hex(4)}")
    try:
        with waiting.open("xb") as file:
            for piece in answer.iter_bytes(_PIECE_BYTES):
                file.write(piece)
        waiting.replace(target)
    finally:
        waiting.unlink(missing_ok=True)


def _unpack(target: Path, answer: httpx2.Response) -> None:
    """Only below `target`, whatever the members say. Links are left out: they may lead anywhere."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=_Pieces(answer), mode="r|") as archive:  # type: ignore[call-overload]
            archive.extractall(target, filter=_plain)  # noqa: S202 - links and what leads out are not written
    except tarfile.TarError as error:
        raise StreamBroken(f"the folder cannot be unpacked: {error}") from error


def _plain(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    if not (member.isfile() or member.isdir()):
        complain(f"{member.name} is left out: neither a file nor a folder")
        return None
    return tarfile.data_filter(member, target)


class _Pieces:
    """An answer as a file."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._pieces = answer.iter_bytes(_PIECE_BYTES)
        self._rest = b""

    def read(self, count: int) -> bytes:
        while len(self._rest) < count and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:count], self._rest[count:]
        return data


def _send(
    api: Api, environment: str, local: Path, place: bytes, *, overwrite: bool, extract: bool = False
) -> list[dict[str, Any]]:
    parameters = {"overwrite": "true" if overwrite else "false", "extract": "true" if extract else "false"}
    length = {"content-length": str(local.stat().st_size)}
    with local.open("rb") as file:
        answer = api.answer("PUT", f"/upload{_at(environment, place)}", params=parameters, content=file, headers=length)
        with answer as ended:
            ended.read()
            written: list[dict[str, Any]] = ended.json().get("files", [])
            return written


def _known(api: Api, environment: str, remote: bytes) -> dict[bytes, dict[str, Any]]:
    """The files below a folder by their paths; none if it is not there."""
    found = {}
    try:
        for entry in _entries(api, environment, remote, recursive=True):
            if entry.get("type") == "FILE" and "encoded_path" not in entry:
                found[os.fsencode(str(entry.get("path")))] = entry
    except CorralError as error:
        if "[404 " not in error.message:
            raise
    return found


def _fetch_changed(api: Api, environment: str, remote: bytes, local: Path, *, dry_run: bool) -> None:
    above = remote.strip(b"/") + b"/"
    for entry in list(_entries(api, environment, remote, recursive=True)):  # what is fetched shall not move the pages
        if entry.get("type") != "FILE":
            continue
        path = os.fsencode(str(entry.get("path")))
        if (target := _place_below(local, os.fsdecode(path.removeprefix(above)))) is None or "encoded_path" in entry:
            complain(f"{_shown(entry)} is left out: there can be no such file here")
            continue
        if _is_as_there(target, entry):
            continue
        if not dry_run:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _media(api, environment, os.fsdecode(path)) as answer:
                _write(target, answer)
            if (at := moment(str(entry.get("modified")))) is not None:
                os.utime(target, (at.timestamp(), at.timestamp()))
        typer.echo(neutralise(str(target)).replace("\n", " "))


def _place_below(folder: Path, name: str) -> Path | None:
    """Where a file of that name belongs; None if that is not below the folder, or only by way of a link."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    place = folder
    for part in parts:
        place /= part
        if place.is_symlink():
            return None
    return place


def _is_as_there(target: Path, entry: dict[str, Any]) -> bool:
    if not target.is_file():
        return False
    status = target.stat()
    at = moment(str(entry.get("modified")))
    return str(entry.get("size_bytes")) == str(status.st_size) and at is not None and at.timestamp() <= status.st_mtime


def _files(folder: Path) -> Iterator[Path]:
    for each in sorted(folder.rglob("*")):
        if each.is_file() and not each.is_symlink():
            yield each


def _is_the_same(file: Path, entry: dict[str, Any] | None) -> bool:
    if entry is None:
        return False
    status = file.stat()
    at = moment(str(entry.get("modified")))
    return str(entry.get("size_bytes")) == str(status.st_size) and at is not None and status.st_mtime <= at.timestamp()


def _line(entry: dict[str, Any]) -> str:
    bytes_text = str(entry.get("size_bytes", ""))
    at = moment(str(entry.get("modified")))
    kind = neutralise(str(entry.get("type"))).lower()
    shown = size(int(bytes_text)) if bytes_text.isdigit() else "-"
    when = at.strftime("%Y-%m-%d %H:%M") if at is not None else "-"
    return f"{kind:<10}{shown:>8}  {when:<17}{_shown(entry)}"


def _shown(entry: dict[str, Any]) -> str:
    return neutralise(str(entry.get("path"))).replace("\n", " ")
