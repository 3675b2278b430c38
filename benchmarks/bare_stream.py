"""The baseline of the streams: the same bytes from the same HTTP server with nothing behind it, a frame at a time.

Run as `python -m benchmarks.bare_stream PORT FILE`, where FILE holds server-sent events.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse


def create_application(file: Path) -> FastAPI:
    """Answers `GET /` with the file's frames; with `?readers=N`, as soon as so many have asked."""
    frames = [frame + b"\n\n" for frame in file.read_bytes().split(b"\n\n") if frame]
    app = FastAPI()
    asked = 0
    go = asyncio.Event()

    async def each() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    @app.get("/", response_model=None)
    async def stream(readers: int = 1) -> StreamingResponse:
        nonlocal asked, go
        asked += 1
        waiting = go
        if asked >= readers:
            asked, go = 0, asyncio.Event()
            waiting.set()
        await waiting.wait()
        return StreamingResponse(each(), media_type="text/event-stream")

    return app


def main() -> None:
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    uvicorn.run(create_application(file), port=port, loop="uvloop", http="httptools", lifespan="off", log_config=None)


if __name__ == "__main__":
    main()
