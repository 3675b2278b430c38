"""Starts the guest as a plain process: `python -I -S local_guest.py REPOSITORY ROOT START_TIMEOUT_S guest-arguments…`.

Nothing is dropped and nothing isolated. Because there is no file system of its own either, archives that are to be
unpacked at `/` are unpacked at ROOT instead, and files are shown from there. Standard library only.
"""

from __future__ import annotations

import sys


def main() -> None:
    repository, root, start_timeout_s = sys.argv[1:4]
    del sys.argv[1:4]
    sys.path[:0] = [repository]
    from orchestrator.guest import file_tools, processes
    from orchestrator.guest import main as guest

    processes._START_TIMEOUT_S = float(start_timeout_s)

    extract = file_tools.OPERATIONS["extract"]

    def extract_below_root(arguments, source, sink):
        return extract(dict(arguments, target=root + arguments["target"].rstrip("/")), source, sink)

    def below_root(operation):
        def carry_out(arguments, source, sink):
            base = {"base": root} if "base" in arguments else {}
            return operation(dict(arguments, **base), source, sink)

        return carry_out

    file_tools.OPERATIONS["extract"] = extract_below_root
    for name in ("entries", "media", "measure", "begin_upload", "end_upload"):
        file_tools.OPERATIONS[name] = below_root(file_tools.OPERATIONS[name])
    guest.main()


main()
