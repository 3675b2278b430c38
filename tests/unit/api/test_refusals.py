"""What is wrong before a route is reached, or while its body arrives, is answered in the one shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Query, Request
from starlette.requests import ClientDisconnect

from orchestrator.api import errors
from orchestrator.api.body import read_json
from orchestrator.errors import InvalidRequest


@pytest.mark.anyio
@pytest.mark.parametrize("given", ["many", "0"])
async def test_parameter_of_the_wrong_type_names_it(given: str) -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/list")
    async def index(page_size: Annotated[int, Query(ge=1)] = 50) -> int:
        return page_size

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/list", params={"page_size": given})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert error["message"].startswith("Invalid value at 'page_size': ")


@pytest.mark.anyio
async def test_body_that_is_cut_off_is_the_callers_fault() -> None:
    class CutOff(Request):
        async def stream(self) -> AsyncGenerator[bytes, None]:
            yield b'{"agent": '
            raise ClientDisconnect

    with pytest.raises(InvalidRequest, match="ended before"):
        await read_json(CutOff({"type": "http", "headers": []}), 1000)
