"""`corral skills`: those that the server has, over HTTP, and a look at a folder that is to become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.client import JsonFlag, KeyOption, UrlOption, connect
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import complain, neutralise, print_json

app = typer.Typer(help="List the server's skills, and check folders of skills.", no_args_is_help=True)


@app.command("list")
def list_skills(as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List the server's skills: name and description, or why one cannot be used."""
    with connect(url, key) as api:
        found = api.call("GET", "/v1beta/skills")
    if as_json:
        print_json(found)
        return
    for each in found["skills"]:
        told = f"cannot be used: {each['problem']}" if "problem" in each else each["description"]
        typer.echo(f"{neutralise(each['name'])}: {neutralise(told)}")


@app.command()
def validate(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Each with a SKILL.md in it.")],
) -> None:
    """Check folders of skills as the server does. Exit code 1 if one could not be used. Needs no server."""
    from orchestrator.agents.guidance import Unread
    from orchestrator.agents.skill_registry import SkillRegistry

    faults = 0
    for folder in folders:
        place = folder.absolute()
        found = SkillRegistry.of(place.parent).find(place.name)
        if found is None or isinstance(found, Unread):
            faults += 1
            complain(f"{folder}: {found.reason if found is not None else 'a skill is a folder with a file SKILL.md'}")
        else:
            typer.echo(f"{neutralise(str(folder))} is right: {found.skill.name}, {found.sha256}")
    if faults:
        raise typer.Exit(Exit.FAILED)
