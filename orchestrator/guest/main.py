"""Start and end of the guest. Run as the container's main process: `python3 -I -S -c "… from guest.main import main;
main()"`.

Arguments: `--socket PATH`, `--cwd PATH`, `--uid N`, `--gid N`, `--home PATH`, `--drop yes|no`, `--linked yes|no`,
`--commands-as agent|root`, `--trust PATH`. As root it drops its hands to uid and gid; as anybody else, and with
`--drop no` (tests), the hands stay who they are. With `--linked yes` its standard input and output are its first link:
who starts it has attached to them before. Later links come by bridges. With `--commands-as root`, where a template is
set up, what commands and cells run is root's; files are put, read and written as uid and gid all the same.
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
    "commands-as": "agent",
    "trust": "/run/corral-trust",
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main() -> None:
    """Serves until SIGTERM."""
    options = _options(sys.argv[1:])
    first_link = _take_standard_streams() if options["linked"] == "yes" else None
    reactor = Reactor()
    is_root = options["commands-as"] == "root"
    drop = os.geteuid() == 0 and options["drop"] != "no"
    user = User(int(options["uid"]), int(options["gid"]), drop=drop, is_root=is_root)
    # A collection writes to all that it looks at; what is frozen stays shared with the hands (2.5 MiB a sandbox).
    gc.freeze()
    pool = HandPool(reactor, user)
    pool.fill()
    env = dict(os.environ, HOME=options["home"], USER="agent", LOGNAME="agent", PWD=options["cwd"])
    if is_root and drop:
        env.update(_root_env(options, env.get("PATH", "")))
    services = Services(reactor, pool, env, options["cwd"], options["trust"])
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


def _root_env(options: Dict[str, str], path: str) -> Dict[str, str]:
    return {
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "PATH": f"{_SYSTEM_PATH}:{path}",
        "DEBIAN_FRONTEND": "noninteractive",
        # Whom to give files to, as `chown` takes it.
        "CORRAL_AGENT": f"{options['uid']}:{options['gid']}",
    }


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
