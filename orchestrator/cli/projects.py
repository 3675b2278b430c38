"""`corral projects`: for how long what of whom is kept, on the server's own machine. Works beside a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import JsonFlag
from orchestrator.cli.local_store import with_store
from orchestrator.cli.terminal import console, neutralise, print_json
from orchestrator.errors import NotFound

if TYPE_CHECKING:
    from orchestrator.store.records import ProjectRow

app = typer.Typer(help="List projects, and say for how long their interactions are kept.", no_args_is_help=True)


@app.command("list")
def list_projects(as_json: JsonFlag = False) -> None:
    """List all projects. `corral keys create --project NAME` makes one."""
    rows = with_store(lambda store: store.projects())
    if as_json:
        print_json({"projects": [_public(row) for row in rows]})
        return
    if not rows:
        typer.echo("no projects yet: the first one is made when the server is first used")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "NAME", "CREATED", "KEEPS INTERACTIONS"):
        table.add_column(heading, no_wrap=heading == "ID")
    for row in rows:
        cells = (row.id, row.name, f"{row.created:%Y-%m-%d %H:%M}", _kept(row))
        table.add_row(*(Text(neutralise(cell)) for cell in cells))
    console().print(table)


@app.command("keep")
def keep(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project, as `corral projects list` shows it.")],
    days: Annotated[
        int | None,
        typer.Option(min=0, max=36500, metavar="N", help="Days after their end; 0 keeps them for ever."),
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="As the server's setting says.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say for how long a project's ended interactions are kept. Older ones are deleted within minutes."""
    if (days is None) is not default:
        raise typer.BadParameter("give either --days or --default")
    row = with_store(lambda store: store.set_retention(name, days))
    if row is None:
        raise NotFound(f"there is no project {name!r}; corral projects list shows them")
    if as_json:
        print_json(_public(row))
    else:
        typer.echo(f"{neutralise(row.name)} keeps interactions {_kept(row)}")


def _kept(row: ProjectRow) -> str:
    if row.retention_days is None:
        return "as the setting 'retention_days' says"
    return f"for {row.retention_days} days" if row.retention_days else "for ever"


def _public(row: ProjectRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "created": row.created.isoformat(),
        "retention_days": row.retention_days,
    }
