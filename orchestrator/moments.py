"""Moments: the named points of a story at which a crash is worth a test. Imports nothing of the rest.

A server passes them without a trace; only a harness that kills servers sets a watcher, in the process that it starts.
Where a name stands in the code is what it means: all that the line above did has been done, nothing of the line below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Moment = Literal[
    # an interaction and its run
    "interaction.stored",
    "run.claimed",
    "run.taken_up",
    "turn.asked",
    "turn.shown",
    "turn.stored",
    "run.ending",
    "run.ended",
    "run.waiting",
    # a tool call; `running` is the host's view: the guest has answered
    "call.journaled",
    "call.sent",
    "call.running",
    "call.ended",
    "result.queued",
    "result.stored",
    "call.acknowledged",
    # a cancel: the wish is durable, nothing runs inside any more, the end is durable
    "cancel.stored",
    "cancel.stopped",
    "cancel.ended",
    # a commit, in the writer's thread
    "store.before_commit",
    "store.after_commit",
    # a sandbox's start; at `created` the engine has it and the store does not know, at `kept` it does
    "start.named",
    "disk.copied",
    "disk.mounted",
    "start.created",
    "start.kept",
    "start.attached",
    "start.running",
    "start.linked",
    "start.furnished",
    "start.active",
    # a sandbox that waits, and its claim
    "pool.made",
    "pool.claimed",
    "claim.kept",
    # a sandbox found again, and the first look at all of them
    "resume.inspected",
    "resume.started",
    "resume.linked",
    "adopt.listed",
    "adopt.done",
    # a change of stage, a deletion, what no row knows
    "stage.target_stored",
    "stage.paused",
    "stage.stopped",
    "disk.unmounted",
    "stage.stored",
    "delete.marked",
    "delete.destroyed",
    "disk.removed",
    "delete.done",
    "reap.destroyed",
    # copies
    "fork.copied",
    "fork.stored",
    "template.furnished",
    "template.kept",
    # an orderly end
    "stop.streams_ended",
    "stop.runs_let_go",
    "stop.pool_destroyed",
]

ALL: tuple[Moment, ...] = get_args(Moment)

_watcher: Callable[[Moment], None] | None = None


def passed(name: Moment) -> None:
    """Tells the watcher, if there is one, that this moment has come. From any thread; costs nothing without one."""
    if _watcher is not None:
        _watcher(name)


def watch(watcher: Callable[[Moment], None] | None) -> None:
    """From now on `watcher` is called at each moment, in the thread that passes it; None: nobody is."""
    global _watcher  # noqa: PLW0603 - one process, one story
    _watcher = watcher
