"""The official Python SDK: `python -m tests.e2e.clients.python_sdk VERSION…`, an API version or `default`.

A story is called `VERSION NAME`. Stories in which versions of the API cannot differ are told of the first one only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.e2e.clients import (
    background,
    conversation,
    errors,
    files,
    functions,
    model,
    offered,
    repeats,
    resume,
    stateless,
    stream,
    structured,
    unary,
)
from tests.e2e.clients.observing import client
from tests.e2e.clients.telling import tell

Look = Callable[[Any], Any]

OF_EACH_VERSION: dict[str, Look] = {
    "unary": unary.look,
    "stream": stream.look,
    "background": background.look,
    "resume": resume.look,
    "conversation": conversation.look,
    "errors": errors.look,
}
OF_ONE_VERSION: dict[str, Look] = {
    "files": files.look,
    "functions": functions.look,
    "functions replayed": functions.look_replayed,
    "functions streamed": functions.look_streamed,
    "model": model.look,
    "stateless": stateless.look,
    "structured": structured.look,
    "offered": offered.look,
    "repeats": repeats.look,
}


def _look(version: str, look: Look) -> Any:
    return look(client(version))


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    told = [(first, name, look) for name, look in {**OF_EACH_VERSION, **OF_ONE_VERSION}.items()]
    told += [(version, name, look) for version in others for name, look in OF_EACH_VERSION.items()]
    tell({f"{version} {name}": partial(_look, version, look) for version, name, look in told})
