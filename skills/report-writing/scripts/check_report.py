#!/usr/bin/env python3
"""Looks through a report in Markdown for what its reader would stumble over.

    check_report.py REPORT

Prints a line for each, with its line number. Exit code 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*")
FENCE = re.compile(r"\s*(```|~~~)")
ROW = re.compile(r"\s*\|.*\|\s*")
RULE = re.compile(r"\s*\|(\s*:?-+:?\s*\|)+\s*")
CELL = re.compile(r"(?<!\\)\|")
LEFT_IN = re.compile(r"\b(TODO|FIXME|TBD|XXX|lorem ipsum)\b|<(?!!--)[A-Z][^<>]{3,}>", re.IGNORECASE)
SENTENCE = re.compile(r"[^.!?]+[.!?]+(?=\s|$)")
WORDS_LIMIT = 40


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    path = Path(sys.argv[1])
    found = sorted(faults(path.read_text(encoding="utf-8"), path.parent))
    print("\n".join(f"{path.name}:{line}: {what}" for line, what in found) if found else "nothing to stumble over")
    return 1 if found else 0


def faults(text: str, folder: Path) -> list[tuple[int, str]]:
    """Line numbers from 1, and what is there."""
    lines = without_code(text)
    told = [*headings(lines), *tables(lines)]
    for number, line in enumerate(lines, 1):
        for target in LINK.findall(line):
            place = unquote(target.partition("#")[0])
            if place and "://" not in place and not place.startswith("mailto:") and not (folder / place).exists():
                told.append((number, f"{place} is not there"))
        if left := LEFT_IN.search(line):
            told.append((number, f"a note to yourself was left in: {left[0]}"))
        if not ROW.fullmatch(line) and not HEADING.fullmatch(line):
            told += [
                (number, f"a sentence of {len(sentence.split())} words")
                for sentence in SENTENCE.findall(line)
                if len(sentence.split()) > WORDS_LIMIT
            ]
    return told


def without_code(text: str) -> list[str]:
    """Its lines; those of code are empty."""
    lines, is_code = [], False
    for line in text.splitlines():
        is_fence = FENCE.match(line) is not None
        lines.append("~" if is_code or is_fence else line)
        is_code ^= is_fence
    return lines


def headings(lines: list[str]) -> list[tuple[int, str]]:
    found = [(number, heading) for number, line in enumerate(lines, 1) if (heading := HEADING.fullmatch(line))]
    if not found or found[0][1][1] != "#":
        return [(1, "it does not begin with a title, a line with one #")]
    told = []
    for (number, heading), following in zip(found, [*found[1:], None], strict=True):
        end = following[0] if following else len(lines) + 1
        is_empty = not any(line.strip() for line in lines[number : end - 1])
        deeper = following is not None and len(following[1][1]) > len(heading[1])
        if is_empty and not deeper:
            told.append((number, f"there is nothing under {heading[2]!r}"))
        if following is not None and len(following[1][1]) > len(heading[1]) + 1:
            told.append((following[0], f"{following[1][2]!r} skips a level of headings"))
    if sum(heading[1] == "#" for _, heading in found) > 1:
        told.append((1, "it has more than one title"))
    return told


def tables(lines: list[str]) -> list[tuple[int, str]]:
    told, width = [], 0
    for number, line in enumerate(lines, 1):
        if not ROW.fullmatch(line):
            width = 0
            continue
        cells = len(CELL.split(line.strip().strip("|")))
        if not width:
            width = cells
            if number >= len(lines) or not RULE.fullmatch(lines[number]):
                told.append((number, "a table without the line under its header"))
        elif cells != width:
            told.append((number, f"a row with {cells} cells in a table of {width}"))
    return told


if __name__ == "__main__":
    sys.exit(main())
