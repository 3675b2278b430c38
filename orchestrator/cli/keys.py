"""`corral keys`: API keys, made and revoked on the server's own machine; and the sealing keys of what is secret in its
database. Works beside a running server.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import JsonFlag
from orchestrator.cli.local_store import with_store
from orchestrator.cli.terminal import console, neutralise, print_json
from orchestrator.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from orchestrator.store.port import Store
    from orchestrator.store.records import KeyRow

app = typer.Typer(help="Make, list and revoke API keys; rotate the keys that seal credentials.", no_args_is_help=True)

_PREFIX_CHARS = 12


@app.command("create")
def create(
    project: Annotated[
        str | None, typer.Option(metavar="NAME", help="The project, made if it is new. Else the default one.")
    ] = None,
    operator: Annotated[bool, typer.Option("--operator", help="May also see every project's ps and logs.")] = False,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make an API key and print it. It is shown this once; only its hash is kept."""
    secret, row = with_store(lambda store: _create(store, project, name, operator))
    if as_json:
        print_json({**_public(row), "key": secret})
        return
    typer.echo(secret)
    typer.echo(f"{row.id} for project {row.project_id}. Keep the key now: it cannot be shown again.", err=True)


@app.command("list")
def list_keys(as_json: JsonFlag = False) -> None:
    """List all keys, revoked ones too."""
    rows = with_store(lambda store: store.keys())
    if as_json:
        print_json({"keys": [_public(row) for row in rows]})
        return
    if not rows:
        typer.echo("no keys: only this machine can use the server, without a key")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "KEY", "PROJECT", "NAME", "OPERATOR", "CREATED", "REVOKED"):
        table.add_column(heading, no_wrap=heading in ("ID", "KEY"))
    for row in rows:
        revoked = f"{row.revoked:%Y-%m-%d %H:%M}" if row.revoked is not None else ""
        cells = (row.id, f"{row.prefix}…", row.project_id, row.name, "yes" if row.is_operator else "no")
        table.add_row(*(Text(neutralise(cell)) for cell in (*cells, f"{row.created:%Y-%m-%d %H:%M}", revoked)))
    console().print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="`key_…`, as `corral keys list` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """Revoke a key. It stops working at once."""
    row = with_store(lambda store: store.revoke_key(key_id))
    if row is None:
        raise NotFound(f"there is no key {key_id!r}; corral keys list shows them")
    if as_json:
        print_json(_public(row))
    else:
        typer.echo(f"revoked {row.id}")


@app.command("rotate")
def rotate(
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", help="Remove older sealing keys; the server must be stopped. Backups need them."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a new sealing key and seal all credentials with it. API keys stay as they are."""
    outcome = with_store(lambda store: _rotate(store, drop_old))
    if as_json:
        print_json(outcome)
        return
    typer.echo(f"{outcome['resealed']} credentials sealed anew; the sealing key is {outcome['sealing_key']}")
    if outcome["dropped"]:
        typer.echo(f"{outcome['dropped']} older sealing keys removed")
    elif outcome["older"]:
        typer.echo(f"{outcome['older']} older sealing keys stay, for backups; --drop-old removes them", err=True)


async def _rotate(store: Store, drop_old: bool) -> dict[str, Any]:
    from orchestrator.app import sealing_keys
    from orchestrator.config import Settings
    from orchestrator.credentials.keys import KeyFile
    from orchestrator.credentials.safekeeping import check_keys, reseal_all
    from orchestrator.store.lock import DataFolderLock

    settings = Settings.load()
    keys = sealing_keys(settings)
    with contextlib.ExitStack() as stack:
        if drop_old:
            if not isinstance(keys, KeyFile):
                raise ConfigError("the sealing keys are those of the setting 'sealing_keys': remove old ones there")
            # A server that runs may be about to write what an old key has sealed.
            stack.enter_context(DataFolderLock(settings.data_dir))
        is_new = isinstance(keys, KeyFile) and not keys.exists()
        await check_keys(keys, store, is_single_user=True)
        if isinstance(keys, KeyFile) and not is_new:
            keys.add()
        resealed = await reseal_all(store, keys)
        dropped = 0
        if drop_old and isinstance(keys, KeyFile):
            dropped = keys.drop_others(frozenset(await store.sealing_key_ids()))
        older = len(keys.ring().ids) - 1
    return {"sealing_key": resealed.key_id, "resealed": resealed.count, "older": older, "dropped": dropped}


async def _ensure_sealing_key(store: Store) -> None:
    from orchestrator.app import sealing_keys
    from orchestrator.config import Settings
    from orchestrator.credentials.safekeeping import check_keys

    await check_keys(sealing_keys(Settings.load()), store, is_single_user=True)


async def _create(store: Store, project: str | None, name: str, operator: bool) -> tuple[str, KeyRow]:
    from orchestrator.clock import SystemClock
    from orchestrator.ids import new_key_id
    from orchestrator.store.records import KeyRow

    if not await store.keys():
        # It is still in single-user mode, and from now on would not start without one.
        await _ensure_sealing_key(store)
    owner = await store.default_project() if project is None else await store.ensure_project(project)
    secret = f"crl_{secrets.token_urlsafe(32)}"
    row = KeyRow(
        id=new_key_id(),
        project_id=owner.id,
        name=name,
        prefix=secret[:_PREFIX_CHARS],
        is_operator=operator,
        created=SystemClock().now(),
        revoked=None,
    )
    await store.create_key(row, hashlib.sha256(secret.encode()).digest())
    return secret, row


def _public(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "project": row.project_id,
        "name": row.name,
        "prefix": row.prefix,
        "operator": row.is_operator,
        "created": row.created.isoformat(),
        "revoked": row.revoked.isoformat() if row.revoked is not None else None,
    }
