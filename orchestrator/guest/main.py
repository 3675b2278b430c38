"""Start and end of the guest. Run as the container's main process: `python3 -I -S -c "… from guest.main import main;
main()"`.

Arguments: `--socket PATH`, `--cwd PATH`, `--uid N`, `--gid N`, `--home PATH`, `--drop yes|no`, `--linked yes|no`. As
root it drops its hands to uid and gid; as anybody else, and with `--drop no` (tests), the hands stay who they are. With
`--linked yes` its standard input and output are its first link: who starts it has attached to them before. Later links
come by bridges.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Dict, Set, Tuple

from .hands import HandPool, User
from .link import Link, Listener
from .reactor import Reactor
from .services import Services

_DEFAULTS = {
    "socket": "/run/corral/guest.sock",
    "cwd": "/workspace",
    "uid": "1000",
    "gid": "1000",
    "home": "/home/agent",
    "drop": "yes",
    "linked": "no",
}


def main() -> None:
    """Serves until SIGTERM."""
    options = _options(sys.argv[1:])
    first_link = _take_standard_streams() if options["linked"] == "yes" else None
    reactor = Reactor()
    user = User(int(options["uid"]), int(options["gid"]), drop=os.geteuid() == 0 and options["drop"] != "no")
    # A collection writes to all that it looks at; what is frozen stays shared with the hands (2.5 MiB a sandbox).
    gc.freeze()
    pool = HandPool(reactor, user)
    pool.fill()
    env = dict(os.environ, HOME=options["home"], USER="agent", LOGNAME="agent", PWD=options["cwd"])
    services = Services(reactor, pool, env, options["cwd"])
    folder = os.path.dirname(options["socket"])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.path.exists(options["socket"]):
        os.unlink(options["socket"])
    listener = Listener(reactor, options["socket"], services.open, services.greeting)
    if first_link is not None:
        Link(listener, reactor, *first_link)
    _watch_signals(reactor, pool)
    reactor.run()


def _options(arguments: "list[str]") -> Dict[str, str]:
    options = dict(_DEFAULTS)
    for name, value in zip(arguments[::2], arguments[1::2]):
        options[name.lstrip("-")] = value
    return options


def _take_standard_streams() -> Tuple[int, int]:
    """Standard input and output under numbers that no hand keeps; in their place is nothing."""
    taken = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return taken


def _watch_signals(reactor: Reactor, pool: HandPool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def on_signal() -> None:
        received: Set[int] = set(os.read(reader, 4096))
        if signal.SIGTERM in received or signal.SIGINT in received:
            reactor.stop()
        _reap(pool)

    reactor.watch(reader, on_signal)


def _reap(pool: HandPool) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            pool.stopped(pid)
        else:
            pool.reaped(pid)
