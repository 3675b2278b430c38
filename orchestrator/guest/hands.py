"""The pool of hands, the guest's side: forks them, drops them to `agent`, gives them requests, notices their end.

Every child of the guest that is not a hand was left behind by a hand that died, and is killed: hands do not die by
themselves as long as anything is below them, but the agent may kill its own. Nor may it stop them: they are continued.

Older gVisor has no subreapers: there, what a command leaves behind goes to init, and is a hand's by session and number.

A call takes a hand that was made before the call came; making the next one waits until the call has begun. A hand
that is left with background processes keeps them until they end, and is not used again.
"""

from __future__ import annotations

import array
import ctypes
import functools
import os
import resource
import signal
import socket
from collections import deque
from contextlib import contextmanager
from typing import AbstractSet, Any, Callable, Deque, Dict, Iterator, List, NoReturn, Optional, Sequence, Set

from .frames import OPEN, Decoder, FrameError, decode_json, encode_json
from .hand import Hand
from .reactor import Reactor
from .trees import Sweep, below, children, descendants, is_dying, send_signal, session_of

Answer = Dict[str, Any]

_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_LAST_CAPABILITY = 63
_INIT = 1
_ENDED_SESSIONS = 1000
"""Sessions of requests that ended well; what they left in the background stays."""
_NICENESS = 19
"""Counts within the sandbox only: between sandboxes it is their control groups that share."""
_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The guest handles the first; who started it may ignore the others, which what the agent runs would inherit."""
_SPARE_HANDS = 2
_REFILL_DELAY_S = 0.02
"""A fork while a call starts would delay that call."""
_WARY_S = 2.0
"""After the end of a hand: so long the others are looked at more closely, which takes 30 us a call."""
_SEND_TIMEOUT_S = 2.0
"""A hand that the agent keeps from running must not stop the guest."""


def prctl(option: int, value: int) -> int:
    """The system call; negative on failure."""
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


def become_subreaper() -> bool:
    """Orphans of the calling process's descendants become its children; False where the kernel cannot do that."""
    return prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


class User:
    """Who the hands are. With `drop` false (tests without root) they stay who they are.

    With `is_root` what they start is root's, with all that the sandbox has, and only files are the user's.
    """

    def __init__(self, uid: int, gid: int, drop: bool, *, is_root: bool = False) -> None:
        self.uid = uid
        self.gid = gid
        self.drop = drop
        self.is_root = is_root

    def become(self) -> None:
        """Gives up root and every capability for good, unless `is_root`. Raises `OSError` if any part of it fails."""
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if not self.drop:
            return
        # A thousand busy processes of the agent must not keep the guest, which has to end them, from its turn.
        os.nice(_NICENESS)
        if self.is_root:
            os.setgroups([])
            return
        for capability in range(_LAST_CAPABILITY + 1):
            if prctl(_PR_CAPBSET_DROP, capability) < 0 and capability <= 37:
                raise OSError("the capability bounding set cannot be emptied")
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    @contextmanager
    def of_files(self) -> Iterator[None]:
        """Within the block the calling process is the user for all that it does with files."""
        if not (self.drop and self.is_root):
            yield
            return
        os.setegid(self.gid)
        os.seteuid(self.uid)  # which takes the capabilities, too, for as long
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


def encode_request(request: Dict[str, Any]) -> bytes:
    """A request to a hand, before one is taken for it. Raises `FrameError` if it is too large."""
    return encode_json(OPEN, 0, request)


class HandProcess:
    """One hand, as the guest holds it. `on_answer` gets its answers; `on_end` comes once, when it is gone."""

    def __init__(self, pid: int, channel: socket.socket, reactor: Reactor) -> None:
        self.pid = pid
        self.is_alive = True
        self.is_doomed = False
        """It will be killed with all that is below it; it must not get another request."""
        self.session = 0
        """The first process of the present request, which began a session; 0 if there is none."""
        self.find_strays: Callable[[AbstractSet[int]], Set[int]] = lambda _known: set()
        self.on_answer: Callable[[Answer], None] = lambda _answer: None
        self.on_end: Callable[[], None] = lambda: None
        self._channel = channel
        self._reactor = reactor
        self._decoder = Decoder()
        channel.settimeout(_SEND_TIMEOUT_S)
        reactor.watch(channel.fileno(), self._receive)

    def send(self, request: bytes, descriptors: Sequence[int]) -> None:
        """Sends a request and its descriptors, which stay open here. A hand that is gone reports by `on_end`."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            sent = self._channel.sendmsg([request], rights)
            self._channel.sendall(request[sent:])
        except OSError:
            self.kill()  # its end arrives as end of file

    def family(self, known: AbstractSet[int] = frozenset()) -> Set[int]:
        """All that its request started and that still lives, without what is known of it."""
        found = descendants(self.pid, known) if self.is_alive else set()
        return found | self.find_strays(known)

    def close(self) -> None:
        """Lets the hand go: without its channel it exits."""
        if self._channel.fileno() >= 0:
            self._reactor.forget(self._channel.fileno())
            self._channel.close()

    def kill(self) -> None:
        """Ends the hand itself at once; see `processes.TreeKill` for what is below it."""
        self.is_doomed = True
        if self.is_alive:
            send_signal(self.pid, signal.SIGKILL)

    def reaped(self) -> None:
        """Called by the pool when the process is gone. What it said before counts."""
        self.is_alive = False
        while self._channel.fileno() >= 0:
            self._receive(socket.MSG_DONTWAIT)
        self.on_end()

    def _receive(self, flags: int = 0) -> None:
        try:
            data = self._channel.recv(256 * 1024, flags)
            answers: List[Answer] = [decode_json(payload) for _, _, payload in self._decoder.feed(data)]
        except (OSError, FrameError):
            data, answers = b"", []
        if not data:
            self.close()
            self.kill()  # of no more use; its end follows
        for answer in answers:
            self.session = answer.get("pid", self.session)
            self.on_answer(answer)


class NoHand(Exception):
    """No process can be made: the sandbox is full of them."""


class HandPool:
    """Keeps hands ready."""

    def __init__(self, reactor: Reactor, user: User) -> None:
        self._reactor = reactor
        self.user = user
        self._spare: List[HandProcess] = []
        self._keepers: List[HandProcess] = []
        self._alive: Dict[int, HandProcess] = {}
        self._has_subreapers = become_subreaper()
        self._ended_sessions: Deque[int] = deque(maxlen=_ENDED_SESSIONS)
        self._refilling = False
        self._wary_until = 0.0

    def fill(self) -> None:
        """Makes the spare hands now, as far as the limit of processes lets it."""
        try:
            while len(self._spare) < _SPARE_HANDS:
                self._keep(self._fork())
        except (NoHand, OSError):
            pass  # `take` tries again, and says so if it cannot

    def take(self) -> HandProcess:
        """A hand for one request. Afterwards `give` it back if it ended idle, else `retire` it.

        Raises:
            NoHand: no process can be made. OSError: no descriptor can.
        """
        hand = self._live_spare() or self._fork()
        hand.on_end = lambda: None
        if not self._spare and not self._refilling:
            self._refilling = True
            self._reactor.after(_REFILL_DELAY_S, self._refill)
        return hand

    def _live_spare(self) -> Optional[HandProcess]:
        while self._spare:
            hand = self._spare.pop()
            if self._is_usable(hand):
                return hand
            hand.on_end = lambda: None
        return None

    def _is_usable(self, hand: HandProcess) -> bool:
        """The agent may have killed it, and nobody has been told so far."""
        if not hand.is_alive or os.waitid(os.P_PID, hand.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        # Who kills one may have killed all, and on a busy machine they come to their ends one after the other.
        return self._reactor.now() > self._wary_until or not is_dying(hand.pid)

    def give(self, hand: HandProcess) -> None:
        """Takes back a hand that has nothing below it."""
        hand.on_end = lambda: None
        self._end_session(hand)
        if hand.is_doomed:
            return
        if len(self._spare) < _SPARE_HANDS:
            self._keep(hand)
        else:
            hand.close()

    def retire(self, hand: HandProcess) -> None:
        """Leaves a hand alone with its background processes; it ends when they do."""

        def gone() -> None:
            self._keepers.remove(hand)

        hand.on_answer = lambda _answer: None
        hand.on_end = gone
        self._end_session(hand)
        self._keepers.append(hand)

    def reaped(self, pid: int) -> None:
        """Tells that a child of the guest is gone."""
        hand = self._alive.pop(pid, None)
        if hand is not None:
            self._wary_until = self._reactor.now() + _WARY_S
            # What it left has become ours by now.
            Sweep(self._reactor, lambda known: self._orphans(known) | hand.find_strays(known), lambda: None)
            hand.reaped()

    def stopped(self, pid: int) -> None:
        """Tells that a child of the guest was stopped. Hands go on."""
        if pid in self._alive:
            send_signal(pid, signal.SIGCONT)

    def _orphans(self, known: AbstractSet[int]) -> Set[int]:
        family = children(known)
        left = {pid for pid in family.get(os.getpid(), []) if pid not in self._alive}
        return left | below(left | known, family)

    def _end_session(self, hand: HandProcess) -> None:
        if hand.session:
            self._ended_sessions.append(hand.session)
            hand.session = 0

    def _strays(self, hand: HandProcess, known: AbstractSet[int]) -> Set[int]:
        """What of a hand's request went to init: by its session, or, if it has one of its own, by its later number."""
        if not hand.session:
            return set()
        family = children(known)
        others = {each.session for each in self._alive.values() if each is not hand} | set(self._ended_sessions)
        left = set()
        for pid in family.get(_INIT, []):
            session = session_of(pid)
            is_its_own = session == hand.session or (session not in others and pid > hand.session)
            if is_its_own and pid != os.getpid() and pid not in self._alive:
                left.add(pid)
        return left | below(left | known, family)

    @property
    def keepers(self) -> Sequence[HandProcess]:
        """Hands that only keep background processes of ended calls."""
        return tuple(self._keepers)

    def _keep(self, hand: HandProcess) -> None:
        def gone() -> None:
            if hand in self._spare:
                self._spare.remove(hand)

        hand.on_answer = lambda _answer: None
        hand.on_end = gone
        self._spare.append(hand)

    def _refill(self) -> None:
        self._refilling = False
        self.fill()

    def _fork(self) -> HandProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise NoHand(str(error)) from error
        if pid == 0:
            _live_as_hand(theirs, self.user)
        theirs.close()
        hand = self._alive[pid] = HandProcess(pid, ours, self._reactor)
        if not self._has_subreapers:
            hand.find_strays = functools.partial(self._strays, hand)
        return hand


def _live_as_hand(channel: socket.socket, user: User) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in _DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(channel.fileno(), 3, inheritable=False)
        os.closerange(4, 65536)
        channel.detach()
        become_subreaper()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _raise_oom_score()
        user.become()
        os.umask(0o022)
        Hand(socket.socket(fileno=3), user.of_files).run()
    finally:
        os._exit(1)


def _raise_oom_score() -> None:
    # The kernel then picks the agent's processes before the guest when memory is short.
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass


def exit_of(status: int) -> Dict[str, Optional[int]]:
    """Exit code or signal of a wait status."""
    if os.WIFSIGNALED(status):
        return {"exit_code": None, "signal": os.WTERMSIG(status)}
    return {"exit_code": os.WEXITSTATUS(status), "signal": None}
