"""A client of `tls_server.py` that says how long things took. It runs on the host and, as text, inside a sandbox, where
only the standard library is. Through a proxy if `http_proxy` is set.

    python3 tls_client.py PORT JOB COUNT < AUTHORITY_PEM

`JOB`: `new` (a connection for each request), `kept` (one for all), `parallel` (so many at once), `large` (so many
bytes), `hold` (one that stays open so many seconds). Says a JSON list of milliseconds; of `large` MiB/s.
"""

import json
import os
import socket
import ssl
import sys
import threading
import time

NAME = "site.bench"
PORT, JOB, COUNT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
CONTEXT = ssl.create_default_context(cadata=sys.stdin.read())
PROXY = os.environ.get("http_proxy", "").replace("http://", "")


def connect() -> ssl.SSLSocket:
    if not PROXY:
        raw = socket.create_connection(("127.0.0.1", PORT))
    else:
        host, _, port = PROXY.partition(":")
        raw = socket.create_connection((host, int(port)))
        raw.sendall(b"CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (NAME.encode(), PORT, NAME.encode(), PORT))
        head = b""
        while b"\r\n\r\n" not in head:
            head += raw.recv(4096)
        if b" 200 " not in head:
            sys.exit(head.decode())
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return CONTEXT.wrap_socket(raw, server_hostname=NAME)


def ask(connection: ssl.SSLSocket, path: str = "/") -> None:
    connection.sendall(b"GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (path.encode(), NAME.encode(), PORT))
    head, buffer = b"", bytearray(1 << 18)
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        if not piece:
            sys.exit("it ended")
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit((head + body).decode())
    left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
    while left > 0:
        got = connection.recv_into(buffer)
        if not got:
            sys.exit("it ended")
        left -= got


def new() -> float:
    begun = time.perf_counter()
    with connect() as connection:
        ask(connection)
    return (time.perf_counter() - begun) * 1000


def main() -> "list[float]":
    if JOB == "new":
        return [new() for _ in range(COUNT)]
    if JOB == "kept":
        took = []
        with connect() as connection:
            for _ in range(COUNT):
                begun = time.perf_counter()
                ask(connection)
                took.append((time.perf_counter() - begun) * 1000)
        return took
    if JOB == "parallel":
        done: list[float] = []
        threads = [threading.Thread(target=lambda: done.append(new())) for _ in range(COUNT)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(done) < COUNT:
            sys.exit(f"{len(done)} of {COUNT}")
        return [(time.perf_counter() - begun) * 1000]
    if JOB == "large":
        with connect() as connection:
            begun = time.perf_counter()
            ask(connection, f"/large/{COUNT}")
            return [COUNT / (1 << 20) / (time.perf_counter() - begun)]
    with connect() as connection:
        ask(connection)
        print("held", flush=True)
        time.sleep(COUNT)
    return []


print(json.dumps(main()))
