"""`corral agents`: the agents of a project, over HTTP. What is done with an agent's folder is in `agent_folders`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orchestrator.cli import agent_folders
from orchestrator.cli.client import Api, JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.terminal import console, neutralise, print_json

app = typer.Typer(help="Define agents in folders, deploy and call them by name.", no_args_is_help=True)
for command in (
    agent_folders.init,
    agent_folders.validate,
    agent_folders.create,
    agent_folders.deploy,
    agent_folders.diff,
):
    app.command()(command)
app.command("test")(agent_folders.try_out)
app.add_typer(agent_folders.examples, name="examples")

_AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Its id.")]


@app.command("list")
def list_agents(as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List the project's agents, newest first, and those of the server."""
    with connect(url, key) as api:
        found = _all(api, "/v1beta/agents", "agents")
    if as_json:
        print_json({"agents": found})
        return
    rows = [
        (agent["id"], _version(agent), agent.get("base_agent") or "-", agent.get("description") or "-")
        for agent in found
    ]
    _table(("ID", "VERSION", "BASE", "DESCRIPTION"), rows)


@app.command()
def get(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id, or ID@3 for a version.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Show an agent's definition as JSON, without what may be secret."""
    from orchestrator.wire.agents import pinned

    agent_id, version = pinned(agent)
    where = path("/v1beta/agents/{id}", id=agent_id) + ("" if version is None else f"/versions/{version}")
    with connect(url, key) as api:
        typer.echo(json.dumps(api.call("GET", where), indent=2))


@app.command()
def versions(agent: _AgentArgument, as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List an agent's versions, the latest first."""
    with connect(url, key) as api:
        found = _all(api, path("/v1beta/agents/{id}/versions", id=agent), "agentVersions")
    if as_json:
        print_json({"versions": found})
        return
    rows = [(str(each["version"]), str(each["updated"]), each.get("description") or "-") for each in found]
    _table(("VERSION", "MADE", "DESCRIPTION"), rows)


@app.command()
def rollback(
    agent: _AgentArgument,
    version: Annotated[int, typer.Argument(min=1, help="The version that the new one is to be like.")],
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Make a new version that is like an earlier one."""
    with connect(url, key) as api:
        made = api.call("POST", path("/v1beta/agents/{id}/rollback", id=agent), json={"version": version})
    agent_folders.tell(made, as_json)


@app.command()
def delete(
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", help="Ids of agents.")],
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete agents with their versions. What ran can still be read, what runs goes on."""
    with connect(url, key) as api:
        for agent in agents:
            api.call("DELETE", path("/v1beta/agents/{id}", id=agent))
            if as_json:
                print_json({"id": agent, "deleted": True})
            else:
                typer.echo(neutralise(agent))


def _all(api: Api, where: str, field: str) -> list[dict[str, Any]]:
    """Every page of a listing."""
    found: list[dict[str, Any]] = []
    parameters: dict[str, str] = {"page_size": "200"}
    while True:
        page = api.call("GET", where, params=parameters)
        found += page[field]
        if not page.get("next_page_token"):
            return found
        parameters["page_token"] = page["next_page_token"]


def _version(agent: dict[str, Any]) -> str:
    return str(agent["version"]) if "version" in agent else "server"


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "DESCRIPTION")
    for row in rows:
        table.add_row(*(Text(neutralise(cell).replace("\n", " ")) for cell in row))
    console().print(table)
