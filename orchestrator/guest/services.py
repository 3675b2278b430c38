"""What a stream can ask for. The orchestrator's requests are trusted, but checked: a mistake must not end the guest.

    exec   {"call", "argv", "cwd", "env", "timeout_s", "output_limit_bytes", "input"}   DATA in: stdin, if "input"
    cell   {"call", "env", "timeout_s", "output_limit_bytes"}                           DATA in: the code
    file   {"call", "operation", "arguments", "timeout_s", "output_limit_bytes"}        DATA in: content, if any
    put    {"call", "target", "timeout_s"}                                             DATA in: a tar stream
    get    {"paths"}                                                                    DATA out: a tar stream
           {"operation", "arguments"}      `entries` or `media` of file_tools           DATA out: what it writes
    ack    {"call"}                    forgets a call whose outcome is stored
    stop   {"call", "verdict"}         ends a call, whoever began it, and forgets it; END when nothing of it runs
    warm   {"env"}                     starts the Python interpreter early
    calls  {}                          MESSAGE out: {"calls": {id: "running" | "finished"}}
    listen {"port"}                    MESSAGE out: {}: the way out is there for every call that comes after
    accept {"port"}                    MESSAGE out: {"accepted": …}, then DATA both ways: see `outlets.py`
    trust  {"authority"}               MESSAGE out: {}: see `trust.py`

`output_limit_bytes` of output are kept, head and tail. A call that writes more than `output_total_limit_bytes` is
stopped; every request may carry it.

    terminal, connect, watch, usage    how people reach the sandbox: see `reach.py`

exec, cell, file and put are calls: the same id again, with `from_bytes`, follows the call that is already there; an id
that was forgotten resets the stream with `forgotten`. Within a call's stream MESSAGE {"stop": "cancelled"} ends it,
with that verdict.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from .calls import OUTPUT_TOTAL_LIMIT_BYTES, STOPS, Call, CallBook, Follower, Forgotten
from .cells import NOT_BEGUN, Cell, CellQueue
from .cgroup import LimitCounters
from .frames import FrameError
from .hands import HandPool, NoHand
from .link import Stream
from .outlets import Outlet
from .processes import HandTask, end_background
from .reactor import Reactor
from .transfers import Transfer
from .trust import Trust
from .verdicts import Judge

if TYPE_CHECKING:
    from .reach import Reach

_CODE_LIMIT_BYTES = 8 << 20
_ENV_LIMIT_BYTES = 192 << 10
"""As JSON: they go on to hand and interpreter in one frame with a little more."""


class Services:
    """Opens streams."""

    def __init__(self, reactor: Reactor, pool: HandPool, base_env: Dict[str, str], cwd: str, trust_folder: str) -> None:
        self._trust = Trust(trust_folder, base_env)
        self._reactor = reactor
        self._pool = pool
        self._base_env = base_env
        self._cwd = cwd
        self._guest_id = os.urandom(8).hex()
        self._judge = Judge(LimitCounters(), [cwd, "/tmp", "/dev/shm"])
        self._calls = CallBook()
        self._cells = CellQueue(reactor, pool, self._judge, cwd)
        self._openers: Dict[str, Callable[[Stream, Dict[str, Any]], None]] = {
            "exec": self._open_call,
            "cell": self._open_call,
            "file": self._open_call,
            "put": self._open_call,
            "get": self._open_get,
            "ack": self._open_ack,
            "stop": self._open_stop,
            "warm": self._open_warm,
            "calls": self._open_calls,
            "listen": self._open_listen,
            "accept": self._open_accept,
            "trust": self._open_trust,
            **dict.fromkeys(("terminal", "connect", "watch", "usage"), self._open_reach),
        }
        self._reach: Optional[Reach] = None
        self._outlet: Optional[Outlet] = None

    def greeting(self) -> Dict[str, Any]:
        """What HELLO tells besides the protocol."""
        return {"calls": self._calls.states(), "guest": self._guest_id}

    def open(self, stream: Stream, request: Dict[str, Any]) -> None:
        """Serves a new stream; a request that makes no sense resets it."""
        opener = self._openers.get(str(request.get("service")))
        if opener is None:
            stream.reset("unknown_service", f"no service {request.get('service')!r}")
            return
        try:
            opener(stream, request)
        except Forgotten as error:
            stream.reset("forgotten", str(error))
        except NoHand as error:
            end_background(self._reactor, self._pool)
            stream.reset("no_process", f"no process can be started: {error}")
        except OSError as error:
            stream.reset("failed", f"the guest cannot do it now: {error.strerror}")
        except (KeyError, TypeError, ValueError, OverflowError, FrameError) as error:
            stream.reset("bad_request", f"{type(error).__name__}: {error}")

    def _open_call(self, stream: Stream, request: Dict[str, Any]) -> None:
        call_id = str(request["call"])
        start_bytes = int(request.get("from_bytes", 0))
        call = self._calls.find(call_id)
        if call is None:
            if request.get("attach_only"):
                stream.reset("unknown_call", f"no call {call_id!r}")
                return
            kept_bytes = int(request.get("output_limit_bytes", 1 << 20))
            call = Call(call_id, kept_bytes, int(request.get("output_total_limit_bytes", OUTPUT_TOTAL_LIMIT_BYTES)))
            self._begin(call, request)
            self._calls.add(call)
        call.attach(stream)
        Follower(call, stream, start_bytes).pump()

    def _begin(self, call: Call, request: Dict[str, Any]) -> None:
        timeout_s = float(request["timeout_s"])
        if not timeout_s > 0:
            raise ValueError("timeout_s must be a positive number")
        service = request["service"]
        if service == "cell":
            self._begin_cell(call, self._env(request), timeout_s)
            return
        if service == "exec":
            task = {"do": "spawn", "argv": [str(each) for each in request["argv"]], "env": self._env(request)}
            task["cwd"] = str(request.get("cwd") or self._cwd)
            takes_input = bool(request.get("input"))
        elif service == "put":
            task = {"do": "file", "operation": "extract", "arguments": {"target": str(request["target"])}}
            takes_input = True
        else:
            arguments = dict(request["arguments"], cwd=self._cwd)
            task = {"do": "file", "operation": str(request["operation"]), "arguments": arguments}
            takes_input = bool(request.get("input"))
        HandTask(self._reactor, self._pool, self._judge, call, task, timeout_s=timeout_s, takes_input=takes_input)

    def _begin_cell(self, call: Call, env: Dict[str, str], timeout_s: float) -> None:
        code = bytearray()
        # Who sends the code may be gone; the cell's own time begins when it runs.
        deadline = self._reactor.after(timeout_s, lambda: call.stop("timeout"))
        call.on_end.append(deadline.cancel)

        def take_input(data: Optional[bytes]) -> None:
            if data is None:
                deadline.cancel()
                self._cells.add(Cell(call, bytes(code), env, timeout_s))
                return
            code.extend(data)
            call.input_taken(len(data))
            if len(code) > _CODE_LIMIT_BYTES:
                call.finish({"verdict": "refused", "error": {"code": "too_large", "message": "the code is too large"}})

        call.take_input = take_input
        call.stop = lambda verdict: call.finish(dict(NOT_BEGUN, verdict=verdict))

    def _open_get(self, stream: Stream, request: Dict[str, Any]) -> None:
        operation = str(request.get("operation", "archive"))
        if operation == "archive":
            arguments = {"paths": [str(each) for each in request["paths"]], "cwd": self._cwd}
        elif operation in ("entries", "media"):
            arguments = dict(request["arguments"], cwd=self._cwd)
        else:
            raise ValueError(f"no operation {operation!r}")
        Transfer(self._reactor, self._pool, stream, operation, arguments)

    def _open_ack(self, stream: Stream, request: Dict[str, Any]) -> None:
        self._calls.forget(str(request["call"]))
        stream.end()

    def _open_stop(self, stream: Stream, request: Dict[str, Any]) -> None:
        verdict = request.get("verdict", STOPS[0])
        if verdict not in STOPS:
            raise ValueError(f"no call can be stopped as {verdict!r}")
        self._calls.stop(str(request["call"]), verdict, stream.end)

    def _open_warm(self, stream: Stream, request: Dict[str, Any]) -> None:
        self._cells.warm(self._env(request))
        stream.end()

    def _open_calls(self, stream: Stream, _request: Dict[str, Any]) -> None:
        stream.send_message({"calls": self._calls.states()})
        stream.end()

    def _open_listen(self, stream: Stream, request: Dict[str, Any]) -> None:
        self._listening(request)
        stream.send_message({})
        stream.end()

    def _open_accept(self, stream: Stream, request: Dict[str, Any]) -> None:
        self._listening(request).open(stream)

    def _listening(self, request: Dict[str, Any]) -> Outlet:
        if self._outlet is None:
            self._outlet = Outlet(self._reactor, int(request["port"]))
            self._base_env.update(self._outlet.variables)
        return self._outlet

    def _open_trust(self, stream: Stream, request: Dict[str, Any]) -> None:
        self._base_env.update(self._trust.establish(str(request["authority"])))
        stream.send_message({})
        stream.end()

    def _open_reach(self, stream: Stream, request: Dict[str, Any]) -> None:
        if self._reach is None:
            from .reach import Reach

            self._reach = Reach(self._reactor, self._pool, self._cwd)
        self._reach.open(stream, request, self._env(request))

    def _env(self, request: Dict[str, Any]) -> Dict[str, str]:
        given = request.get("env") or {}
        if not isinstance(given, dict):
            raise TypeError("env must be an object")
        env = dict(self._base_env, **{str(name): str(value) for name, value in given.items()})
        if len(json.dumps(env)) > _ENV_LIMIT_BYTES:
            raise ValueError("the variables are too large")
        return env
