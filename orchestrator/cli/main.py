"""The command's entry: names, help, and the one place where errors become a line on standard error and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import orchestrator
from orchestrator.cli import (
    agents,
    credentials,
    doctor,
    environments,
    files,
    keys,
    logs,
    models,
    projects,
    ps,
    reach,
    replay,
    run,
    serve,
    shell,
    skills,
)
from orchestrator.cli.client import JsonFlag
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import complain, print_json
from orchestrator.errors import CorralError

app = typer.Typer(
    name="corral",
    help="Run agents in Linux containers, over REST.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("run")(run.run)
app.command("replay")(replay.replay)
app.command("ps")(ps.ps)
app.command("logs")(logs.logs)
app.command("rm")(environments.rm)
app.command("shell")(shell.shell)
app.command("forward")(reach.forward)
app.command("watch")(reach.watch)
app.command("usage")(reach.usage)
app.add_typer(agents.app, name="agents")
app.add_typer(credentials.app, name="credentials")
app.add_typer(environments.app, name="env")
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")
app.add_typer(projects.app, name="projects")
app.add_typer(models.app, name="models")
app.add_typer(skills.app, name="skills")
app.command("doctor")(doctor.doctor)


@app.command("version")
def version(as_json: JsonFlag = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": orchestrator.__version__})
    else:
        typer.echo(orchestrator.__version__)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(orchestrator.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `corral` itself."""


def main() -> None:
    """Runs the command and exits."""
    try:
        app()
    except CorralError as error:
        complain(error.message)
        sys.exit(Exit.USAGE)
    except KeyboardInterrupt:
        sys.exit(Exit.CANCELLED)
    except BrokenPipeError:
        # The reader of a pipe has gone (`corral logs … | head`); Python would complain once more while it exits.
        sys.stderr.close()
        sys.exit(Exit.FAILED)
