"""What people reach a sandbox by: terminals, connections, file watches, figures. Few sandboxes need any of it, so it is
imported at first use.

    terminal  {"argv", "cwd", "env", "rows", "cols"}   DATA both ways: keys and screen; see `terminals.py`
    connect   {"port", "host"}                         DATA both ways: a TCP connection; see `forwards.py`
    watch     {"paths", "recursive"}                   DATA out: lines of JSON; see `watches.py`
    usage     {}                                       MESSAGE out: {"usage": {…}}; see `usage.py`

How many of each there may be at once is limited.
"""

from __future__ import annotations

from typing import Any, Dict, List

from .forwards import HOSTS, Connection
from .hands import HandPool
from .link import Stream
from .reactor import Reactor
from .terminals import Terminal, window_size
from .transfers import Transfer
from .usage import usage

LIMITS = {"terminal": 16, "connect": 64, "watch": 8}
_PATHS_LIMIT = 64
_SHELL = ["bash", "-l"]
_TERM = "xterm-256color"


class Reach:
    """Opens streams of these services."""

    def __init__(self, reactor: Reactor, pool: HandPool, cwd: str) -> None:
        self._reactor = reactor
        self._pool = pool
        self._cwd = cwd
        self._opened: Dict[str, List[Any]] = {service: [] for service in LIMITS}

    def open(self, stream: Stream, request: Dict[str, Any], env: Dict[str, str]) -> None:
        """Raises `NoHand`, `FrameError` and what a request that makes no sense raises."""
        service = str(request["service"])
        if service == "usage":
            stream.send_message({"usage": usage(self._cwd)})
            stream.end()
            return
        still_open = self._opened[service] = [each for each in self._opened[service] if not each.is_over]
        if len(still_open) >= LIMITS[service]:
            stream.reset("too_many", f"a sandbox has at most {LIMITS[service]} of these at once")
            return
        try:
            still_open.append(getattr(self, f"_{service}")(stream, request, env))
        except OSError as error:
            stream.reset("failed", error.strerror or str(error))

    def _terminal(self, stream: Stream, request: Dict[str, Any], env: Dict[str, str]) -> Terminal:
        argv = [str(each) for each in request.get("argv") or _SHELL]
        cwd = str(request.get("cwd") or self._cwd)
        env = dict({"TERM": _TERM}, **env)
        return Terminal(self._reactor, self._pool, stream, argv, env, cwd, window_size(request))

    def _connect(self, stream: Stream, request: Dict[str, Any], _env: Dict[str, str]) -> Connection:
        port, host = int(request["port"]), request.get("host")
        if not 0 < port < 1 << 16 or host not in (None, *HOSTS):
            raise ValueError("a port from 1 to 65535 on 127.0.0.1 or ::1")
        return Connection(self._reactor, stream, HOSTS if host is None else [host], port)

    def _watch(self, stream: Stream, request: Dict[str, Any], _env: Dict[str, str]) -> Transfer:
        paths = [str(each) for each in request["paths"]]
        if not 0 < len(paths) <= _PATHS_LIMIT:
            raise ValueError(f"one to {_PATHS_LIMIT} paths")
        arguments = {"paths": paths, "recursive": bool(request.get("recursive")), "cwd": self._cwd}
        return Transfer(self._reactor, self._pool, stream, "watch", arguments)
