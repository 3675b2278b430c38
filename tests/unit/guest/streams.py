"""A stream of a service that stays open both ways, as a test talks on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.guest.frames import DATA, END, MESSAGE, RESET, decode_json, encode, encode_credit, encode_json
from tests.unit.guest.conftest import Client


class Talk:
    """One stream of a client; frames of other streams are dropped."""

    def __init__(self, client: Client, service: str, **request: Any) -> None:
        self.client = client
        self.number = client.open(service, **request)
        self.data = b""
        self.messages: list[dict[str, Any]] = []
        self.reset: dict[str, Any] | None = None
        self.has_ended = False

    def until(self, is_true: Callable[[], object]) -> None:
        """Reads until something is true; fails after the client's time limit, or when nothing more can come."""
        while not is_true():
            assert not self.has_ended, (self.data, self.messages, self.reset)
            self.read()

    def read(self, *, takes: bool = True) -> None:
        """One frame."""
        kind, number, payload = self.client.frame()
        if number != self.number:
            return
        if kind == DATA:
            self.data += payload
            if takes:
                self.take(len(payload))
        elif kind == MESSAGE:
            self.messages.append(decode_json(payload))
        elif kind == RESET:
            self.reset, self.has_ended = decode_json(payload), True
        elif kind == END:
            self.has_ended = True

    def until_end(self) -> bytes:
        self.until(lambda: self.has_ended)
        return self.data

    def until_data(self, text: bytes) -> None:
        self.until(lambda: text in self.data)

    def send(self, data: bytes) -> None:
        self.client.send(encode(DATA, self.number, data))

    def take(self, count: int) -> None:
        self.client.send(encode_credit(self.number, count))

    def tell(self, **message: Any) -> None:
        self.client.send(encode_json(MESSAGE, self.number, message))

    def end(self) -> None:
        self.client.send(encode(END, self.number))

    def close(self) -> None:
        self.client.send(encode_json(RESET, self.number, {"code": "cancelled", "message": ""}))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of JSON so far."""
        return [json.loads(line) for line in self.data.split(b"\n")[:-1]]
