"""The `corral` command: one module per group of commands. Talks HTTP like anyone else; imports `config` and `errors`.

Three commands work on this machine instead, and import what they need inside: `serve`, `keys`, `doctor`. Everything
heavy is imported inside commands, so that `corral --help` stays quick.
"""
