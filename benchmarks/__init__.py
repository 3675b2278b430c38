"""What Corral costs, measured: each figure beside what a user has without it, in the same run (design 6).

    __main__.py     the runner: `python -m benchmarks`, which is what `make bench` calls
    figures.py      rows, their goals and verdicts; pure
    table.py        rows as a table for people and as JSON for programs
    plain_engine.py baselines: containers without Corral
    server.py       a Corral server of our own, and bare HTTP exchanges with it
    sandbox.py      sandboxes of our own, without a server
    start.py        rows: commands and the server, from the start of the process on
    launch.py       rows: a POST until the client sees the first tool result
    burst.py        rows: a hundred launches at once
    tool_calls.py   rows: a command, a Python cell
    transfers.py    rows: files in and out
    forks.py        rows: copies of environments, small and large
    pauses.py       rows: freezing a sandbox and going on
    event_log.py    rows: durable appends
    streams.py      rows: server-sent events; bare_stream.py is their baseline
    footprint.py    rows: memory of an idle sandbox, of many, and of stopped ones

A family of rows is a module with `run(plan) -> list[Row]`; it ends whatever it started.
"""
