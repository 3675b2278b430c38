"""`corral forward`, `corral watch`, `corral usage`: a sandbox's ports, files and figures from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.client import Api, JsonFlag, KeyOption, UrlOption, connect, path
from orchestrator.cli.exits import Exit
from orchestrator.cli.terminal import complain, neutralise, print_json, size
from orchestrator.errors import CorralError

if TYPE_CHECKING:
    import asyncio

    from websockets.asyncio.client import ClientConnection

_PIECE_BYTES = 64 * 1024
_END = '{"end": true}'
_EnvironmentArgument = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Its id.")]


def forward(
    environment: _EnvironmentArgument,
    ports: Annotated[
        str, typer.Argument(metavar="[LOCAL:]REMOTE", help="A port of this machine, and the one inside it leads to.")
    ],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Reach a port inside an environment's sandbox through one of this machine (127.0.0.1), until Ctrl-C.

    LOCAL 0 takes a free port.
    """
    import asyncio

    local, _, remote = ports.rpartition(":")
    inner = _port(remote)
    outer = _port(local, least=0) if local else inner
    with connect(url, key) as api:
        asyncio.run(_forward(api, path("/ops/environments/{id}/ports/{port}", id=environment, port=str(inner)), outer))


def watch(
    environment: _EnvironmentArgument,
    folder: Annotated[str, typer.Argument(metavar="PATH", help="A folder below the working directory.")] = ".",
    recursive: Annotated[bool, typer.Option(help="Folders below it, too.")] = True,
    as_json: JsonFlag = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Show changes of files in an environment's sandbox as they happen, until Ctrl-C.

    `overflow` says that there were more than could be followed.
    """
    parameters = {"path": folder, "recursive": "true" if recursive else "false"}
    with connect(url, key) as api:
        for event in api.events("GET", path("/ops/environments/{id}/watch", id=environment), params=parameters):
            if "error" in event:
                complain(f"{event['error'].get('message')} [{event['error'].get('code')}]")
                raise typer.Exit(Exit.FAILED)
            if as_json:
                print_json(event)
            else:
                typer.echo(_line(event))


def usage(
    environment: _EnvironmentArgument, as_json: JsonFlag = False, url: UrlOption = None, key: KeyOption = None
) -> None:
    """Show what an environment's running sandbox uses: CPU time, memory, disk, processes."""
    with connect(url, key) as api:
        figures = api.call("GET", path("/ops/environments/{id}/usage", id=environment))
    if as_json:
        print_json(figures)
        return
    cpu, cores = figures.get("cpu_time_s"), figures.get("cpu_limit_cores")
    rows = {
        "cpu": "-" if cpu is None else f"{cpu:.2f} s" + ("" if cores is None else f" on up to {cores:g} cores"),
        "memory": _share(figures, "memory_bytes", "memory_limit_bytes", size),
        "memory peak": "-" if (peak := figures.get("memory_peak_bytes")) is None else size(peak),
        "disk": _share(figures, "disk_used_bytes", "disk_limit_bytes", size),
        "files": _share(figures, "disk_inodes", "disk_inodes_limit", str),
        "processes": _share(figures, "pids", "pids_limit", str),
    }
    for name, text in rows.items():
        typer.echo(f"{name:<12}{text}")


def _share(figures: dict[str, Any], used: str, limit: str, shown: Any) -> str:
    if figures.get(used) is None:
        return "-"
    text: str = shown(figures[used])
    return text if figures.get(limit) is None else f"{text} of {shown(figures[limit])}"


def _line(event: dict[str, Any]) -> str:
    place = neutralise(str(event.get("path", ""))).replace("\n", " ") + ("/" if event.get("is_dir") else "")
    old = event.get("old_path")
    moved = "" if old is None else f"{neutralise(str(old))} → ".replace("\n", " ")
    return f"{neutralise(str(event.get('kind'))):<9}{moved}{place}"


def _port(text: str, *, least: int = 1) -> int:
    if text.isascii() and text.isdigit() and least <= int(text) < 1 << 16:
        return int(text)
    raise typer.BadParameter(f"{text!r} is no port", param_hint="[LOCAL:]REMOTE")


async def _forward(api: Api, place: str, port: int) -> None:
    import asyncio

    from orchestrator.cli.sockets import open_socket

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with open_socket(api, place) as socket:
                await _relay(reader, writer, socket)
        except CorralError as error:
            complain(error.message)
        except OSError:
            pass  # who connected has left
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        listener = await asyncio.start_server(accept, "127.0.0.1", port)
    except OSError as error:
        raise CorralError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
    typer.echo(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        await listener.serve_forever()
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: ClientConnection) -> None:
    import asyncio

    from orchestrator.cli.sockets import last_words

    async def inwards() -> None:
        while data := await reader.read(_PIECE_BYTES):
            await socket.send(data)
        await socket.send(_END)

    async def outwards() -> None:
        while isinstance(frame := await socket.recv(), bytes):
            writer.write(frame)
            await writer.drain()
        last_words(frame)
        writer.write_eof()

    tasks = [asyncio.ensure_future(inwards()), asyncio.ensure_future(outwards())]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
