"""A program for `ssh`: joins its standard streams to a host through a tunnel (see `tunnel.py`).

    CORRAL_TUNNEL=PORT:PASSWORD python -I passage.py HOST PORT

Imports the standard library only, and nothing of the rest: it is started by path, many times.
"""

import base64
import os
import socket
import sys
import threading

_PIECE_BYTES = 65536


def main() -> int:
    port, _, password = os.environ.pop("CORRAL_TUNNEL").partition(":")  # noqa: TID251 - a program of its own
    host, host_port = sys.argv[1:3]
    host = f"[{host}]" if ":" in host else host
    tunnel = socket.create_connection(("127.0.0.1", int(port)))
    token = base64.b64encode(f"corral:{password}".encode()).decode()
    tunnel.sendall(f"CONNECT {host}:{host_port} HTTP/1.1\r\nProxy-Authorization: Basic {token}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = tunnel.recv(1)
        if not piece:
            return 1
        head += piece
    if not head.startswith(b"HTTP/1.1 200 "):
        return 1
    threading.Thread(target=_send, args=(tunnel,), daemon=True).start()
    while piece := tunnel.recv(_PIECE_BYTES):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return 0


def _send(tunnel: socket.socket) -> None:
    while piece := os.read(0, _PIECE_BYTES):
        tunnel.sendall(piece)
    tunnel.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    sys.exit(main())
