"""`corral serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. Not loopback: needs API keys.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where everything is kept.")] = None,
) -> None:
    """Run the server until it is told to stop (Ctrl-C, SIGTERM)."""
    import gc

    # All that an import makes stays, and the collector looks through it again and again: a fifth of the start.
    gc.disable()
    from orchestrator import app
    from orchestrator.config import Settings

    gc.freeze()
    gc.enable()
    app.serve(Settings.load(host=host, port=port, data_dir=data_dir))
