"""What `corral agents` does with a folder on this machine: make one, check, deploy, compare and try it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, RequestFailed, UrlOption, connect, path
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import complain, console, duration, neutralise, print_json, size
from orchestrator.errors import CallerError, ConfigError

if TYPE_CHECKING:
    from orchestrator.agents.folder import AgentFolder, Example
    from orchestrator.wire.agents import AgentCreate

_AGENTS = "/v1beta/agents"
_INTERACTIONS = "/v1beta/interactions"
_FolderArgument = Annotated[Path, typer.Argument(metavar="PATH", help="The agent's folder.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the request as JSON; ask no server.")]

_PLAIN = {
    "agent.yaml": """\
id: {id}
base_agent: general
description: What the agent is for, in one line.
tools:
  - type: code_execution
# instructions: what it is told in every run, also without an environment
# agent_config: {{type: antigravity, model: "provider:model", max_total_tokens: 200000}}
# environment: {{sources: [...], env: {{NAME: value}}}}
examples:
  - name: hello
    prompt: Say hello and name the files that you see.
""",
    "AGENTS.md": """\
# How you work

Write here what the agent needs to know: what its task is, how it goes about it, and what its answer looks like.
Files of skills/NAME/ and workspace/ beside this one are in every new environment of the agent.
""",
}

examples = typer.Typer(help="Try the examples of an agent's folder.", no_args_is_help=True)


# folders


def init(
    name: Annotated[str, typer.Argument(help="The agent's id, and the folder to make.")],
    template: Annotated[
        str | None,
        typer.Option(metavar="AGENT|PATH", help="An agent that comes with Corral, or a folder, to begin with."),
    ] = None,
) -> None:
    """Make the folder of a new agent."""
    from orchestrator.agents.folder import FILE
    from orchestrator.policy.agents import check_new_id
    from orchestrator.wire.agents import AgentCreate
    from orchestrator.wire.base import parse

    check_new_id(parse(AgentCreate, {"id": name}).id)
    place = Path(name)
    if place.exists():
        raise ConfigError(f"{place} exists already")
    if template is None:
        place.mkdir()
        for file, text in _PLAIN.items():
            (place / file).write_text(text.format(id=name), encoding="utf-8")
    else:
        shutil.copytree(_template(template), place, symlinks=True)
        text = (place / FILE).read_text(encoding="utf-8")
        (place / FILE).write_text(re.sub(r"(?m)^id:.*$", f"id: {name}", text, count=1), encoding="utf-8")
    typer.echo(f"{place}/ is there; edit it, then: corral agents test {place} --prompt …; corral agents deploy {place}")


def validate(
    folders: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders of agents.")],
    as_json: JsonFlag = False,
) -> None:
    """Check agents' folders without a server. The first fault is told with file, line and field."""
    for place in folders:
        folder, request = _checked(place)
        if as_json:
            print_json({"id": request.id, "files": len(folder.files), "notes": list(folder.notes)})
            continue
        size_bytes = sum(len(source.data) for source in folder.files.values())
        what = f"{len(folder.files)} files ({size(size_bytes)}), {len(folder.file.examples)} examples"
        typer.echo(f"{neutralise(str(place))}: {request.id} is right; {what}")


def create(
    folder: _FolderArgument,
    dry_run: _DryRun = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Create an agent from its folder; its id must be new."""
    read, request = _checked(folder)
    body = _body(request)
    if dry_run:
        _print_request("POST", _AGENTS, body, as_json)
        return
    with connect(url, key) as api, _led_back(read):
        tell(api.call("POST", _AGENTS, json=body), as_json)


def deploy(
    folder: _FolderArgument,
    dry_run: _DryRun = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Create an agent from its folder, or make a new version of it; nothing if nothing has changed."""
    read, request = _checked(folder)
    body = _body(request)
    if dry_run:
        _print_request("POST", _AGENTS, body, as_json)
        return
    with connect(url, key) as api, _led_back(read):
        known = _deployed(api, request.id)
        if known is None or known.get("owner") != "project":
            tell(api.call("POST", _AGENTS, json=body), as_json)
            return
        whole = {**dict.fromkeys(_changeable()), **{name: value for name, value in body.items() if name != "id"}}
        made = api.call("PATCH", path(_AGENTS + "/{id}", id=request.id), json=whole)
        tell(made, as_json, is_same=made.get("version") == known.get("version"))


def diff(folder: _FolderArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show what deploying the folder would change. Exit code 1 if anything.

    Values that may be secret are not compared: variables, and headers of servers and network rules.
    """
    from orchestrator.wire.agents import public_agent

    _, request = _checked(folder)
    with connect(url, key) as api:
        known = _deployed(api, request.id) or {}
    own = public_agent(request, with_contents=True)
    there = {name: value for name, value in known.items() if name in ("id", *_changeable())}
    label = f"deployed, version {known['version']}" if "version" in known else "not deployed"
    changes = list(unified_diff(_lines(there), _lines(own), label, str(folder), lineterm=""))
    for line in changes:
        typer.echo(neutralise(line))
    if changes:
        raise typer.Exit(Exit.FAILED)


def try_out(
    folder: _FolderArgument,
    prompt: Annotated[str, typer.Option(help="What the agent is to do.")],
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="An environment to go on in, in place of a new one.")
    ] = None,
    previous: Annotated[
        str | None, typer.Option("--previous", metavar="ID", help="The interaction to go on from.")
    ] = None,
    dry_run: _DryRun = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Run the agent of a folder without deploying it: one call that says all that the folder says.

    Exit codes are those of `corral run`.
    """
    from orchestrator.cli.run import LiveRun

    read, request = _checked(folder)
    body = {**_call(request), "input": prompt}
    if env is not None:
        body["environment"] = env
    if previous is not None:
        body["previous_interaction_id"] = previous
    if dry_run:
        _print_request("POST", _INTERACTIONS, body, as_json)
        return
    with connect(url, key) as api, _led_back(read):
        code = LiveRun(api, as_json).follow(body)
    raise typer.Exit(code)


@examples.command("run")
def run_examples(
    folder: _FolderArgument,
    only: Annotated[str | None, typer.Option("--only", metavar="NAME", help="Only the example of that name.")] = None,
    deployed: Annotated[bool, typer.Option("--deployed", help="Ask the deployed agent, not the folder.")] = False,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Run an agent's examples, each in an environment of its own that is deleted afterwards.

    An example is right if its interaction completes and its answer holds each text of `expect`. Exit code 1 if one is
    not.
    """
    read, request = _checked(folder)
    chosen = [each for each in read.file.examples if only in (None, each.name)]
    if not chosen:
        raise ConfigError(f"{read.place}: there is no example" + ("" if only is None else f" {only!r}"))
    call = {"agent": request.id, "environment": "remote"} if deployed else _call(request)
    is_right = True
    with connect(url, key) as api, _led_back(read):
        for example in chosen:
            outcome = _try(api, call, example)
            is_right = is_right and not outcome["faults"]
            _tell_example(outcome, as_json)
    if not is_right:
        raise typer.Exit(Exit.FAILED)


# between


def tell(agent: dict[str, Any], as_json: bool, *, is_same: bool = False) -> None:
    """Says which version of an agent there is now."""
    if as_json:
        print_json(agent)
    else:
        unchanged = ", unchanged" if is_same else ""
        typer.echo(f"{neutralise(str(agent['id']))}: version {agent['version']}{unchanged}")


def _checked(place: Path) -> tuple[AgentFolder, AgentCreate]:
    """A folder, and the call that it stands for, as far as this machine can check it. Raises `ConfigError`."""
    from orchestrator.agents.folder import read_folder
    from orchestrator.api.offer import check_agent
    from orchestrator.policy.agents import check_new_id

    folder = read_folder(place)
    request = folder.request()
    try:
        check_new_id(request.id)
        check_agent(request)
    except CallerError as error:
        raise folder.located(error) from error
    for note in folder.notes:
        complain(note)
    return folder, request


@contextmanager
def _led_back(folder: AgentFolder) -> Iterator[None]:
    """Leads what the server says of a folder's call back to file and line."""
    try:
        yield
    except RequestFailed as error:
        if "[400 " not in error.message:
            raise
        raise folder.located(CallerError(error.message)) from error


def _template(name: str) -> Path:
    from orchestrator.agents.folder import FILE
    from orchestrator.agents.registry import shipped_folder

    for place in (shipped_folder() / name, Path(name)):
        if (place / FILE).is_file():
            return place
    known = ", ".join(sorted(place.parent.name for place in shipped_folder().glob(f"*/{FILE}")))
    raise ConfigError(f"there is no template {name!r}; those that come with Corral: {known}")


def _changeable() -> list[str]:
    from orchestrator.wire.agents import AgentChange

    return list(AgentChange.model_fields)


def _body(request: AgentCreate) -> dict[str, Any]:
    from orchestrator.wire.agents import dump_agent

    return dump_agent(request)


def _call(request: AgentCreate) -> dict[str, Any]:
    """A create call of an interaction that says what the agent would."""
    base = request.base_environment
    if base is not None and base.environment_id is not None:
        raise ConfigError("an agent that begins with an environment cannot be tried without deploying it")
    if base is not None and base.setup is not None:
        raise ConfigError("an agent with 'setup' cannot be tried without deploying it; 'examples run' has --deployed")
    body = _body(request)
    call: dict[str, Any] = {"agent": body.get("base_agent", "general")}
    call |= {name: body[name] for name in ("system_instruction", "tools", "agent_config") if name in body}
    call["environment"] = body.get("base_environment", "remote")
    return call


def _deployed(api: Api, agent_id: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.call("GET", path(_AGENTS + "/{id}", id=agent_id))
    except RequestFailed as error:
        if "[404 " in error.message:
            return None
        raise
    return found


def _print_request(method: str, where: str, body: dict[str, Any], as_json: bool) -> None:
    request = {"method": method, "path": where, "body": body}
    typer.echo(json.dumps(request, indent=None if as_json else 2))


def _lines(value: Any, at: str = "") -> list[str]:
    """A definition line by line: `field: value`, of long texts each line of theirs; files by their target."""
    if isinstance(value, dict):
        name = f"{at}[{value['target']}]" if at.endswith(".sources") and "target" in value else at
        return [line for key in sorted(value) for line in _lines(value[key], f"{name}.{key}".removeprefix("."))]
    if isinstance(value, list):
        parts = [_lines(item, at if at.endswith("sources") else f"{at}[{number}]") for number, item in enumerate(value)]
        return [line for part in (sorted(parts) if at.endswith("sources") else parts) for line in part] or [f"{at}: []"]
    if isinstance(value, str) and "\n" in value:
        return [f"{at}:", *(f"  {line}" for line in value.splitlines())]
    return [f"{at}: {value}"]


def _try(api: Api, call: dict[str, Any], example: Example) -> dict[str, Any]:
    began = time.monotonic()
    interaction: dict[str, Any] = {}
    for event in api.events("POST", _INTERACTIONS, json={**call, "input": example.prompt, "stream": True}):
        interaction |= event.get("interaction") or {}
    interaction = api.call("GET", path(_INTERACTIONS + "/{id}", id=str(interaction["id"])))
    if interaction.get("environment_id"):
        api.call("DELETE", path("/v1beta/environments/{id}", id=interaction["environment_id"]))
    return {
        "name": example.name or example.prompt.splitlines()[0][:60],
        "interaction_id": interaction["id"],
        "took_s": time.monotonic() - began,
        "output_text": interaction.get("output_text", ""),
        "faults": list(_faults(interaction, example)),
    }


def _faults(interaction: dict[str, Any], example: Example) -> Iterator[str]:
    status = str(interaction.get("status"))
    if status != "completed":
        why = "".join(f": {error.get('message')}" for error in interaction.get("errors") or [])
        yield f"it ended as {status}{why}"
    answer = str(interaction.get("output_text", "")).casefold()
    for text in example.expect:
        if text.casefold() not in answer:
            yield f"the answer does not hold {text!r}"


def _tell_example(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    mark, style = ("✗", "red") if outcome["faults"] else ("✓", "green")
    took = duration(timedelta(seconds=outcome["took_s"]))
    out = console()
    out.out(f"{mark} {neutralise(outcome['name'])}  {took}  {neutralise(outcome['interaction_id'])}", style=style)
    for fault in outcome["faults"]:
        out.out(f"  {neutralise(fault)}")
    if outcome["faults"]:
        out.out(f"  it said: {neutralise(str(outcome['output_text']))[:500]}")
