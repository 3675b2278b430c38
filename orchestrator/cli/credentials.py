"""`corral credentials`: secrets of a project, over HTTP. They are read from files, standard input or a hidden prompt,
never from the command's arguments, which every process of the machine can see.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.terminal import console, neutralise, print_json
from orchestrator.errors import ConfigError

app = typer.Typer(help="Keep secrets that requests from sandboxes get on their way out.", no_args_is_help=True)

_CREDENTIALS = "/v1beta/credentials"
_ONE = "/v1beta/credentials/{id}"
_SECRET_FIELDS = {
    "bearer_token": ("token",),
    "environment_variable": ("value",),
    "oauth2": ("client_secret", "refresh_token"),
}


_Type = Literal["bearer_token", "environment_variable", "oauth2"]
_Credential = Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its id.")]
_HeaderName = Annotated[str | None, typer.Option(metavar="NAME", help="bearer_token: the header. Else Authorization.")]
_Prefix = Annotated[
    str | None, typer.Option(metavar="TEXT", help='bearer_token: before the token. Else Bearer; may be "".')
]
_Location = Annotated[
    list[str] | None,
    typer.Option("--location", metavar="WHERE", help="environment_variable: header, query or body. May be repeated."),
]
_Domain = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="NAME", help="environment_variable: whom it may be sent to. May be repeated."),
]
_ClientId = Annotated[str | None, typer.Option(metavar="ID", help="oauth2: the client.")]
_TokenUrl = Annotated[str | None, typer.Option(metavar="URL", help="oauth2: where tokens are given.")]
_Scope = Annotated[
    list[str] | None, typer.Option("--scope", metavar="SCOPE", help="oauth2: what is asked for. May be repeated.")
]


@app.command("create")
def create(
    type_: Annotated[_Type, typer.Option("--type", help="What it is.")],
    credential: Annotated[str | None, typer.Argument(metavar="[CREDENTIAL]", help="Its id. Else one is made.")] = None,
    *,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help='The secret. Of oauth2 JSON: {"client_secret": …, "refresh_token": …}. Else standard input.',
        ),
    ] = None,
    header_name: _HeaderName = None,
    prefix: _Prefix = None,
    location: _Location = None,
    domain: _Domain = None,
    client_id: _ClientId = None,
    token_url: _TokenUrl = None,
    scope: _Scope = None,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Keep a secret. It is read from a file, standard input or a prompt, and cannot be shown again."""
    fields = _fields(header_name, prefix, location, domain, client_id, token_url, scope)
    body = {"type": type_, "id": credential, **fields, **_secrets(type_, secret_file)}
    with connect(url, key) as api:
        _tell(api.call("POST", _CREDENTIALS, json=body), as_json)


@app.command("update")
def update(
    credential: _Credential,
    *,
    secret_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A new secret, as for create; - is standard input.")
    ] = None,
    header_name: _HeaderName = None,
    prefix: _Prefix = None,
    location: _Location = None,
    domain: _Domain = None,
    client_id: _ClientId = None,
    token_url: _TokenUrl = None,
    scope: _Scope = None,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Change what is given; the rest stays."""
    body = _fields(header_name, prefix, location, domain, client_id, token_url, scope)
    with connect(url, key) as api:
        if secret_file is not None:
            known = api.call("GET", path(_ONE, id=credential))
            body |= _secrets(known["type"], secret_file)
        if not body:
            raise typer.BadParameter("give at least one option of what is to be changed")
        _tell(api.call("PATCH", path(_ONE, id=credential), json=body), as_json)


@app.command("list")
def list_credentials(as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List the project's credentials, newest first, without what is secret."""
    with connect(url, key) as api:
        found = _all(api)
    if as_json:
        print_json({"credentials": found})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for field in ("id", "type", "status", "update_time"):
        table.add_column(field.removesuffix("_time").upper(), no_wrap=True)
    for each in found:
        table.add_row(*(Text(neutralise(str(each[field]))) for field in ("id", "type", "status", "update_time")))
    console().print(table)


@app.command("get")
def get(credential: _Credential, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show a credential as JSON, without what is secret."""
    with connect(url, key) as api:
        typer.echo(json.dumps(api.call("GET", path(_ONE, id=credential)), indent=2))


@app.command("revoke")
def revoke(
    credentials: Annotated[list[str], typer.Argument(metavar="CREDENTIAL...", help="Ids of credentials.")],
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Forget secrets for good. Ids stay taken; requests that need them are refused from now on."""
    with connect(url, key) as api:
        for credential in credentials:
            _tell(api.call("POST", path(f"{_ONE}/revoke", id=credential)), as_json)


@app.command("delete")
def delete(
    credentials: Annotated[list[str], typer.Argument(metavar="CREDENTIAL...", help="Ids of credentials.")],
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete credentials. Their ids may be given again."""
    with connect(url, key) as api:
        for credential in credentials:
            api.call("DELETE", path(_ONE, id=credential))
            if as_json:
                print_json({"id": credential, "deleted": True})
            else:
                typer.echo(neutralise(credential))


def _fields(
    header_name: str | None,
    prefix: str | None,
    location: list[str] | None,
    domain: list[str] | None,
    client_id: str | None,
    token_url: str | None,
    scope: list[str] | None,
) -> dict[str, Any]:
    """Of the body, as far as they are given. What does not go with the type the server refuses by name."""
    given = {
        "header_name": header_name,
        "prefix": prefix,
        "injection_location": location or None,
        "trusted_domains": domain or None,
        "client_id": client_id,
        "token_url": token_url,
        "scopes": scope or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _secrets(type_: str, file: Path | None) -> dict[str, str]:
    """The secret fields of a credential of that type. Raises `ConfigError`, which repeats nothing of them."""
    names = _SECRET_FIELDS[type_]
    is_standard_input = file is None or str(file) == "-"
    if is_standard_input and sys.stdin.isatty():
        return {name: typer.prompt(name, hide_input=True, err=True) for name in names}
    try:
        text = sys.stdin.read() if is_standard_input or file is None else file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file or 'standard input'} must be UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if len(names) == 1:
        return {names[0]: text}
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not said.keys() <= set(names):
        raise ConfigError(f"expected the secrets of {type_} as JSON: an object with {' and '.join(map(repr, names))}")
    return said


def _all(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parameters: dict[str, str] = {"page_size": "1000"}
    while True:
        page = api.call("GET", _CREDENTIALS, params=parameters)
        found += page["credentials"]
        if not page.get("next_page_token"):
            return found
        parameters["page_token"] = page["next_page_token"]


def _tell(credential: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(credential)
    else:
        typer.echo(neutralise(f"{credential['id']}: {credential['type']}, {credential['status']}"))
