"""`corral env` and `corral rm`: environments, from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.terminal import duration, moment, neutralise, print_json, size
from orchestrator.clock import SystemClock

app = typer.Typer(help="List, look at, fork and delete environments.", no_args_is_help=True)

_PAGE = "1000"
_Environments = Annotated[list[str], typer.Argument(metavar="ENVIRONMENT...", help="Ids of environments.")]
_Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Its id.")]


def rm(environments: _Environments, as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """Delete environments: their sandboxes and all their files. Interactions that ran in them stay."""
    with connect(url, key) as api:
        for environment in environments:
            api.call("DELETE", path("/v1beta/environments/{id}", id=environment))
            if as_json:
                print_json({"id": environment, "deleted": True})
            else:
                typer.echo(neutralise(environment))


app.command("delete")(rm)


@app.command("list")
def list_environments(as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List the project's environments, newest first: id, status, last use, files, size."""
    with connect(url, key) as api:
        for each in _all(api):
            if as_json:
                print_json(each)
            else:
                typer.echo(_line(each))


@app.command("get")
def get(environment: _Environment, as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show one environment."""
    with connect(url, key) as api:
        found = api.call("GET", path("/v1beta/environments/{id}", id=environment))
    _show(found, as_json=as_json)


@app.command("fork")
def fork(environment: _Environment, as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """Make a new environment that begins with the files of another one as they are now; prints its id."""
    with connect(url, key) as api:
        made = api.call("POST", "/v1beta/environments", json={"from_environment": environment})
    if as_json:
        print_json(made)
    else:
        typer.echo(neutralise(str(made.get("id"))))


def _all(api: Api) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = api.call("GET", "/v1beta/environments", params={"page_size": _PAGE, "page_token": token})
        yield from page.get("environments", ())
        token = page.get("next_page_token", "")
        if not token:
            return


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        text = str(value)
        if name == "size_bytes" and text.isdigit():
            name, text = "size", size(int(text))  # noqa: PLW2901 - as people read it
        typer.echo(f"{neutralise(name).replace('_', ' '):<14}{neutralise(text)}".replace("\n", " "))


def _line(found: dict[str, Any]) -> str:
    at = moment(str(found.get("last_accessed")))
    used = f"{duration(SystemClock().now() - at)} ago" if at is not None else "-"
    bytes_text = str(found.get("size_bytes", ""))
    shown = size(int(bytes_text)) if bytes_text.isdigit() else "-"
    fields = (found.get("id"), found.get("status"), used, found.get("file_count", "-"), shown)
    line = "{:<34}{:<9}{:<16}{:>7} {:>8}".format(*(neutralise(str(each)) for each in fields))
    return line.replace("\n", " ")
