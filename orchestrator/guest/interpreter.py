"""The stateful Python interpreter: runs in the sandbox as `agent`, takes cells from descriptor 3, answers there.

    request   OPEN {"env"} · DATA code … · END
    answer    MESSAGE {"ok", "types", "sizes"} · DATA attachments … · END

What a cell prints goes to its standard output and error, which are one pipe. The value of a last expression is
printed, as in an interactive session. Pictures that matplotlib showed or saved come back as attachments (`charts.py`).
"""

from __future__ import annotations

import ast
import linecache
import os
import signal
import socket
import sys
import traceback
import types
from typing import Any, Dict, List

from . import charts
from .frames import DATA, END, MAX_PAYLOAD_BYTES, MESSAGE, OPEN, Decoder, decode_json, encode, encode_json

_CONTROL_FD = 3
_CELL_PREFIX = "<cell "


class Session:
    """The namespace that lives from cell to cell, and the interrupt switch."""

    def __init__(self) -> None:
        self._module = types.ModuleType("__main__")
        self._module.__dict__["__builtins__"] = __builtins__
        self._cells = 0
        self._is_running = False
        self._env_names: List[str] = []
        sys.modules["__main__"] = self._module
        signal.signal(signal.SIGINT, self._interrupted)

    def run(self, source: str, env: Dict[str, str]) -> bool:
        """Runs one cell; prints what it prints, its last value, or its traceback. True if nothing was raised."""
        self._cells += 1
        name = f"{_CELL_PREFIX}{self._cells}>"
        self._apply(env)
        try:
            # A last line without its end would move the marks below it by one.
            linecache.cache[name] = (len(source), None, f"{source}\n".splitlines(keepends=True), name)
            tree = ast.parse(source, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            namespace = self._module.__dict__
            self._is_running = True
            exec(compile(tree, name, "exec", dont_inherit=True), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), namespace)
                if value is not None:
                    namespace["_"] = value
                    print(repr(value))
        except SystemExit as leaving:
            self._is_running = False
            return _has_left_well(leaving)
        except BaseException:
            self._is_running = False
            self._print_traceback()
            return False
        finally:
            self._is_running = False
        return True

    def _print_traceback(self) -> None:
        kind, error, trace = sys.exc_info()
        try:
            report = traceback.TracebackException(kind, error, trace)  # type: ignore[arg-type]
            names = [frame.filename.startswith(_CELL_PREFIX) for frame in report.stack]
            # What comes before the cell's first line is this program; a cell that cannot be parsed has no line.
            report.stack[:] = report.stack[names.index(True) :] if True in names else []
            lines = report.format() if report.stack else report.format_exception_only()
            print("".join(lines), end="", file=sys.stderr)
        except BaseException as failure:
            print(f"{kind}: the error cannot be printed: {type(failure).__name__}", file=sys.stderr)

    def _apply(self, env: Dict[str, str]) -> None:
        for name in self._env_names:
            if name not in env:
                os.environ.pop(name, None)
        for name, value in env.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        self._env_names = list(env)

    def _interrupted(self, _number: int, _frame: Any) -> None:
        if self._is_running:
            raise KeyboardInterrupt


def _has_left_well(leaving: SystemExit) -> bool:
    """Leaving would lose the state, so a cell that calls exit() has simply ended. Says why, as a process would."""
    if leaving.code in (None, 0):
        return True
    reason = leaving.code if isinstance(leaving.code, str) else f"SystemExit: {leaving.code}"
    try:
        print(reason, file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        pass  # the cell has replaced or closed the stream
    return False


def main() -> None:
    """Serves cells until descriptor 3 ends."""
    control = socket.socket(fileno=_CONTROL_FD)
    os.set_inheritable(_CONTROL_FD, False)
    sys.argv = [""]
    sys.path[0] = ""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    charts.install()
    session = Session()
    decoder = Decoder()
    own_pid = os.getpid()
    env: Dict[str, str] = {}
    code = bytearray()
    while True:
        data = control.recv(256 * 1024)
        if not data:
            return
        for kind, _stream, payload in decoder.feed(data):
            if kind == OPEN:
                env, code = decode_json(payload)["env"], bytearray()
            elif kind == DATA:
                code += payload
            elif kind == END:
                is_ok = session.run(code.decode("utf-8", "replace"), env)
                _flush()
                if os.getpid() != own_pid:
                    os._exit(0 if is_ok else 1)  # the cell forked, and this is the copy: only one may answer
                _answer(control, is_ok)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def _answer(control: socket.socket, is_ok: bool) -> None:
    pictures = charts.take()
    header = {"ok": is_ok, "types": [kind for kind, _ in pictures], "sizes": [len(each) for _, each in pictures]}
    message = encode_json(MESSAGE, 1, header)
    for _, picture in pictures:
        for start in range(0, len(picture), MAX_PAYLOAD_BYTES):
            message += encode(DATA, 1, picture[start : start + MAX_PAYLOAD_BYTES])
    control.sendall(message + encode(END, 1))
