"""The public API's types. No I/O; may import `orchestrator.errors` only.

What callers may write in several ways (legacy names, int64 as strings, enum case, short forms of the input) is brought
into one canonical form here and nowhere else. The steps of `orchestrator.wire.steps` are also the vocabulary of the
loop, the models and the tools.
"""
