"""Talks to the way out in whatever words it is given (cases N1 to N14): bytes as a program would never send them.

Standard input is JSON in base64, a list of conversations: `tried`, `send` (sent at once, a character for each byte),
and what of these is given: `socks` (a name or address in SOCKS 5, before that), `tls` (a name, or empty for none, asked
for in TLS once the tunnel is open), `protocols` (offered there), `inner` (sent then). What came back is told.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.attack.inside.attempts import say

_AT_ONCE = 16
_SILENCE_S = 4.0
_SHOWN_CHARS = 1500


def main() -> None:
    wanted = json.loads(base64.b64decode(sys.stdin.read()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for index, got in enumerate(pool.map(talk, wanted)):
            say(wanted[index]["tried"], got)


def talk(wanted: Any) -> str:
    try:
        with socket.create_connection(("127.0.0.1", _port()), 10) as connection:
            return _talk(connection, wanted)
    except ssl.SSLError as error:
        return f"TLS: {error.reason or error}"
    except OSError as error:
        return f"closed: {error}"


def _talk(connection: socket.socket, wanted: Any) -> str:
    got = ""
    connection.settimeout(_SILENCE_S)
    if "socks" in wanted:
        code = _socks(connection, *wanted["socks"])
        if code != 0:
            return f"SOCKS refuses: {code}"
        got += "SOCKS opens; "
    if "send" in wanted:
        connection.sendall(wanted["send"].encode("latin-1"))
    if "tls" not in wanted and "inner" not in wanted:
        return got + _rest(connection)
    if "send" in wanted:
        head = _head(connection)
        if not head.startswith("HTTP/1.1 200"):
            return got + head + _rest(connection)
        got += "tunnel opens; "
    if "tls" in wanted:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(wanted.get("protocols", ["http/1.1"]))
        try:
            connection = context.wrap_socket(connection, server_hostname=wanted["tls"] or None)
        except (OSError, ValueError) as error:
            return f"{got}TLS fails: {error}"
        issuer = re.search(rb"Corral sandboxes [0-9a-f]{8}", connection.getpeercert(True) or b"")
        got += f"TLS opens by {issuer[0].decode() if issuer else 'another'}, {connection.selected_alpn_protocol()}; "
    connection.sendall(wanted.get("inner", "").encode("latin-1"))
    return got + _rest(connection)


def _port() -> int:
    return int(os.environ["http_proxy"].rpartition(":")[2].strip("/"))


def _head(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            break
        data += piece
    return data.decode("latin-1")


def _rest(connection: socket.socket) -> str:
    """All that comes until the end, or silence."""
    data, end = b"", "closed"
    try:
        while len(data) < 1 << 20:
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
    except TimeoutError:
        end = "silence"
    except OSError as error:
        end = f"closed: {error}"
    return data.decode("latin-1")[:_SHOWN_CHARS] or end


def _socks(connection: socket.socket, host: str, port: int) -> int:
    """What SOCKS answers; -1: nothing."""
    try:
        address = ipaddress.ip_address(host)
        place = bytes([1 if address.version == 4 else 4]) + address.packed
    except ValueError:
        name = host.encode("latin-1")
        place = bytes([3, len(name)]) + name
    connection.sendall(b"\x05\x01\x00")
    connection.recv(2)
    connection.sendall(b"\x05\x01\x00" + place + port.to_bytes(2, "big"))
    answer = b""
    while len(answer) < 10:
        piece = connection.recv(10 - len(answer))
        if not piece:
            return -1
        answer += piece
    return answer[1]


if __name__ == "__main__":
    main()
