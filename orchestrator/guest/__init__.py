"""The guest: our program inside every sandbox. Standard library of Python 3.9 only; imports nothing else of Corral.

It is started as the container's main process (under an init), as root with four capabilities, and serves the link
(`link.py`) over which the orchestrator commands it. Everything that is done for the model runs as the unprivileged user
`agent` in hands (`hand.py`). The folder is copied into images as the package `guest`, hence the relative imports.

    main.py         start, wiring, end
    frames.py       the link's framing; the orchestrator's end uses the same file
    reactor.py      one thread, one selector, timers
    link.py         accepts bridges, keeps streams and their flow control
    bridge.py       the attached process that hands its stdin and stdout to the guest
    services.py     what a stream can ask for
    calls.py        calls: identity, retained output, outcome
    processes.py    calls that run a process; killing whole trees
    cells.py        calls that run a cell in the Python interpreter
    transfers.py    what hands make for a stream: archives, watches; pumps.py brings it there
    reach.py        what people reach a sandbox by, imported at first use:
    terminals.py    a process with a pseudo-terminal
    forwards.py     connections to what listens inside
    watches.py      changes of files, in a hand
    outlets.py      connections of programs to outside, handed to the orchestrator
    trust.py        the authority that programs trust where it reads those
    usage.py        figures: CPU, memory, disk, processes
    trees.py        trees of processes, found and killed
    hands.py        the pool of processes dropped in advance (the guest's side)
    hand.py         such a process (the agent's side)
    file_tools.py   file operations, executed by a hand; archives.py those on whole trees
    interpreter.py  the stateful Python interpreter; charts.py catches matplotlib's pictures
    verdicts.py     what ended a call: the limits that it met
    cgroup.py       counters of memory and pids limits
"""
