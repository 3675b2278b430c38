"""Commands on environments."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.client import JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.terminal import neutralise, print_json


def rm(
    environments: Annotated[list[str], typer.Argument(metavar="ENVIRONMENT...", help="Ids of environments.")],
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete environments: their sandboxes and all their files. Interactions that ran in them stay."""
    with connect(url, key) as api:
        for environment in environments:
            api.call("DELETE", path("/v1beta/environments/{id}", id=environment))
            if as_json:
                print_json({"id": environment, "deleted": True})
            else:
                typer.echo(neutralise(environment))
