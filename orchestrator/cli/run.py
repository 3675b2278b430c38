"""`corral run`: one interaction from the command line, shown as it happens."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, RequestFailed, StreamBroken, UrlOption, connect, path
from orchestrator.cli.exits import BY_STATUS, Exit
from orchestrator.cli.terminal import complain, console, dollars, duration, neutralise, print_json

_INTERACTIONS = "/v1beta/interactions"
_RESUMES = 5
_RESUME_PAUSE_S = 0.5


def run(
    prompt: Annotated[str, typer.Argument(help="What the agent is to do; - reads standard input.")],
    *,
    agent: Annotated[str, typer.Option(metavar="AGENT", help="The agent's id or alias.")] = "general",
    env: Annotated[
        str, typer.Option(metavar="ID|remote|none", help="An environment to go on in, a new one, or none.")
    ] = "remote",
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:TARGET]", help="A file to put in, by default under workspace/. May be repeated."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Other than the agent's own; replay:PATH plays a recording.")
    ] = None,
    as_json: JsonFlag = False,
    background: Annotated[bool, typer.Option("--background", help="Start it, print its id, do not wait.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Launch an agent and show its steps as they stream. Ctrl-C cancels it.

    Exit code: 0 completed, 1 failed, 2 wrong use or refused, 3 waits for a client function, 4 stopped at a limit, 130
    cancelled.
    """
    body: dict[str, Any] = {"agent": agent, "input": sys.stdin.read() if prompt == "-" else prompt}
    environment = _environment(env, [_source(each) for each in file or []])
    if environment is not None:
        body["environment"] = environment
    if model is not None:
        body["agent_config"] = {"type": "antigravity", "model": model}
    with connect(url, key) as api:
        code = _start(api, body, as_json) if background else LiveRun(api, as_json).follow(body)
    raise typer.Exit(code)


def _environment(env: str, sources: list[dict[str, str]]) -> str | dict[str, Any] | None:
    if env == "none":
        if sources:
            raise typer.BadParameter("files need an environment", param_hint="--env")
        return None
    if not sources:
        return env
    whole: dict[str, Any] = {"type": "remote", "sources": sources}
    if env != "remote":
        whole["environment_id"] = env
    return whole


def _source(argument: str) -> dict[str, str]:
    """An inline source from `PATH[:TARGET]`. A path that holds a colon is meant as it is where such a file exists."""
    name, target = argument, ""
    if not Path(argument).exists() and ":" in argument:
        name, _, target = argument.rpartition(":")
    file = Path(name).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {name}: {error.strerror}", param_hint="--file") from error
    return {
        "type": "inline",
        "target": target or f"workspace/{file.name}",
        "content": base64.b64encode(content).decode(),
        "encoding": "base64",
    }


def _start(api: Api, body: dict[str, Any], as_json: bool) -> Exit:
    interaction = api.call("POST", _INTERACTIONS, json={**body, "background": True})
    if as_json:
        print_json(interaction)
    else:
        typer.echo(neutralise(interaction["id"]))
        typer.echo(f"follow it with: corral logs -f {neutralise(interaction['id'])}", err=True)
    return Exit.OK


class LiveRun:
    """One interaction, from the request to its exit code."""

    def __init__(self, api: Api, as_json: bool) -> None:
        from orchestrator.cli.steps import StepPrinter

        self._api = api
        self._as_json = as_json
        self._console = console()
        self._printer = StepPrinter(self._console)
        self._interaction: dict[str, Any] = {}
        """What is known of it: of `interaction.created`, then of `interaction.completed`."""
        self._steps = 0
        self._began = time.monotonic()

    def follow(self, body: dict[str, Any]) -> Exit:
        try:
            for event in self._events({**body, "stream": True}):
                self._show(event)
        except KeyboardInterrupt:
            self._printer.close()
            return self._cancel()
        except StreamBroken as error:
            self._printer.close()
            raise StreamBroken(f"{error.message}; {self._how_to_go_on()}") from error
        self._printer.close()
        status = str(self._interaction.get("status", ""))
        if status not in BY_STATUS:
            raise StreamBroken(f"the stream ended before the interaction; {self._how_to_go_on()}")
        if not self._as_json:
            self._sum_up(status)
        return BY_STATUS[status]

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Events to the end; a stream that is cut is taken up again after the last event seen."""
        stream = self._api.events("POST", _INTERACTIONS, json=body)
        last_seen, cuts = "", 0
        while True:
            try:
                for event in stream:
                    cuts = 0
                    last_seen = str(event.get("event_id") or last_seen)
                    yield event
                if self._interaction.get("status") in BY_STATUS:
                    return
                raise StreamBroken("the server ended the stream early")
            except StreamBroken:
                cuts += 1
                if cuts > _RESUMES or not last_seen or not self._interaction.get("id"):
                    raise
                time.sleep(_RESUME_PAUSE_S * cuts)
                where = path(_INTERACTIONS + "/{id}", id=str(self._interaction["id"]))
                stream = self._api.events("GET", where, params={"stream": "true", "last_event_id": last_seen})

    def _show(self, event: dict[str, Any]) -> None:
        kind = event.get("event_type")
        if kind in ("interaction.created", "interaction.completed"):
            self._interaction |= event.get("interaction") or {}
        elif kind == "step.stop":
            self._steps += 1
        if self._as_json:
            print_json(event)
        else:
            self._printer.event(event)

    def _cancel(self) -> Exit:
        identity = self._interaction.get("id")
        if not identity:
            complain("cancelled before it began")
            return Exit.CANCELLED
        try:
            self._api.call("POST", path(_INTERACTIONS + "/{id}/cancel", id=str(identity)))
            complain(f"cancelled {identity}")
        except RequestFailed as error:
            complain(f"could not cancel {identity}: {error.message}")
        return Exit.CANCELLED

    def _sum_up(self, status: str) -> None:
        style = {"completed": "bold green", "requires_action": "bold yellow"}.get(status, "bold red")
        took = duration(timedelta(seconds=time.monotonic() - self._began))
        parts = [status, f"{self._steps} steps", took]
        usage = self._interaction.get("usage") or {}
        if usage.get("total_tokens") is not None:
            parts.append(f"{int(usage['total_tokens']):,} tokens")
        if usage.get("cost_usd") is not None:
            parts.append(dollars(float(usage["cost_usd"])))
        self._console.out()
        self._console.out(" · ".join(parts), style=style, highlight=False)
        for early in (self._interaction.get("errors") or []) if status == "incomplete" else []:
            said = f"{early.get('message', '')} [{early.get('code', '')}]"
            self._console.out(neutralise(said), style="red", highlight=False)
        for name, field in (("interaction", "id"), ("environment", "environment_id")):
            if self._interaction.get(field):
                self._console.out(f"{name} {neutralise(str(self._interaction[field]))}", style="dim", highlight=False)

    def _how_to_go_on(self) -> str:
        identity = self._interaction.get("id")
        return f"it may still run: corral logs -f {identity}" if identity else "it may not have begun"
