"""Reading request bodies: bounded, strict JSON."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from orchestrator.errors import BodyTooLarge, InvalidRequest
from orchestrator.wire.base import parse_json


async def read_json(request: Request, limit_bytes: int) -> Any:
    """The decoded body, whatever its content type says.

    Raises:
        BodyTooLarge: more than `limit_bytes`, announced or sent. InvalidRequest: not JSON as we take it, or cut off.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit_bytes:
                raise _too_large(limit_bytes)
    except ClientDisconnect as error:
        raise InvalidRequest("The request ended before its body did.") from error
    return parse_json(bytes(body))


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes.")
