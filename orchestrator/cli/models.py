"""`corral models`: which models this machine's server has, by its settings, and whether they answer. Needs no server
that runs.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.client import JsonFlag
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import complain, console, dollars, neutralise, print_json
from orchestrator.errors import ModelError

if TYPE_CHECKING:
    from orchestrator.models.port import TurnEnd
    from orchestrator.models.registry import ModelRegistry

app = typer.Typer(help="List providers of models, and ask one whether it answers.", no_args_is_help=True)

_ANSWER_TIMEOUT_S = 60.0
_QUESTION = "Answer with the one word: yes"


@app.command("list")
def list_models(as_json: JsonFlag = False) -> None:
    """List the providers of models: what each can do, and what is to be set for those that are not there."""
    from orchestrator.config import Settings
    from orchestrator.models.providers import further_kinds, offers

    settings = Settings.load()
    found = offers(settings)
    if as_json:
        print_json({"default": settings.model, "providers": [asdict(offer) for offer in found]})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("PROVIDER", "WHERE", "CAN"):
        table.add_column(heading, no_wrap=heading == "PROVIDER", overflow="fold")
    for offer in found:
        where = offer.base_url or ("embedded" if offer.kind == "scripted" else "as its library knows")
        last = f"not there: {offer.missing}" if offer.missing else ", ".join(offer.can)
        table.add_row(*(Text(neutralise(cell)) for cell in (offer.name, where, last)))
    console().print(table)
    kinds = ", ".join(further_kinds(settings))
    console().print(Text(f"\nFurther kinds of providers, by the setting `providers`: {kinds}."))
    typer.echo(f"\nModels are named PROVIDER:model. Agents that name none use {neutralise(settings.model)}.")


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="`provider:model`, or an alias.")],
    as_json: JsonFlag = False,
) -> None:
    """Make one small call to a model. Exit code 1 if it fails."""
    import asyncio

    from orchestrator.config import Settings
    from orchestrator.models.providers import open_registry
    from orchestrator.telemetry import logs

    settings = Settings.load()
    logs.configure("warning", settings.log_format)  # libraries of providers warn as they like
    registry = open_registry(settings)
    full, _ = registry.resolve(name)
    begin = time.monotonic()
    try:
        text, end = asyncio.run(_ask(registry, name))
    except ModelError as error:
        if as_json:
            print_json({"model": full, "ok": False, "error": {"code": error.code, "message": error.message}})
        else:
            complain(f"{full}: {error.message} [{error.code}]")
        raise typer.Exit(Exit.FAILED) from error
    seconds = time.monotonic() - begin
    cost = None if end.usage.cost_usd is None else float(end.usage.cost_usd)
    if as_json:
        usage = asdict(end.usage) | {"cost_usd": cost}
        print_json({"model": full, "ok": True, "text": text, "seconds": round(seconds, 3), "usage": usage})
    else:
        tokens = end.usage.input_tokens + end.usage.output_tokens + end.usage.thought_tokens
        took = [f"{seconds:.1f} s", f"{tokens} tokens", *([] if cost is None else [dollars(cost)])]
        said = neutralise(" ".join(text.split())[:60])
        typer.echo(f"{neutralise(full)} answers: {said} ({', '.join(took)})")


async def _ask(registry: ModelRegistry, name: str) -> tuple[str, TurnEnd]:
    import asyncio

    from orchestrator.models.port import ModelRequest, TextDelta, TurnEnd
    from orchestrator.wire.content import TextContent
    from orchestrator.wire.steps import UserInput

    full, provider = registry.resolve(name)
    said = UserInput(content=[TextContent(text=_QUESTION)])
    request = ModelRequest(model=full, system="", history=(said,), tools=(), turn=0)
    text, end = "", TurnEnd()
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            async for event in provider.stream(request):
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, TurnEnd):
                    end = event
    except TimeoutError as error:
        message = f"no answer within {_ANSWER_TIMEOUT_S:.0f} s"
        raise ModelError(message, code="model_unavailable", retryable=True) from error
    finally:
        await registry.aclose()
    return text, end
