#!/usr/bin/env python3
"""Checks the sources of a report in Markdown: claims `[1]` or `[1, 2]`, and a numbered list under a heading `Sources`.

    citations.py REPORT

Prints what is wrong, a line each. Exit code 1 if something is.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CITED = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\](?!\()")
HEADING = re.compile(r"#{1,6}\s+sources\s*#*\s*", re.IGNORECASE)
ENTRY = re.compile(r"\s*(?:\[(\d+)\]|(\d+)[.)])\s+(.*)")
ADDRESS = re.compile(r"https?://[^\s<>)\]]+")
CODE = re.compile(r"(`+).*?\1")
FENCE = re.compile(r"\s*(```|~~~)")
DATE = re.compile(r"\b(19|20)\d\d\b")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = faults(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(found) if found else "each citation has its source, each source is cited")
    return 1 if found else 0


def faults(text: str) -> list[str]:
    """What is wrong, in the order of the report."""
    body, sources = split(text.splitlines())
    if sources is None:
        return ["there is no heading 'Sources'"]
    entries = {}
    told = []
    for line in sources:
        if entry := ENTRY.fullmatch(line):
            number = int(entry[1] or entry[2])
            if number in entries:
                told.append(f"source {number} is listed twice")
            entries[number] = entry[3]
    cited = [int(each) for line in body for group in CITED.findall(CODE.sub("", line)) for each in group.split(",")]
    told += [f"[{number}] is cited, but not listed" for number in sorted(set(cited) - set(entries))]
    told += [f"source {number} is cited nowhere" for number in sorted(set(entries) - set(cited))]
    for number, entry in sorted(entries.items()):
        if not ADDRESS.search(entry):
            told.append(f"source {number} has no address")
        if not DATE.search(ADDRESS.sub("", entry)):
            told.append(f"source {number} has no date")
    addresses = Counter(address.rstrip(".,;/") for entry in entries.values() for address in ADDRESS.findall(entry))
    told += [f"{address} is listed {count} times" for address, count in addresses.items() if count > 1]
    if not entries:
        told.append("no source is listed")
    return told


def split(lines: list[str]) -> tuple[list[str], list[str] | None]:
    """What is said, without code, and the lines below the heading."""
    body: list[str] = []
    sources: list[str] | None = None
    is_code = False
    for line in lines:
        if FENCE.match(line):
            is_code = not is_code
        elif is_code:
            continue
        elif HEADING.fullmatch(line):
            sources = []
        elif sources is not None and line.startswith("#"):
            body.append(line)
        elif sources is not None:
            sources.append(line)
        else:
            body.append(line)
    return body, sources


if __name__ == "__main__":
    sys.exit(main())
